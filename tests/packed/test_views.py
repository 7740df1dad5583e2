"""Rules of `secondpass.packed.views`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from secondpass.packed.heads import Heads
from secondpass.packed.views import Views, spare_rows
from tests.packed.attending import LENGTHS, expected, first_of, packed_of, rows_of


@pytest.mark.parametrize("window", [None, 1, 8, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
def test_each_sequence_sees_itself_alone(lengths: Sequence[int], window: int | None) -> None:
    """Views reach into other sequences and into the spare rows, masks hide them; windows go by blocks of queries."""
    heads = Heads(3, 8, window)
    packed = packed_of(lengths)
    qkv = rows_of(packed, heads, spare_rows(packed.lengths))
    wanted = expected(qkv, packed, heads)
    views = Views(packed)
    made = views.all(qkv, heads)
    assert torch.allclose(made[: len(wanted)], wanted, atol=1e-5)
    assert not made[len(wanted) :].any()
    assert torch.allclose(views.first(*first_of(qkv, packed, heads), heads), wanted[packed.starts], atol=1e-5)


def test_one_layout_serves_heads_with_and_without_a_window() -> None:
    """As in a model whose layers take turns."""
    packed = packed_of((300, 20))
    views = Views(packed)
    qkv = rows_of(packed, Heads(2, 8), spare_rows(packed.lengths))
    for window in (None, 16, None, 5):
        heads = Heads(2, 8, window)
        assert torch.allclose(views.all(qkv, heads)[:320], expected(qkv, packed, heads), atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "spare"), [((16,), 0), ((20,), 12), ((20, 16), 0), ((20, 3), 13), ((17, 5, 5, 5, 5, 5), 11)]
)
def test_spare_rows_reach_to_the_end_of_every_view(lengths: Sequence[int], spare: int) -> None:
    """Never more than fifteen."""
    assert spare_rows(np.asarray(lengths)) == spare
