"""Which way of attention a device is best at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from secondpass.packed.flash import Flash, has_varlen
from secondpass.packed.heads import Attention
from secondpass.packed.layout import Packed
from secondpass.packed.rectangles import ALIKE, Rectangles
from secondpass.packed.relative import RelativeAttention
from secondpass.packed.views import Views

# Share of tokens and most places of a rectangle with relative positions. On a CPU what lies between the products should
# stay in the cache; on a GPU it takes four numbers for each head and pair of tokens.
CPU_RELATIVE = (1.0, 512)
GPU_RELATIVE = (ALIKE, 16384)
# Rows are rounded up to a multiple of FINEST, and of the largest power of two of which that takes ENOUGH.
FINEST, ENOUGH = 16, 32


def attention_for(
    packed: Packed,
    device: torch.device,
    dtype: torch.dtype,
    head_size: int,
    buckets: npt.NDArray[np.int64] | None = None,
) -> Attention:
    """The best way for a device and a type; `buckets` of an encoder with relative positions."""
    if buckets is not None:
        return RelativeAttention(packed, buckets, *(CPU_RELATIVE if device.type == "cpu" else GPU_RELATIVE))
    if device.type == "cpu":
        return Views(packed)
    if has_varlen(device, dtype) and head_size % 8 == 0:
        return Flash(packed)
    return Rectangles(packed)


def rows_behind(packed: Packed, attention: Attention, dtype: torch.dtype) -> int:
    """Rows of zeros behind the tokens: what attention wants, and on a CPU in half precision some more.

    There torch prepares a product anew for each number of rows, which takes as long as some hundred rows do. So the
    rows are rounded up by at most a thirty-second, and few numbers come again and again.
    """
    tokens = len(packed.ids)
    rows = tokens + attention.spare
    if packed.ids.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        step = max(FINEST, 1 << max(0, (rows // ENOUGH).bit_length() - 1))
        rows = -(-rows // step) * step
    return rows - tokens
