"""Rules of `secondpass.packed.layout`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from secondpass.packed.layout import moved, pack
from secondpass.tokens import Tokens


def _tokens(*ids: int) -> Tokens:
    return Tokens(np.asarray(ids, np.int32), np.arange(len(ids), dtype=np.int32))


def test_sequences_lie_end_to_end_longest_first() -> None:
    """Equal lengths in the given order; `order` leads back."""
    packed = pack([_tokens(1), _tokens(2, 3, 4), _tokens(5), _tokens(6, 7)], first_position=2)
    assert packed.ids.tolist() == [2, 3, 4, 6, 7, 1, 5]
    assert packed.types.tolist() == [0, 1, 2, 0, 1, 0, 0]
    assert packed.positions.tolist() == [2, 3, 4, 2, 3, 2, 2]
    assert packed.starts.tolist() == [0, 3, 5, 6]
    assert packed.order.tolist() == [1, 3, 0, 2]
    assert packed.lengths.tolist() == [3, 2, 1, 1]
    assert {tensor.dtype for tensor in (packed.ids, packed.types, packed.positions, packed.order)} == {torch.int64}


def test_on_the_cpu_nothing_moves() -> None:
    """The tensors are the same objects."""
    packed = pack([_tokens(1, 2)])
    assert moved(packed, torch.device("cpu")) is packed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_all_tensors_arrive() -> None:
    """Copied without waiting, and right when they are read."""
    packed = pack([_tokens(1, 2), _tokens(3)])
    there = moved(packed, torch.device("cuda"))
    assert there.ids.device.type == "cuda"
    assert there.ids.tolist() == packed.ids.tolist()
    assert there.order.tolist() == packed.order.tolist()
