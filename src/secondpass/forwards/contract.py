"""What a model that computes says, once a call, and how batches become float32 logits from that.

Arrays are numpy's: a forward that does not use torch need not import it. Whatever turns model inputs into logits can
stand behind `Forward`, and the stages before and after do not change.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput, NonFiniteScore, OutOfMemory
from secondpass.system import at_fork
from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass reads: `rows` are the positions of the `inputs` in the call's input."""

    rows: tuple[int, ...]
    inputs: tuple[Tokens, ...]

    @property
    def tokens(self) -> int:
        """Real tokens."""
        return sum(map(len, self.inputs))

    @property
    def places(self) -> int:
        """Places of the rectangle that holds the inputs, padding included."""
        return len(self.inputs) * max(map(len, self.inputs))


def plan(
    lengths: Sequence[int],
    max_batch_tokens: int,
    max_pairs: int,
    padded: bool = True,
    equal: bool = False,
    order: Sequence[int] | None = None,
) -> list[tuple[int, ...]]:
    """Positions of each batch, longest first or in an `order`: tokens stay under the budget, pairs under `max_pairs`.

    Sorted by true length so that padding is small; longest first, so that a batch that does not fit into
    memory is met at the start. A pair longer than the budget gets a batch of its own. The queue rule is
    text-embeddings-inference's. `padded` counts the places of the rectangle that holds a batch, otherwise real tokens.
    `equal` lets only inputs of one length share a batch.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row]) if order is None else order
    made: list[tuple[int, ...]] = []
    start = 0
    while start < len(order):
        size, filled = 1, lengths[order[start]]
        for row in order[start + 1 : start + max_pairs]:
            filled += lengths[order[start]] if padded else lengths[row]
            if filled > max_batch_tokens or (equal and lengths[row] != lengths[order[start]]):
                break
            size += 1
        made.append(tuple(order[start : start + size]))
        start += size
    return made


def batch_of(tokens: Sequence[Tokens], rows: Sequence[int]) -> Batch:
    """The batch of `tokens[row]` for every row."""
    return Batch(tuple(rows), tuple(tokens[row] for row in rows))


@dataclass(frozen=True, slots=True)
class Padding:
    """What a model wants in the unused places, and on which side."""

    token_id: int
    type_id: int = 0
    left: bool = False


def padding_of(fast_tokenizer: Any) -> Padding:
    """What a transformers tokenizer puts into the unused places of a batch."""
    left = fast_tokenizer.padding_side == "left"
    return Padding(fast_tokenizer.pad_token_id, fast_tokenizer.pad_token_type_id, left)


Logits = npt.NDArray[np.float32]
"""[pairs, labels], in the order of the inputs."""

Compute = Callable[[Sequence[Tokens]], Logits]
"""Model inputs, at least one, to logits; raises `MemoryError` where they do not fit together."""

Plan = Callable[[Sequence[Tokens], int], list[tuple[int, ...]]]
"""Positions of each batch, of inputs and a budget of tokens."""

FULL_PRECISION = ("float32", "float64")

Batching = Literal["any", "equal", "single"]
"""Which inputs may share a batch: of any lengths, of one length, or each by itself."""

LOCKS: weakref.WeakSet[ForwardLock] = weakref.WeakSet()
# How often a thread that waits looks whether it still wants to.
LOOK_S = 0.01


def _after_fork() -> None:
    """Threads of OpenMP and of the tokenizer do not survive a fork, and the child would wait for them for ever."""
    if LOCKS:
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for lock in LOCKS:
        lock.renew()


at_fork(after_in_child=_after_fork)


class ForwardLock:
    """Lets one thread at a time into a forward, so that they do not each take all cores or the device's memory.

    Whoever is inside may come in again. Nobody stands in line: to hand the model over to the next thread at each batch
    costs callers of small batches a third of their speed. A copy and a forked child start with an open one: whoever
    holds the original is not there.
    """

    def __init__(self) -> None:
        # of whoever is inside, also when the lock was renewed meanwhile
        self._held: list[threading.RLock] = []
        self.renew()

    def renew(self) -> None:
        """Be open, whoever was inside."""
        self._lock = threading.RLock()
        LOCKS.add(self)

    def locked(self) -> bool:
        """Whether somebody is inside."""
        return self._lock in self._held

    def around(self, compute: Compute) -> Compute:
        """The same, one thread at a time."""

        def alone(inputs: Sequence[Tokens]) -> Logits:
            with self:
                return compute(inputs)

        return alone

    def acquire(self, seconds: Callable[[], float] | None = None) -> bool:
        """Come in, or tell that this took longer than `seconds` says, which is asked again now and then."""
        lock = self._lock
        while not lock.acquire(timeout=-1 if seconds is None else max(0.0, min(seconds(), LOOK_S))):
            if seconds is not None and seconds() <= 0:
                return False
        self._held.append(lock)
        return True

    def release(self) -> None:
        """Go out."""
        self._held.pop().release()

    @contextmanager
    def within(self, seconds: Callable[[], float]) -> Iterator[bool]:
        """As `acquire`, and out again."""
        came = self.acquire(seconds)
        try:
            yield came
        finally:
            if came:
                self.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()

    def __reduce__(self) -> tuple[type[ForwardLock], tuple[()]]:
        return ForwardLock, ()


@dataclass(frozen=True, slots=True)
class Computation:
    """A model as it was when it was asked; what its weights become later is the next call's.

    Attributes:
        device: where the logits are computed, as torch names it: "cpu", "cuda:0".
        dtype: of the large matrix products: "float32", "bfloat16", "int16", "int8".
        pads: a batch is computed as a padded rectangle; otherwise only real tokens cost.
        logits: of a batch.
        full_precision: the same in float32, for a batch that overflows in less; None where `logits` is as exact.
        batching: which inputs may share a batch without changing each other's logits.
        plan: puts inputs that share work side by side, in batches of at most so many tokens; None: see `plan`.
        identity: stands for the weights and how they are computed, where that can be told: of equal ones logits are
            equal for ever.
        lock: lets one thread at a time compute `logits`; None: nothing does.
        start: begins a batch, where several are computed at a time.
        workers: how many are.
    """

    device: str
    dtype: str
    pads: bool
    logits: Compute
    full_precision: Compute | None = None
    batching: Batching = "any"
    plan: Plan | None = None
    identity: Callable[[], str] | None = None
    lock: ForwardLock | None = None
    start: Callable[[Sequence[Tokens]], Future[Logits]] | None = None
    workers: int = 1

    def turn(self, seconds: Callable[[], float]) -> AbstractContextManager[bool]:
        """Keep the model for this thread, or tell that others kept it for as long as `seconds` says, see `acquire`."""
        return nullcontext(True) if self.lock is None else self.lock.within(seconds)


class Forward(Protocol):
    """One model on one device; any number of threads may ask it."""

    def ready(self) -> Computation:
        """Tell how the model is computed now. Asked once a call, so it may take time to see what changed."""
        ...


@runtime_checkable
class PortableForward(Forward, Protocol):
    """One that other processes can compute by, too."""

    def elsewhere(self, own: Computation) -> Callable[[str], Compute]:
        """What gives, in another process and for a device there, what `own` computes here; it can be pickled."""
        ...


@dataclass
class Progress:
    """What happened while scoring, filled in as batches finish; `places` were computed, padding included."""

    batches: int = 0
    places: int = 0
    retries: int = 0


def score(
    computation: Computation,
    tokens: Sequence[Tokens],
    batches: Sequence[tuple[int, ...]],
    progress: Progress,
    step: Callable[[int], object] = lambda remaining: None,
) -> Logits:
    """Logits float32 [pairs, labels] in the order of `tokens`, for the rows in `batches`; other rows are undefined.

    `step` hears before the first batch and after each how many are left; what it raises ends the call.

    Raises:
        NonFiniteScore: a logit is NaN or infinite (below float32: also when repeated in float32).
        OutOfMemory: a single pair does not fit.
    """
    todo, left = list(reversed(batches)), len(batches)
    logits: Logits | None = None
    filled = 0
    step(left)
    with closing(_attempts(computation, tokens, todo)) as attempts:
        for batch, computed in attempts:
            rows = batch.rows
            if computed is None:
                progress.retries += 1
                todo += _halves(batch)
                left += 1
                continue
            part = _finite(computation, batch, computed, progress)
            left -= 1
            if logits is None:
                logits = np.empty((len(tokens), part.shape[1]), np.float32)
            logits[list(rows)] = part
            filled += len(rows)
            progress.batches += 1
            progress.places += batch.places if computation.pads else batch.tokens
            step(left)
    expected = sum(map(len, batches))
    if logits is None or filled != expected:
        raise RuntimeError(f"{filled} scores for {expected} pairs")
    return logits


def _attempts(
    computation: Computation, tokens: Sequence[Tokens], todo: list[tuple[int, ...]]
) -> Generator[tuple[Batch, Logits | None]]:
    """What each batch of `todo` gives, the last first; as many at a time as there are workers, and one in reserve."""
    start, running = computation.start, dict[Future[Logits], Batch]()
    try:
        while todo or running:
            while todo and (start is None or len(running) <= computation.workers):
                batch = batch_of(tokens, todo.pop())
                if start is None:
                    yield batch, _attempt(partial(computation.logits, batch.inputs), batch)
                else:
                    running[start(batch.inputs)] = batch
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                batch = running.pop(done)
                yield batch, _attempt(done.result, batch)
    finally:
        for future in running:
            future.cancel()


def _attempt(compute: Callable[[], Logits], batch: Batch) -> Logits | None:
    """Logits [pairs, labels], or None out of memory."""
    try:
        part = compute()
    except MemoryError:
        return None
    if part.ndim != 2 or part.shape[0] != len(batch.rows):
        raise InvalidInput(f"the model gave logits of shape {tuple(part.shape)} for {len(batch.rows)} pairs")
    return part


def _halves(batch: Batch) -> list[tuple[int, ...]]:
    rows = batch.rows
    if len(rows) == 1:
        raise no_room(rows[0], batch.tokens)
    middle = len(rows) // 2
    return [rows[middle:], rows[:middle]]


def _finite(computation: Computation, batch: Batch, part: Logits, progress: Progress) -> Logits:
    """Repeat an overflowed batch of less precision once in float32, refuse what is still not finite."""
    if computation.full_precision is not None and not np.isfinite(part).all():
        progress.retries += 1
        repeated = _attempt(partial(computation.full_precision, batch.inputs), batch)
        # Without memory for float32 the first answer stands, and is refused.
        part = part if repeated is None else repeated
    good = np.isfinite(part).all(axis=1)
    if not good.all():
        wrong = tuple(sorted(batch.rows[place] for place in np.flatnonzero(~good)))
        raise non_finite(wrong)
    return part


Integers = npt.NDArray[np.int32]


def end_to_end(inputs: Sequence[Tokens]) -> tuple[Integers, Integers]:
    """Ids and token types of inputs, at least one, each [tokens]."""
    ids = np.ascontiguousarray(np.concatenate([item.ids for item in inputs]), dtype=np.int32)
    return ids, np.ascontiguousarray(np.concatenate([item.type_ids for item in inputs]), dtype=np.int32)


def checked_inputs(
    inputs: Sequence[Tokens], vocabulary: int, positions: int | None, types: int | None
) -> tuple[npt.NDArray[np.int64], Integers, Integers]:
    """Lengths [inputs], and ids and token types [tokens] end to end, which a model's tables have rows for.

    Args:
        inputs: at least one.
        vocabulary: how many rows the table of ids has.
        positions: the same, None for a model without such a table.
        types: the same.

    Raises:
        InvalidInput: an input is empty, longer than the positions, or has an id or type beyond its table.
    """
    lengths = np.array([len(item) for item in inputs])
    ids, kinds = end_to_end(inputs)
    if lengths.min() < 1:
        raise InvalidInput(f"input {int(lengths.argmin())} has no tokens")
    if positions is not None and lengths.max() > positions:
        row = int(lengths.argmax())
        raise InvalidInput(f"input {row} has {lengths[row]} tokens, the model has {positions} positions")
    if len(kinds) != len(ids):
        raise InvalidInput(f"{len(ids)} token ids but {len(kinds)} types")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise InvalidInput(f"a token id is outside 0..{vocabulary - 1}")
    if types is not None and (kinds.min() < 0 or kinds.max() >= types):
        raise InvalidInput(f"a token type is outside 0..{types - 1}")
    return lengths, ids, kinds


def no_room(row: int, tokens: int) -> OutOfMemory:
    """Make the error that names this pair."""
    return OutOfMemory(f"pair {row} alone, {tokens} tokens, does not fit into memory", (row,))


def non_finite(rows: tuple[int, ...]) -> NonFiniteScore:
    """Make the error that names these pairs."""
    return NonFiniteScore(f"the model gave NaN or infinity for pairs {list(rows)}", rows)
