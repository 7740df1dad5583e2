"""Which forward computes a model: the compiled kernel, torch without padding, or transformers' own.

The first that covers the model is taken, for the precision that was asked for. The model stays what it is: it may be
trained, moved, or given other weights, and the next batch is computed from what it is then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from secondpass.batches import Batch, Padding
from secondpass.errors import InvalidInput
from secondpass.packed.computing import EncoderComputation
from secondpass.packed.describing import describe
from secondpass.packed.encoder import Encoder
from secondpass.packed.plain import Watch
from secondpass.packed.rotary import RotaryEncoder
from secondpass.packed.rotary_computing import RotaryComputation
from secondpass.precision import Precision, agrees, precision_of
from secondpass.scoring import FULL_PRECISION, ForwardLock, TransformersForward
from secondpass.tokens import Tokens

Computation = Callable[[Sequence[Tokens]], torch.Tensor]
"""Model inputs to logits float32 [pairs, labels] on the CPU."""

Described = Encoder | RotaryEncoder
Settled = Literal["fp32", "bf16", "int8"]
DTYPES: dict[Settled, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}

# bfloat16 must save this share of the time before "auto" looks at its scores.
SAVING = 0.2
# Samples that are timed, and how often.
FEW = 4
TURNS = 4
# Below this width nothing is won, and what is measured is noise.
SMALLEST_HIDDEN = 128
# Whether bfloat16 saves that: measured once a process, so that one model is computed in one way.
_SAVES: dict[tuple[str, str, int], bool] = {}


@dataclass(frozen=True, slots=True)
class _Choice:
    """What computes the model as `watch` saw it: `computation`, or where that is None `padded`."""

    watch: Watch
    exact: bool
    dtype: torch.dtype
    padded: TransformersForward
    computation: Computation | None = None


class ModelForward:
    """The fastest forward of a model in the precision asked for, one batch at a time.

    "fp32" is always exact. "auto" computes in the type of the weights if that is a half one; else in float32, or in
    bfloat16 where that is faster and the model's own scores for `samples` agree with those of float32 (see
    `precision.agrees`). "bf16" computes the layers in bfloat16, embeddings and head in float32; the model's own weights
    stay as they are. "int8" needs the compiled kernel; a model that later turns into one which that cannot compute is
    computed in float32.

    Attributes:
        exact: compute in float32 for now, whatever `precision` says: scores of a model in training are compared with
            each other.

    Args:
        model: any `AutoModelForSequenceClassification`.
        input_names: of its tokenizer.
        padding: what it wants in unused places.
        precision: of the computation; None goes by the weights as they are, see `precision.precision_of`.
        samples: model inputs by which "auto" judges; without any it is exact.

    Raises:
        InvalidInput: "int8" where the kernel cannot compute this model.
    """

    def __init__(
        self,
        model: Any,
        input_names: Sequence[str],
        padding: Padding,
        precision: Precision | None = "auto",
        samples: Sequence[Tokens] = (),
    ) -> None:
        self._model = model
        self._names = tuple(input_names)
        self._padding = padding
        self._precision = precision
        self._samples = tuple(samples)
        self._lock = ForwardLock()
        self._choice: _Choice | None = None
        self.exact = False
        if precision == "int8" and self._current().dtype != torch.int8:
            raise InvalidInput(f"precision='int8': {why_no_int8(model)}; choose 'auto', 'bf16' or 'fp32'")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: what computes is made anew from the copy's model."""
        return {**self.__dict__, "_choice": None, "exact": False}

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        device: torch.device = self._model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the large matrix products; int8 where the kernel computes with that."""
        with self._lock:
            return self._current().dtype

    @property
    def pads(self) -> bool:
        """Whether transformers' own forward computes, which needs rectangles."""
        with self._lock:
            return self._current().computation is None

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        """-> logits float32 [pairs, labels] on the CPU."""
        with self._lock:
            choice = self._current()
            if choice.computation is None or full_precision:
                return choice.padded(batch, full_precision=full_precision or self._upcasts(choice))
            return self._apart(choice.computation, batch)

    def _upcasts(self, choice: _Choice) -> bool:
        """Whether float32 was asked of weights in half precision."""
        return choice.dtype in FULL_PRECISION and self._model.dtype not in FULL_PRECISION

    def _apart(self, computation: Computation, batch: Batch) -> torch.Tensor:
        """Logits of a batch; a pair that is not finite must not touch its neighbours, so such are computed alone."""
        inputs = batch.inputs
        if "token_type_ids" not in self._names:
            inputs = tuple(replace(item, type_ids=np.zeros_like(item.type_ids)) for item in inputs)
        logits = computation(inputs)
        wrong = (~torch.isfinite(logits).all(dim=1)).nonzero()[:, 0].tolist()
        if len(inputs) > 1 and wrong:
            logits = logits.clone()
            logits[wrong] = torch.cat([computation(inputs[row : row + 1]) for row in wrong])
        return logits

    def _current(self) -> _Choice:
        """What computes the model as it is now."""
        choice = self._choice
        if choice is None or choice.exact != self.exact or not choice.watch.unchanged():
            self._choice = None  # lets go of copies of the weights before new ones are made
            choice = self._choice = self._choose()
        return choice

    def _choose(self) -> _Choice:
        watch = Watch(self._model)
        encoder = describe(self._model)
        padded = TransformersForward(self._model, self._names, self._padding)
        asked = self._precision or precision_of(self._model.dtype)
        kept = asked == "auto" and self._model.dtype not in FULL_PRECISION
        if kept:
            own = None if encoder is None else _in_torch(encoder)
            return _Choice(watch, self.exact, self._model.dtype, padded, own)
        wanted: Precision = "fp32" if self.exact else asked
        if encoder is not None:
            settled = self._settled(encoder) if wanted == "auto" else wanted
            computation = computation_of(encoder, settled)
            if computation is not None:
                return _Choice(watch, self.exact, DTYPES[settled], padded, computation)
            return _Choice(watch, self.exact, torch.float32, padded, computation_of(encoder, "fp32"))
        if wanted == "bf16":
            padded = TransformersForward(self._model, self._names, self._padding, torch.bfloat16)
        return _Choice(watch, self.exact, DTYPES["bf16" if wanted == "bf16" else "fp32"], padded)

    def _settled(self, encoder: Described) -> Settled:
        """What "auto" means for these weights."""
        device = device_of(encoder).type
        if not self._samples or device not in ("cpu", "cuda") or encoder.hidden < SMALLEST_HIDDEN:
            return "fp32"
        exact, rounded = computation_of(encoder, "fp32"), computation_of(encoder, "bf16")
        if exact is None or rounded is None:
            return "fp32"
        place = (device, type(rounded).__name__, encoder.hidden)
        if place not in _SAVES:
            _SAVES[place] = _saved(rounded, exact, self._samples) > SAVING
        if _SAVES[place] and agrees(rounded(self._samples), exact(self._samples)):
            return "bf16"
        return "fp32"


def device_of(encoder: Described) -> torch.device:
    """Where the weights are."""
    return encoder.layers[0].qkv.weight.device


def computation_of(encoder: Described, precision: Settled) -> Computation | None:
    """The fastest there is, or None: int8 without the kernel."""
    if isinstance(encoder, Encoder) and device_of(encoder).type == "cpu":
        found = _kernel_of(encoder, precision)
        if found is not None:
            return found
    return None if precision == "int8" else _in_torch(encoder, DTYPES[precision])


def _in_torch(encoder: Described, dtype: torch.dtype | None = None) -> Computation:
    if isinstance(encoder, RotaryEncoder):
        return RotaryComputation(encoder, dtype)
    return EncoderComputation(encoder, dtype)


def _kernel_of(encoder: Encoder, precision: Settled) -> Computation | None:
    from secondpass.kernel import kernel_forward

    return kernel_forward(encoder, precision)


def _saved(rounded: Computation, exact: Computation, samples: Sequence[Tokens]) -> float:
    """The share of the exact computation's time that the rounded one saves, for some of the samples.

    By turns and at best, so that what else the machine does hits both or neither.
    """
    few = samples[:: max(1, len(samples) // FEW)]
    taken: dict[Computation, list[float]] = {rounded: [], exact: []}
    for _ in range(1 + TURNS):
        for computation, seconds in taken.items():
            began = time.perf_counter()
            computation(few)
            seconds.append(time.perf_counter() - began)
    # the first time warms up
    return 1 - min(taken[rounded][1:]) / min(taken[exact][1:])


def why_no_int8(model: Any) -> str:
    """What is missing for int8, in words."""
    kind = type(model).__name__
    encoder = describe(model)
    if not isinstance(encoder, Encoder) or encoder.buckets is not None:
        return f"{kind} is not covered by the compiled kernel"
    if device_of(encoder).type != "cpu":
        return "the compiled kernel is for CPUs"
    return "the compiled kernel is not in this installation, or not for this processor"
