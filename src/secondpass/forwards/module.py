"""The forward of a model of torch: by the compiled kernel, torch without padding, or transformers' own.

The first that covers the model is taken, for the precision that was asked for. The model stays what it is: it may be
trained, moved, or given other weights, and the next call is computed from what it is then.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.forwards.choosing import DTYPES, WHOLE, Settled, apart, settled, told_of
from secondpass.forwards.contract import FULL_PRECISION, Batching, Computation, Compute, ForwardLock, Padding
from secondpass.forwards.description import is_plain, mapped
from secondpass.forwards.families import describe, family_of
from secondpass.forwards.family import Description, Family
from secondpass.forwards.late import as_numpy, whole
from secondpass.forwards.padded import BatchProbe, TransformersForward, dtype_name, switching
from secondpass.forwards.precision import Precision, has_fast_bf16, precision_of
from secondpass.forwards.readout import ReadoutModel
from secondpass.tokens import Tokens

# Where modules come from whose results a model's config and weights tell, those of its own code among them.
TOLD = ("torch.nn.", "transformers.", "transformers_modules.", "secondpass.")
# Settings of a module that look alike in every process.
PLAIN = (bool, int, float, str, tuple, type(None))
# Elements of each weight that `Watch` looks at.
PROBES = 16


class Watch:
    """Tells whether a model changed since `Watch(model)`: weights, modules or hooks.

    Weights are compared by place in memory, by torch's count of in-place changes, and by a few elements of each: fused
    optimizers and changes through `weight.data` are not counted. It takes about a tenth of a millisecond for a model of
    six layers. A change through `weight.data` that spares all of these elements is not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = tuple(model.modules())
        # Held, so that no other tensor can come to lie where one of these was.
        self._weights = tuple(model.parameters())
        self._probes = _probes(self._weights)
        self._marks = self._look()
        self._elements = self._read()

    def unchanged(self) -> bool:
        """Whether all is as it was."""
        return self._look() == self._marks and all(map(torch.equal, self._read(), self._elements))

    def _read(self) -> list[torch.Tensor]:
        """The bits of the probed elements, uint8: NaN is equal to itself there."""
        with torch.inference_mode():
            return [torch.cat(probes).view(torch.uint8) for probes in self._probes]

    def _look(self) -> list[Any]:
        marks: list[Any] = []
        for module in self._modules:
            marks += [
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                # training puts other random numbers into dropout, which does nothing here
                None if isinstance(module, nn.Dropout) else id(module.__dict__.get("forward")),
                *map(id, module._modules.values()),
                *(
                    # tensors made in inference mode have no count, and cannot be changed outside of it
                    (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
                    for weight in module._parameters.values()
                    if weight is not None
                ),
            ]
        return marks


def _probes(weights: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Views of evenly spaced elements of each weight, together by device and type."""
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for weight in weights:
        if weight.is_contiguous() and weight.numel():
            flat = weight.detach().view(-1)
            probe = flat[:: max(1, len(flat) // PROBES)]
            groups.setdefault((weight.device, weight.dtype), []).append(probe)
    return list(groups.values())


@dataclass(frozen=True, slots=True)
class _Choice:
    """What computes the model as `watch` saw it."""

    watch: Watch
    exact: bool
    computation: Computation


@dataclass(frozen=True, slots=True)
class Described:
    """A model's weights and what its family makes of them."""

    family: Family[Any]
    weights: Description

    def by_kernel(self, precision: Settled) -> Compute | str:
        """By the compiled kernel, or a sentence that says why it cannot."""
        from secondpass.forwards.kernel import kernel_forward
        from secondpass.forwards.kernel.weights import unsupported

        encoder = self.family.for_kernel(self.weights)
        if encoder is None:
            return "the kernel cannot compute this family of models"
        if self.weights.device.type != "cpu":
            return "the kernel computes on the CPU"
        missing = unsupported(encoder)
        if missing is not None:
            return missing
        made = kernel_forward(lambda: mapped(encoder, as_numpy), precision)
        return made if isinstance(made, str) else whole(made, encoder)

    def fastest(self, precision: Settled) -> Compute | None:
        """The fastest way there is, or None: whole numbers without the kernel."""
        compute = self.by_kernel(precision)
        if not isinstance(compute, str):
            return compute
        dtype = getattr(torch, DTYPES[precision])
        return None if precision in WHOLE else self.family.in_torch(self.weights, dtype)

    def worth_trying(self, precision: Settled) -> Compute | str | None:
        """The fastest way, or what "auto" need not measure: torch's bfloat16 where the processor has none.

        There products take six times as long as in float32 (AVX2 alone), and to see that would take seconds.
        """
        compute = self.by_kernel(precision)
        if not isinstance(compute, str):
            return compute
        slow = precision == "bf16" and self.weights.device.type == "cpu" and not has_fast_bf16()
        return "bfloat16 is slow on this processor" if slow else self.fastest(precision)


def described(model: Any) -> Described | None:
    """A model's weights, where a family of ours covers it as it is now."""
    family, weights = family_of(model), describe(model)
    return None if family is None or weights is None else Described(family, weights)


def _digest(model: Any) -> str:
    """Of a model's class, config and numbers, which it reads all, and of how its readout is set, where it has one."""
    whole = hashlib.sha256(f"{type(model).__qualname__} {model.config.to_json_string()}".encode())
    for part in model.readout.modules() if isinstance(model, ReadoutModel) else ():
        plain = {name: value for name, value in vars(part).items() if isinstance(value, PLAIN) and name != "training"}
        whole.update(f"{type(part).__qualname__} {sorted(plain.items())} ".encode())
    for name, value in model.state_dict().items():
        whole.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        numbers = value.detach().cpu().contiguous().reshape(-1)
        whole.update(memoryview(numbers.view(torch.uint8).numpy()) if numbers.numel() else b"")
    return whole.hexdigest()


class ModelForward:
    """The fastest forward of a model in the precision asked for, one batch at a time.

    "fp32" is always exact. "auto" computes in the type of the weights if that is a half one; else in float32, or in
    bfloat16 or "int16" where that is faster and the model's own scores for `samples` agree with those of float32 (see
    `precision.agrees`). "bf16" computes the layers in bfloat16, embeddings and head in float32; the model's own weights
    stay as they are. "int16" and "int8" need the compiled kernel; a model that later turns into one which that cannot
    compute is computed in float32.

    Attributes:
        exact: compute in float32 for now, whatever `precision` says: scores of a model in training are compared with
            each other.

    Args:
        model: any `AutoModelForSequenceClassification`.
        input_names: of its tokenizer.
        padding: what it wants in unused places.
        precision: of the computation; None goes by the weights as they are, see `precision.precision_of`.
        samples: model inputs by which "auto" judges; without any it is exact.
        probes: inputs by which it is seen whether padding changes logits, once, when transformers' own forward is
            first needed; without any it is trusted.
        known: what computes the model as it is now, where that is known; it is kept until the model changes.

    Raises:
        InvalidInput: "int16" or "int8" where the kernel cannot compute this model.
    """

    def __init__(
        self,
        model: Any,
        input_names: Sequence[str],
        padding: Padding,
        precision: Precision | None = "auto",
        samples: Sequence[Tokens] = (),
        probes: Sequence[BatchProbe] = (),
        known: Computation | None = None,
    ) -> None:
        self._model = model
        self._names = tuple(input_names)
        self._padding = padding
        self._precision = precision
        self._samples = tuple(samples)
        self._probes = tuple(probes)
        self._seen: Batching | None = None
        self._lock = ForwardLock()
        self._choice = None if known is None else _Choice(Watch(model), False, known)
        self.exact = False
        if precision in WHOLE and self.ready().dtype != DTYPES[precision]:
            kind, own = type(model).__name__, described(model)
            missing = "the kernel does not know it, or it was changed" if own is None else own.by_kernel(precision)
            raise InvalidInput(f"precision={precision!r} for {kind}: {missing}; choose 'auto', 'bf16' or 'fp32'")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: what computes is made anew from the copy's model."""
        return {**self.__dict__, "_choice": None, "exact": False}

    def elsewhere(self, own: Computation) -> Callable[[str], Compute]:
        """What computes in another process, on a device, as `own` does here; it can be pickled."""
        made = copy.copy(self)
        if self._precision == "auto" and dtype_name(self._model.dtype) in FULL_PRECISION:
            made._precision = next(name for name, dtype in DTYPES.items() if dtype == own.dtype)
        return partial(_moved, made)

    def ready(self) -> Computation:
        """What computes the model as it is now; its dtype is int16 or int8 where the kernel computes with that."""
        with self._lock:
            choice = self._choice
            if choice is None or choice.exact != self.exact or not choice.watch.unchanged():
                self._choice = None  # lets go of copies of the weights before new ones are made
                choice = self._choice = _Choice(Watch(self._model), self.exact, self._chosen())
            return choice.computation

    def _chosen(self) -> Computation:
        own = described(self._model)
        asked = self._precision or precision_of(self._model.dtype)
        kept = asked == "auto" and dtype_name(self._model.dtype) not in FULL_PRECISION
        if kept:
            compute = None if own is None else own.family.in_torch(own.weights, None)
            return self._computation(dtype_name(self._model.dtype), compute)
        wanted: Precision = "fp32" if self.exact else asked
        if own is not None:
            choice = wanted
            if choice == "auto":
                choice, _ = settled(own.worth_trying, own.weights.device.type, own.weights.hidden, self._samples)
            compute = own.fastest(choice)
            if compute is not None:
                return self._computation(DTYPES[choice], compute)
            return self._computation(DTYPES["fp32"], own.fastest("fp32"))
        if wanted == "bf16":
            return self._computation(DTYPES["bf16"], None, torch.bfloat16)
        return self._computation(DTYPES["fp32"], None)

    def _computation(self, dtype: str, compute: Compute | None, autocast: torch.dtype | None = None) -> Computation:
        """By `compute`, or where that is None by transformers' own modules."""
        batching = "any" if compute is not None else self._batching()
        padded = TransformersForward(self._model, self._names, self._padding, autocast).ready()
        full_precision = padded.full_precision or padded.logits
        # float32 may be asked of weights in half precision
        chosen = full_precision if dtype in FULL_PRECISION else padded.logits
        if compute is not None:
            chosen = apart(compute, "token_type_ids" in self._names)
        return Computation(
            padded.device,
            dtype,
            pads=compute is None and batching == "any",
            logits=self._lock.around(chosen),
            full_precision=None if dtype in FULL_PRECISION else self._lock.around(full_precision),
            batching=batching,
            plan=getattr(compute, "plan", None),
            identity=self._identity(chosen if compute is None else compute, dtype),
            lock=self._lock,
        )

    def _identity(self, compute: Compute, dtype: str) -> Callable[[], str] | None:
        """None where weights and config do not tell all: hooks, adapters, which may be off, others' layers."""
        model = self._model
        if not is_plain(model, TOLD) or any(type(kept) is not torch.Tensor for kept in model.state_dict().values()):
            return None
        return cache(lambda: told_of(f"{_digest(model)} {self._names}", compute, f"{dtype} on {model.device}"))

    def _batching(self) -> Batching:
        """Which inputs may share a batch of transformers' own forward."""
        config = self._model.config
        if config.get_text_config().pad_token_id is None and not isinstance(self._model, ReadoutModel):
            return "single"  # a classifier of a decoder, which scores at the very last place takes one pair at a time
        if switching(self._model) is not None and config.attention_type != "original_full":
            return "equal"
        if self._seen is None:
            own = TransformersForward(self._model, self._names, self._padding).ready()
            try:
                seen = {item.batching(own.logits, self._model.dtype) for item in self._probes}
            except ModelLoadError as error:
                raise ModelLoadError(f"{type(self._model).__name__}: {error}") from None
            except Exception as error:  # model classes fail in their own ways
                reason = " ".join(str(error).split()) or type(error).__name__
                raise ModelLoadError(f"{type(self._model).__name__} cannot score a pair: {reason}") from error
            self._seen = "equal" if "equal" in seen else "any"
        return self._seen


def _moved(forward: ModelForward, device: str) -> Compute:
    if device != "cpu":
        forward._model.to(device)
    return forward.ready().logits
