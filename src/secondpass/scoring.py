"""Batches to float32 logits: inference mode, finite check, out-of-memory halving.

`Forward` is the seam: whatever turns one `Batch` into logits can stand behind it, and the stages before and
after do not change.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from secondpass.batches import Batch, Padding, pad
from secondpass.errors import InvalidInput, NonFiniteScore, OutOfMemory
from secondpass.tokens import Tokens

HALF_PRECISION = (torch.float16, torch.bfloat16)

FORWARDS: weakref.WeakSet[TransformersForward] = weakref.WeakSet()


def _after_fork() -> None:
    """Threads of OpenMP and of the tokenizer do not survive a fork, and the child would wait for them for ever."""
    if FORWARDS:
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for forward in FORWARDS:
        forward.unlock()


os.register_at_fork(after_in_child=_after_fork)


class Forward(Protocol):
    """One model on one device."""

    @property
    def device(self) -> torch.device:
        """Where the logits are computed."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type the weights compute in."""
        ...

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        """-> logits float32 [pairs, labels] on the CPU; `full_precision` repeats the batch in float32."""
        ...


class TransformersForward:
    """transformers' own forward of a sequence-classification model, one batch at a time per model.

    The lock keeps threads from each taking all cores, or the device's memory, at once; it also makes a thread's
    result independent of what other threads do.
    """

    def __init__(self, model: Any, input_names: Sequence[str]) -> None:
        self._model = model
        self._input_names = tuple(input_names)
        self._lock = threading.Lock()
        self._upcast_from: torch.dtype | None = None
        FORWARDS.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.unlock()

    def unlock(self) -> None:
        """Start with a fresh lock: a copy's is nobody's, and a forked child's may be held by a thread it lacks."""
        self._lock = threading.Lock()
        FORWARDS.add(self)

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        device: torch.device = self._model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, also while one batch is repeated in float32."""
        dtype: torch.dtype = self._upcast_from or self._model.dtype
        return dtype

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        """-> logits float32 [pairs, labels] on the CPU."""
        with self._lock:
            if not full_precision:
                return self._logits(batch)
            self._upcast_from = self.dtype
            # Parameters and buffers by themselves: model.half() would also round what was float32 all along, such
            # as rotary frequencies. Not in inference mode: weights cast there could never be trained again.
            tensors = [tensor for tensor in self._tensors() if tensor.is_floating_point()]
            before = [tensor.data for tensor in tensors]
            try:
                for tensor in tensors:
                    tensor.data = tensor.data.float()
                return self._logits(batch)
            finally:
                for tensor, data in zip(tensors, before, strict=True):
                    tensor.data = data
                self._upcast_from = None

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self._model.parameters()
        yield from self._model.buffers()

    def _logits(self, batch: Batch) -> torch.Tensor:
        with torch.inference_mode():
            inputs = batch.named(self._input_names, self.device)
            logits: torch.Tensor = self._model(**inputs, return_dict=True).logits
            return logits.float().cpu()


@dataclass
class Progress:
    """What happened while scoring, filled in as batches finish."""

    batches: int = 0
    padded_tokens: int = 0
    retries: int = 0


def score(
    forward: Forward,
    tokens: Sequence[Tokens],
    batches: Sequence[tuple[int, ...]],
    padding: Padding,
    progress: Progress,
    step: Callable[[int], object] = lambda remaining: None,
) -> torch.Tensor:
    """Logits float32 [pairs, labels] in the order of `tokens`, for the rows in `batches`.

    `step` hears before the first batch and after each how many are left; what it raises ends the call.

    Raises:
        NonFiniteScore: a logit is NaN or infinite (in half precision: also when repeated in float32).
        OutOfMemory: a single pair does not fit.
    """
    todo = list(reversed(batches))
    logits: torch.Tensor | None = None
    filled = 0
    step(len(todo))
    while todo:
        rows = todo.pop()
        batch = pad(tokens, rows, padding)
        part = _attempt(forward, batch)
        if part is None:
            progress.retries += 1
            todo += _halves(rows, batch)
            continue
        part = _finite(forward, batch, part, progress)
        if logits is None:
            logits = part.new_empty((len(tokens), part.shape[1]))
        logits[list(rows)] = part
        filled += len(rows)
        progress.batches += 1
        progress.padded_tokens += batch.padded_tokens
        step(len(todo))
    expected = sum(map(len, batches))
    if logits is None or filled != expected:
        raise RuntimeError(f"{filled} scores for {expected} pairs")
    return logits


def _attempt(forward: Forward, batch: Batch, full_precision: bool = False) -> torch.Tensor | None:
    """Logits [pairs, labels], or None out of memory: the exception holds the tensors until we are outside it."""
    try:
        part = forward(batch, full_precision=full_precision)
    except (torch.OutOfMemoryError, MemoryError):
        part = None
    except RuntimeError as error:
        # The CPU allocator, cuBLAS and MPS report the same thing as a plain RuntimeError.
        if not _says_out_of_memory(error):
            raise
        part = None
    if part is None:
        _release(forward.device)
        return None
    if part.ndim != 2 or part.shape[0] != len(batch.rows):
        raise InvalidInput(f"the model gave logits of shape {tuple(part.shape)} for {len(batch.rows)} pairs")
    return part


def _says_out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "can't allocate memory", "cublas_status_alloc_failed"))


def _release(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _halves(rows: tuple[int, ...], batch: Batch) -> list[tuple[int, ...]]:
    if len(rows) == 1:
        raise OutOfMemory(f"pair {rows[0]} alone, {batch.tokens} tokens, does not fit into memory")
    middle = len(rows) // 2
    return [rows[middle:], rows[:middle]]


def _finite(forward: Forward, batch: Batch, part: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Repeat an overflowed half-precision batch once in float32, refuse what is still not finite."""
    if forward.dtype in HALF_PRECISION and not bool(torch.isfinite(part).all()):
        progress.retries += 1
        repeated = _attempt(forward, batch, full_precision=True)
        # Without memory for float32 the first answer stands, and is refused.
        part = part if repeated is None else repeated
    good = torch.isfinite(part).all(dim=1)
    if not bool(good.all()):
        wrong = tuple(sorted(row for row, fine in zip(batch.rows, good.tolist(), strict=True) if not fine))
        raise non_finite(wrong)
    return part


def non_finite(rows: tuple[int, ...]) -> NonFiniteScore:
    """Make the error that names these pairs."""
    return NonFiniteScore(f"the model gave NaN or infinity for pairs {list(rows)}", rows)
