"""Rules of `secondpass.packed.rectangles`: any device's way, checked on the CPU."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from secondpass.packed.heads import Heads
from secondpass.packed.rectangles import Rectangles
from tests.packed.attending import LENGTHS, expected, first_of, packed_of, rows_of


@pytest.mark.parametrize("window", [None, 1, 8, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
def test_padding_is_never_seen(lengths: Sequence[int], window: int | None) -> None:
    """Sequences of like length share a rectangle; each gets its own contexts."""
    heads = Heads(3, 8, window)
    packed = packed_of(lengths)
    qkv = rows_of(packed, heads)
    wanted = expected(qkv, packed, heads)
    rectangles = Rectangles(packed)
    assert torch.allclose(rectangles.all(qkv, heads), wanted, atol=1e-5)
    assert torch.allclose(rectangles.first(*first_of(qkv, packed, heads), heads), wanted[packed.starts], atol=1e-5)
