"""Batches to float32 logits: inference mode, finite check, out-of-memory halving.

`Forward` is the seam: whatever turns one `Batch` into logits can stand behind it, and the stages before and
after do not change.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from secondpass.batches import Batch, Padding, batch_of, pad
from secondpass.errors import InvalidInput, NonFiniteScore, OutOfMemory
from secondpass.tokens import Tokens

FULL_PRECISION = (torch.float32, torch.float64)

LOCKS: weakref.WeakSet[ForwardLock] = weakref.WeakSet()


def _after_fork() -> None:
    """Threads of OpenMP and of the tokenizer do not survive a fork, and the child would wait for them for ever."""
    if LOCKS:
        torch.set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for lock in LOCKS:
        lock.renew()


os.register_at_fork(after_in_child=_after_fork)


class ForwardLock:
    """Lets one thread at a time into a forward, so that they do not each take all cores or the device's memory.

    A copy and a forked child start with an open one: whoever holds the original is not there.
    """

    def __init__(self) -> None:
        # of whoever is inside, also when the lock was renewed meanwhile
        self._held: list[threading.Lock] = []
        self.renew()

    def renew(self) -> None:
        """Be open, whoever was inside."""
        self._lock = threading.Lock()
        LOCKS.add(self)

    def locked(self) -> bool:
        """Whether somebody is inside."""
        return self._lock.locked()

    def __enter__(self) -> None:
        lock = self._lock
        lock.acquire()
        self._held.append(lock)

    def __exit__(self, *error: object) -> None:
        self._held.pop().release()

    def __reduce__(self) -> tuple[type[ForwardLock], tuple[()]]:
        return ForwardLock, ()


class Forward(Protocol):
    """One model on one device."""

    @property
    def device(self) -> torch.device:
        """Where the logits are computed."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type of the large matrix products."""
        ...

    @property
    def pads(self) -> bool:
        """Whether a batch is computed as a padded rectangle; otherwise only real tokens cost."""
        ...

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        """-> logits float32 [pairs, labels] on the CPU; `full_precision` repeats the batch in float32."""
        ...


class TransformersForward:
    """transformers' own forward of a sequence-classification model, one batch at a time per model.

    Args:
        model: any `AutoModelForSequenceClassification`.
        input_names: of its tokenizer.
        padding: what it wants in unused places.
        autocast: a type of half precision for matrix products; None computes in the type of the weights.
    """

    pads = True

    def __init__(
        self, model: Any, input_names: Sequence[str], padding: Padding, autocast: torch.dtype | None = None
    ) -> None:
        self._model = model
        self._input_names = tuple(input_names)
        self._padding = padding
        self._autocast = autocast
        self._lock = ForwardLock()
        self._upcast_from: torch.dtype | None = None

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        device: torch.device = self._model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type computed in, also while one batch is repeated in float32."""
        dtype: torch.dtype = self._autocast or self._upcast_from or self._model.dtype
        return dtype

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        """-> logits float32 [pairs, labels] on the CPU."""
        with self._lock:
            if not full_precision:
                return self._logits(batch, self._autocast)
            self._upcast_from = self._model.dtype
            # Parameters and buffers by themselves: model.half() would also round what was float32 all along, such
            # as rotary frequencies. Not in inference mode: weights cast there could never be trained again.
            tensors = [tensor for tensor in self._tensors() if tensor.is_floating_point()]
            before = [tensor.data for tensor in tensors]
            try:
                for tensor in tensors:
                    tensor.data = tensor.data.float()
                return self._logits(batch, None)
            finally:
                for tensor, data in zip(tensors, before, strict=True):
                    tensor.data = data
                self._upcast_from = None

    def _tensors(self) -> Iterator[torch.Tensor]:
        yield from self._model.parameters()
        yield from self._model.buffers()

    def _logits(self, batch: Batch, autocast: torch.dtype | None) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(self.device.type, autocast) if autocast else nullcontext():
            inputs = pad(batch.inputs, self._padding).named(self._input_names, self.device)
            logits: torch.Tensor = self._model(**inputs, return_dict=True).logits
            return logits.float().cpu()


@dataclass
class Progress:
    """What happened while scoring, filled in as batches finish; `places` were computed, padding included."""

    batches: int = 0
    places: int = 0
    retries: int = 0


def score(
    forward: Forward,
    tokens: Sequence[Tokens],
    batches: Sequence[tuple[int, ...]],
    progress: Progress,
    step: Callable[[int], object] = lambda remaining: None,
) -> torch.Tensor:
    """Logits float32 [pairs, labels] in the order of `tokens`, for the rows in `batches`.

    `step` hears before the first batch and after each how many are left; what it raises ends the call.

    Raises:
        NonFiniteScore: a logit is NaN or infinite (below float32: also when repeated in float32).
        OutOfMemory: a single pair does not fit.
    """
    todo = list(reversed(batches))
    logits: torch.Tensor | None = None
    filled = 0
    step(len(todo))
    while todo:
        rows = todo.pop()
        batch = batch_of(tokens, rows)
        part = _attempt(forward, batch)
        if part is None:
            progress.retries += 1
            todo += _halves(batch)
            continue
        part = _finite(forward, batch, part, progress)
        if logits is None:
            logits = part.new_empty((len(tokens), part.shape[1]))
        logits[list(rows)] = part
        filled += len(rows)
        progress.batches += 1
        progress.places += batch.places if forward.pads else batch.tokens
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


def _halves(batch: Batch) -> list[tuple[int, ...]]:
    rows = batch.rows
    if len(rows) == 1:
        raise OutOfMemory(f"pair {rows[0]} alone, {batch.tokens} tokens, does not fit into memory")
    middle = len(rows) // 2
    return [rows[middle:], rows[:middle]]


def _finite(forward: Forward, batch: Batch, part: torch.Tensor, progress: Progress) -> torch.Tensor:
    """Repeat an overflowed batch of less precision once in float32, refuse what is still not finite."""
    if forward.dtype not in FULL_PRECISION and not bool(torch.isfinite(part).all()):
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
