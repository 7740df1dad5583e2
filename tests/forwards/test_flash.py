"""Rules of `secondpass.forwards.packed`, on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from secondpass.forwards.attention import Heads, moved
from secondpass.forwards.packed import Flash, has_varlen
from tests.forwards.attending import LENGTHS, expected, first_of, packed_of, rows_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_is_for_cuda_in_half_precision(dtype: torch.dtype) -> None:
    """Elsewhere another way is taken."""
    assert not has_varlen(torch.device("cpu"), dtype)
    assert not has_varlen(torch.device("cuda"), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("window", [None, 8, 64])
@pytest.mark.parametrize("lengths", LENGTHS, ids=len)
def test_flash_attention_sees_each_sequence_alone(lengths: Sequence[int], window: int | None) -> None:
    """To the precision of float16."""
    device = torch.device("cuda")
    if not has_varlen(device, torch.float16):
        pytest.skip("this torch or this card has no variable-length kernel")
    heads = Heads(3, 32, window)
    packed = packed_of(lengths)
    qkv = rows_of(packed, heads)
    wanted = expected(qkv, packed, heads)
    flash = Flash(moved(packed, device))
    there = qkv.to(device, torch.float16)
    assert torch.allclose(flash.all(there, heads).float().cpu(), wanted, atol=0.01)
    query, kv = first_of(there, packed, heads)
    assert torch.allclose(flash.first(query, kv, heads).float().cpu(), wanted[packed.starts], atol=0.01)
