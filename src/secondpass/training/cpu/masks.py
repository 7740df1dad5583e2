"""Random numbers of dropout at a fifth of a nanosecond a byte, instead of torch's twenty for each element.

Dropout: Srivastava et al. 2014, scaled while training, as in torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from secondpass.errors import InvalidInput

# Each element is decided by 16 random bits.
LEVELS = 2**16

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class DropoutSource:
    """The random numbers of dropout of one run: numpy's SFC64 (O'Neill's family, passes PractRand).

    What is drawn depends on the seed and on the calls before, not on threads or their number.

    Attributes:
        generator: its state is all the state there is.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        self.generator = np.random.Generator(np.random.SFC64(seed))

    def keep(self, shape: Sequence[int], share: float) -> torch.Tensor:
        """Draw a mask.

        Args:
            shape: of the mask.
            share: of the elements that are dropped, from 0 to 1; it is rounded to a multiple of 2**-16.

        Returns:
            bool of `shape`, True for what is kept.
        """
        count = math.prod(shape)
        words = self.generator.bit_generator.random_raw((count + 3) // 4)
        mask = words.view(np.uint16)[:count] >= levels_dropped(share)
        return torch.from_numpy(mask).view(tuple(shape))

    def as_json(self) -> dict[str, Any]:
        """Where the random numbers stand, as plain values."""
        state = self.generator.bit_generator.state
        return {
            "bit_generator": state["bit_generator"],
            "words": [int(word) for word in state["state"]["state"]],
            "has_uint32": int(state["has_uint32"]),
            "uinteger": int(state["uinteger"]),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `as_json` gave.

        Raises:
            InvalidInput: `state` is no such state.
        """
        try:
            words = np.array(state["words"], dtype=np.uint64)
            if state["bit_generator"] != "SFC64" or words.shape != (4,):
                raise ValueError("four words of SFC64 are needed")
            self.generator.bit_generator.state = {
                "bit_generator": "SFC64",
                "state": {"state": words},
                "has_uint32": int(state["has_uint32"]),
                "uinteger": int(state["uinteger"]),
            }
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInput(f"this is no state of a dropout source: {error}") from error


def levels_dropped(share: float) -> int:
    """How many of the 65536 values of 16 bits drop an element."""
    return round(share * LEVELS)


def factor(share: float) -> float:
    """By which the kept elements grow, so that the mean stays: 1 over the exact probability that one is kept."""
    kept = LEVELS - levels_dropped(share)
    return LEVELS / kept if kept else 0.0


def zeroed(tensor: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Set the elements that are not kept to zero, in place.

    The bits are multiplied as integers, by 0 or 1: `masked_fill_` branches on every element and takes four times as
    long, and a product of float and bool ten times.
    """
    bits = _INTEGERS[tensor.element_size()]
    tensor.view(bits).mul_(keep.view(torch.uint8).to(bits))
    return tensor


def dropped(x: torch.Tensor, share: float, source: DropoutSource) -> torch.Tensor:
    """Drop out elements of a float tensor on the CPU; the gradient meets the same mask."""
    keep = source.keep(x.shape, share)
    made: torch.Tensor = _Dropped.apply(x, keep, factor(share))  # type: ignore[no-untyped-call]
    return made


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, keep: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return zeroed(x * scale, keep)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (keep,) = ctx.saved_tensors
        return zeroed(grad * ctx.scale, keep), None, None
