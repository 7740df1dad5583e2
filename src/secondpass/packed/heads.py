"""What attention within the sequences of a batch is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from secondpass.packed.encoder import Relative


@dataclass(frozen=True, slots=True)
class Heads:
    """How a row of queries, keys and values is cut.

    `window` is how far a token sees to either side, None for all of its sequence; `relative` what distances add to
    scores, read by `relative.RelativeAttention` alone.
    """

    count: int
    size: int
    window: int | None = None
    relative: Relative | None = None

    @property
    def hidden(self) -> int:
        """Width of all heads side by side."""
        return self.count * self.size

    @property
    def shape(self) -> tuple[int, int]:
        """Of a row."""
        return self.count, self.size


class Attention(Protocol):
    """Attention for the layout of one batch.

    Attributes:
        spare: rows of zeros that it wants behind those of the tokens.
    """

    spare: int

    def all(self, qkv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Every token asks: rows of query, key and value [rows, 3 * hidden] to contexts [rows, hidden]."""
        ...

    def first(self, query: torch.Tensor, kv: torch.Tensor, heads: Heads) -> torch.Tensor:
        """First tokens ask: query [pairs, hidden], keys and values [rows, 2 * hidden] to contexts [pairs, hidden]."""
        ...
