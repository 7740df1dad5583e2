"""Rules of `secondpass.packed.attention`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secondpass.packed.attention import attention_for, rows_behind
from secondpass.packed.rectangles import Rectangles
from secondpass.packed.relative import RelativeAttention
from secondpass.packed.views import Views
from tests.packed.attending import packed_of


def test_the_way_suits_the_device() -> None:
    """Views of the matrix on a CPU, with rows behind it; rectangles where nothing better is known."""
    packed = packed_of((20, 3))
    assert isinstance(attention_for(packed, torch.device("cpu"), torch.float32, 32), Views)
    assert isinstance(attention_for(packed, torch.device("mps"), torch.float32, 32), Rectangles)
    assert isinstance(attention_for(packed, torch.device("cuda"), torch.float32, 32), Rectangles)
    assert attention_for(packed, torch.device("cpu"), torch.float32, 32).spare == 13
    assert attention_for(packed, torch.device("cuda"), torch.float32, 32).spare == 0


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_relative_positions_have_a_way_of_their_own(device: str) -> None:
    """On every device."""
    made = attention_for(packed_of((20, 3)), torch.device(device), torch.float32, 32, np.arange(64))
    assert isinstance(made, RelativeAttention)
    assert made.spare == 0


@pytest.mark.parametrize(
    ("tokens", "wanted"), [(1, 16), (16, 16), (110, 112), (1100, 1120), (5500, 5504), (8190, 8192)]
)
def test_few_numbers_of_rows_come_again_in_half_precision(tokens: int, wanted: int) -> None:
    """At most a thirty-second more; float32 and other devices take the rows as they are."""
    packed = packed_of((1,) * tokens)
    attention = Rectangles(packed)
    assert tokens + rows_behind(packed, attention, torch.bfloat16) == wanted
    assert tokens + rows_behind(packed, attention, torch.float16) == wanted
    assert rows_behind(packed, attention, torch.float32) == 0


def test_what_attention_wants_is_among_the_rows_behind() -> None:
    """Seventeen keys are seen in 32 rows."""
    packed = packed_of((17,))
    assert rows_behind(packed, Views(packed), torch.float32) == 15
    packed = packed_of((200, 17))
    assert rows_behind(packed, Views(packed), torch.bfloat16) == 240 - 217
