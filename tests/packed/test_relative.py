"""Rules of `secondpass.packed.relative`: every device's way, checked on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from secondpass.packed.encoder import Relative
from secondpass.packed.heads import Heads
from secondpass.packed.layout import Packed
from secondpass.packed.relative import RelativeAttention
from tests.packed.attending import LENGTHS, first_of, packed_of, rows_of

SPAN, ROWS = 24, 16
# each distance's row; several share one, as in a model
BUCKETS = (np.arange(2 * SPAN) * ROWS // (2 * SPAN)).astype(np.int64)


def _heads(keys: bool, queries: bool) -> Heads:
    random = torch.Generator().manual_seed(2)
    tables = [torch.randn(ROWS, 24, generator=random) if wanted else None for wanted in (keys, queries)]
    return Heads(3, 8, relative=Relative(*tables))


def _expected(qkv: torch.Tensor, packed: Packed, heads: Heads) -> torch.Tensor:
    """Contexts [tokens, hidden], a pair of tokens at a time."""
    relative = heads.relative
    assert relative is not None
    made = []
    for start, length in zip(packed.starts.tolist(), packed.lengths.tolist(), strict=True):
        query, key, value = qkv[start : start + length].view(length, 3, *heads.shape).double().unbind(1)
        distance = np.arange(length)[:, None] - np.arange(length)
        rows = BUCKETS[np.clip(distance, -SPAN, SPAN - 1) + SPAN]
        scores = torch.einsum("ihd,jhd->hij", query, key)
        parts = 1
        if relative.keys is not None:
            scores += torch.einsum(
                "ihd,ijhd->hij", query, relative.keys[rows].view(length, length, *heads.shape).double()
            )
            parts += 1
        if relative.queries is not None:
            scores += torch.einsum(
                "jhd,ijhd->hij", key, relative.queries[rows].view(length, length, *heads.shape).double()
            )
            parts += 1
        weights = (scores / (heads.size * parts) ** 0.5).softmax(-1)
        made.append(torch.einsum("hij,jhd->ihd", weights, value).flatten(1).float())
    return torch.cat(made)


@pytest.mark.parametrize(("keys", "queries"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("alike", "together"), [(1.0, 512), (1.0, 1), (0.8, 16384), (0.1, 64)])
@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
def test_each_pair_of_tokens_gets_what_its_distance_adds(
    lengths: Sequence[int], alike: float, together: int, keys: bool, queries: bool
) -> None:
    """Whatever shares a rectangle; sequences longer than distances go."""
    heads = _heads(keys, queries)
    packed = packed_of([min(length, 90) for length in lengths])
    qkv = rows_of(packed, heads)
    wanted = _expected(qkv, packed, heads)
    attention = RelativeAttention(packed, BUCKETS, alike, together)
    assert torch.allclose(attention.all(qkv, heads), wanted, atol=1e-5)
    assert torch.allclose(attention.first(*first_of(qkv, packed, heads), heads), wanted[packed.starts], atol=1e-5)
