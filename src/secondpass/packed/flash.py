"""Attention on CUDA in half precision: torch's variable-length flash kernel."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch

from secondpass.packed.heads import Heads
from secondpass.packed.layout import Packed


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch brings the variable-length flash kernel for this device and type."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    known = {"window_size", "num_splits", "seqused_k"} <= set(signature(varlen_attn).parameters)
    return known and torch.cuda.get_device_capability(device) >= (8, 0)


class Flash:
    """One call for all sequences.

    Keys are not split among blocks, so that a pair's score does not depend on the longest pair of the batch.
    """

    spare = 0

    def __init__(self, packed: Packed) -> None:
        from torch.nn.attention.varlen import varlen_attn

        self._attend: Any = varlen_attn
        self._starts = torch.cat([packed.starts, packed.starts.new_tensor([len(packed.ids)])]).int()
        self._firsts = torch.arange(len(self._starts), dtype=torch.int32, device=self._starts.device)
        self._longest = int(packed.lengths[0])

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks."""
        query, key, value = qkv.view(len(qkv), 3, *heads.shape).unbind(1)
        sees = (-1, -1) if heads.window is None else (heads.window, heads.window)
        bounds = (self._starts, self._starts, self._longest, self._longest)
        made: torch.Tensor = self._attend(query, key, value, *bounds, window_size=sees, num_splits=1)
        return made.flatten(1)

    def first(self, query: torch.Tensor, kv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """First tokens ask."""
        key, value = kv.view(len(kv), 2, *heads.shape).unbind(1)
        seen = None
        if heads.window is not None:
            seen = self._starts.diff().clamp(max=heads.window + 1).int()
        bounds = (self._firsts, self._starts, 1, self._longest)
        own = query.view(-1, *heads.shape)
        made: torch.Tensor = self._attend(own, key, value, *bounds, seqused_k=seen, num_splits=1)
        return made.flatten(1)
