"""Attention in plain words: each token asks those of its own sequence that it may see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from secondpass.forwards.attention import Heads, Packed, pack
from secondpass.tokens import Tokens

LENGTHS = ((1,), (5,), (16,), (17, 17, 17, 3), (600, 300, 300, 64, 33, 32, 31, 1, 1, 1), tuple(range(40, 0, -1)))


def packed_of(lengths: Sequence[int]) -> Packed:
    """Sequences of these lengths."""
    return pack([Tokens(np.zeros(n, np.int32), np.zeros(n, np.int32)) for n in lengths])


def rows_of(packed: Packed, heads: Heads, spare: int = 0) -> torch.Tensor:
    """Random queries, keys and values [rows, 3 * hidden]; spare rows are large but finite."""
    made = torch.randn(len(packed.ids) + spare, 3 * heads.hidden, generator=torch.Generator().manual_seed(1))
    made[len(packed.ids) :] = 1e4
    return made


def expected(qkv: torch.Tensor, packed: Packed, heads: Heads) -> torch.Tensor:
    """Contexts [tokens, hidden]."""
    made = []
    for start, length in zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True):
        own = qkv[start : start + length].view(length, 3, *heads.shape).permute(1, 2, 0, 3).double()
        scores = own[0] @ own[1].mT / heads.size**0.5
        if heads.window is not None:
            place = torch.arange(length)
            scores = scores.masked_fill((place - place[:, None]).abs() > heads.window, -torch.inf)
        made.append((scores.softmax(-1) @ own[2]).transpose(0, 1).flatten(1).float())
    return torch.cat(made)


def first_of(qkv: torch.Tensor, packed: Packed, heads: Heads) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries of first tokens [pairs, hidden], and all keys and values [rows, 2 * hidden]."""
    return qkv[packed.starts, : heads.hidden].clone(), qkv[:, heads.hidden :].contiguous()
