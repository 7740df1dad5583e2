"""transformers' own forward, which reads padded rectangles; and what torch's forwards hand to the stages as numpy's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secondpass.errors import ModelLoadError
from secondpass.forwards.contract import FULL_PRECISION, Batching, Computation, Compute, ForwardLock, Logits, Padding
from secondpass.tokens import Tokens

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed")


@dataclass(frozen=True, slots=True)
class PaddedInputs:
    """One rectangle: `input_ids`, `attention_mask` and `token_type_ids` are int64 [pairs, width]."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor

    def named(self, names: Sequence[str], device: torch.device) -> dict[str, torch.Tensor]:
        """Those of the three tensors that a model takes (`names` is its tokenizer's list), on its device."""
        tensors = {"input_ids": self.input_ids.to(device), "attention_mask": self.attention_mask.to(device)}
        return tensors | ({"token_type_ids": self.token_type_ids.to(device)} if "token_type_ids" in names else {})


def pad(inputs: Sequence[Tokens], padding: Padding) -> PaddedInputs:
    """Lay inputs, at least one, into one rectangle."""
    width = max(len(item) for item in inputs)
    ids = np.full((len(inputs), width), padding.token_id, dtype=np.int64)
    types = np.full_like(ids, padding.type_id)
    mask = np.zeros_like(ids)
    for number, item in enumerate(inputs):
        place = slice(width - len(item), width) if padding.left else slice(0, len(item))
        ids[number, place] = item.ids
        types[number, place] = item.type_ids
        mask[number, place] = 1
    return PaddedInputs(torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types))


def padded_logits(model: Any, inputs: Sequence[Tokens], names: Sequence[str], padding: Padding) -> torch.Tensor:
    """What transformers' own forward makes of one rectangle: [pairs, labels], of the model's type and on its device."""
    logits: torch.Tensor = model(**pad(inputs, padding).named(names, model.device), return_dict=True).logits
    return logits


# ---- Whether padding and neighbours change a pair's logits.
#
# An attention mask hides padding from attention alone: convolutions, Fourier transforms, landmarks, recurrences and
# absolute positions behind padding on the left may read it, and a pooled place may be counted from the wrong end.
#
# Difference of logits, for those between -1 and 1, that is rounding: in float32, and in units of a half type's own.
ROUNDING = 1e-4
HALF_ROUNDING = 16


@dataclass(frozen=True, slots=True)
class BatchProbe:
    """Inputs to see by how a batch changes logits: `pairs` are of one length, `longer` have 1 and 17 tokens more."""

    pairs: tuple[Tokens, ...]
    longer: tuple[Tokens, ...]

    def batching(self, compute: Compute, dtype: torch.dtype) -> Batching:
        """Which inputs may share a batch of `compute`, a forward that pads and computes in `dtype`.

        Raises:
            ModelLoadError: it gives the same input other logits each time, or lets inputs of equal length change each
                other's.
        """
        tolerance = ROUNDING if dtype.itemsize >= 4 else HALF_ROUNDING * torch.finfo(dtype).eps
        equal = compute(self.pairs)
        most = tolerance * np.maximum(1.0, np.abs(equal))

        def same(logits: Logits) -> bool:
            right = np.abs(logits - equal[: len(logits)]) <= most[: len(logits)]
            return bool((right | ~np.isfinite(equal[: len(logits)])).all())

        padded = all(same(compute([item, *self.pairs])[1:]) for item in self.longer)
        if not same(compute(self.pairs)):
            raise ModelLoadError("the model gives the same pair another score each time")
        if not same(compute(self.pairs[:1])):
            raise ModelLoadError("the model's score of a pair depends on the other pairs of its batch")
        return "any" if padded else "equal"


def switching(model: Any) -> Any | None:
    """The part of a model (BigBird's) that goes over from sparse to full attention at a short input, for good."""
    return next((module for module in model.modules() if hasattr(module, "set_attention_type")), None)


def dtype_name(dtype: torch.dtype) -> str:
    """What a `Computation` calls a type of torch: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def as_numpy(compute: Callable[[], torch.Tensor], device: torch.device) -> Logits:
    """What `compute` gives, float32 on the CPU; raises MemoryError if `device` has no room, its cache then let go."""
    try:
        return compute().float().cpu().numpy()
    except torch.OutOfMemoryError:
        pass
    except RuntimeError as error:
        # The CPU allocator, cuBLAS and MPS report the same thing as a plain RuntimeError.
        if not any(sign in str(error).lower() for sign in OUT_OF_MEMORY):
            raise
    # Outside the handlers: the exception holds the tensors.
    _release(device)
    raise MemoryError(f"the batch does not fit into the memory of {device}")


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


class TransformersForward:
    """transformers' own forward of a sequence-classification model, one batch at a time per model.

    `autocast` is a type of half precision for matrix products, None computes in the type of the weights; all else is as
    in `ModelForward`.
    """

    def __init__(
        self, model: Any, input_names: Sequence[str], padding: Padding, autocast: torch.dtype | None = None
    ) -> None:
        self._model = model
        self._input_names = tuple(input_names)
        self._padding = padding
        self._autocast = autocast
        self._switching = switching(model)
        self._lock = ForwardLock()

    def ready(self) -> Computation:
        """Where the model is now, and its type."""
        # not while a batch is repeated: the weights are of another type for so long
        with self._lock:
            device, dtype = str(self._model.device), dtype_name(self._autocast or self._model.dtype)
        return Computation(
            device,
            dtype,
            pads=True,
            logits=self._lock.around(self._in_own_type),
            full_precision=None if dtype in FULL_PRECISION else self._lock.around(self._in_float32),
            lock=self._lock,
        )

    def _in_own_type(self, inputs: Sequence[Tokens]) -> Logits:
        return as_numpy(lambda: self._logits(inputs, self._autocast), self._model.device)

    def _in_float32(self, inputs: Sequence[Tokens]) -> Logits:
        return as_numpy(lambda: self._upcast(inputs), self._model.device)

    def _upcast(self, inputs: Sequence[Tokens]) -> torch.Tensor:
        # Parameters and buffers by themselves: model.half() would also round what was float32 all along, such
        # as rotary frequencies. Not in inference mode: weights cast there could never be trained again.
        every = (*self._model.parameters(), *self._model.buffers())
        tensors = [tensor for tensor in every if tensor.is_floating_point()]
        before = [tensor.data for tensor in tensors]
        try:
            for tensor in tensors:
                tensor.data = tensor.data.float()
            return self._logits(inputs, None)
        finally:
            for tensor, data in zip(tensors, before, strict=True):
                tensor.data = data

    def _logits(self, inputs: Sequence[Tokens], autocast: torch.dtype | None) -> torch.Tensor:
        device = self._model.device.type
        if self._switching is not None:
            self._switching.set_attention_type(self._model.config.attention_type)
        with torch.inference_mode(), torch.autocast(device, autocast) if autocast else nullcontext():
            return padded_logits(self._model, inputs, self._input_names, self._padding)
