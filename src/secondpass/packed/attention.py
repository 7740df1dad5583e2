"""Which way of attention a device is best at."""

from __future__ import annotations

import torch

from secondpass.packed.flash import Flash, has_varlen
from secondpass.packed.heads import Attention
from secondpass.packed.layout import Packed
from secondpass.packed.rectangles import Rectangles
from secondpass.packed.views import Views, spare_rows


def attention_for(packed: Packed, device: torch.device, dtype: torch.dtype, head_size: int) -> Attention:
    """The best way for a device and a type."""
    if device.type == "cpu":
        return Views(packed)
    if has_varlen(device, dtype) and head_size % 8 == 0:
        return Flash(packed)
    return Rectangles(packed)


def rows_behind(packed: Packed, device: torch.device) -> int:
    """Rows of zeros that attention wants behind the tokens."""
    return spare_rows(packed.lengths) if device.type == "cpu" else 0
