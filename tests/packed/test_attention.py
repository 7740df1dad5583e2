"""Rules of `secondpass.packed.attention`."""

from __future__ import annotations

import torch

from secondpass.packed.attention import attention_for, rows_behind
from secondpass.packed.rectangles import Rectangles
from secondpass.packed.views import Views
from tests.packed.attending import packed_of


def test_the_way_suits_the_device() -> None:
    """Views of the matrix on a CPU, with rows behind it; rectangles where nothing better is known."""
    packed = packed_of((20, 3))
    assert isinstance(attention_for(packed, torch.device("cpu"), torch.float32, 32), Views)
    assert isinstance(attention_for(packed, torch.device("mps"), torch.float32, 32), Rectangles)
    assert isinstance(attention_for(packed, torch.device("cuda"), torch.float32, 32), Rectangles)
    assert rows_behind(packed, torch.device("cpu")) == 13
    assert rows_behind(packed, torch.device("cuda")) == 0
