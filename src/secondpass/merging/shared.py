"""`SharedReranker`: one thread scores what every other thread and coroutine asks for.

Callers tokenise in their own threads (coroutines share one), a piece at a time, ahead of the model. While a batch runs,
new pairs gather; the next batch takes them together. Nothing waits for company unless `max_wait_ms` says so.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from secondpass.errors import InvalidInput, SecondPassError
from secondpass.inputs import CutPolicy
from secondpass.merging.queue import CLOSED, Queue, QueuedJob, columns
from secondpass.merging.scoring_thread import MergedBatch, ScoringThread, too_late
from secondpass.reranker import Reranker
from secondpass.scoring import CHARACTERS, Scored
from secondpass.system import at_fork
from secondpass.text import positive_int, positive_number
from secondpass.tokens import Tokens

__all__ = ["Load", "MergedBatch", "SharedReranker"]

# Pairs tokenised at a time: a call of ten thousand documents is being scored after the first of its pieces. With a
# budget they have about as many characters as this part of a batch; in windows so many characters, all of which count.
PIECE = 256
PART = 4
LONG = 2**18


@dataclass(frozen=True, slots=True)
class Load:
    """What is accepted and not yet answered, and the seconds it will take at the speed measured so far."""

    calls: int
    pairs: int
    tokens: int
    expected_s: float


class SharedReranker:
    """Merges the calls of any number of threads and event loops into shared batches of one model.

    An answer equals that of the call alone to 1e-5. Pairs are scored in the order of `secondpass.merging.queue`. Closed
    once, it stays closed (another one on the same model costs nothing); the model itself is left open. A forked child
    starts with an empty queue, and calls it inherited raise `SecondPassError`.

    Args:
        reranker: the model; it may be used directly at the same time.
        max_waiting_pairs: pairs accepted and not yet answered; a call beyond it is refused at once.
        max_waiting_tokens: the same for their tokens.
        max_wait_ms: how long an idle model waits for more pairs to fill a batch; 0 never waits.
        max_round_tokens: tokens of one batch; None takes the model's batch budget.
        watch: hears of every batch, in the scoring thread; it must not block.
    """

    def __init__(
        self,
        reranker: Reranker,
        *,
        max_waiting_pairs: int = 20_000,
        max_waiting_tokens: int = 4_000_000,
        max_wait_ms: float = 0.0,
        max_round_tokens: int | None = None,
        watch: Callable[[MergedBatch], object] = lambda batch: None,
    ) -> None:
        if not 0 <= max_wait_ms <= 60_000:
            raise InvalidInput(f"max_wait_ms={max_wait_ms!r} is not between 0 and 60000")
        self.reranker = reranker
        self._queue = Queue(
            positive_int(max_waiting_pairs, "max_waiting_pairs"), positive_int(max_waiting_tokens, "max_waiting_tokens")
        )
        round_tokens = None if max_round_tokens is None else positive_int(max_round_tokens, "max_round_tokens")
        self._scoring = ScoringThread(
            reranker, self._queue, max_wait_ms / 1000, round_tokens, watch, self._advance_in_pool
        )
        self._pools: dict[str, ThreadPoolExecutor] = {}
        _OPEN.add(self)

    def __enter__(self) -> SharedReranker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(drain=kind is None)

    @property
    def load(self) -> Load:
        """What is waiting now."""
        with self._queue.changed:
            tokens = sum(call.remaining_tokens for call in self._queue.calls)
            each = self._scoring.seconds_per_token / self.reranker.workers
            return Load(len(self._queue.calls), self._queue.pairs, tokens, tokens * each)

    def submit(
        self,
        queries: str | Iterable[str],
        documents: Iterable[str],
        *,
        deadline_s: float | None = None,
        cut: CutPolicy | None = None,
        instruction: str | None = None,
        budget_s: float | None = None,
    ) -> Future[Scored]:
        """Tokenise the pairs (queries[i], documents[i]) in this thread and queue them; texts are taken as they are.

        With a budget only the first of them: the others are tokenised as for coroutines, a batch ahead of the model.

        Args:
            queries: one per document, or one str for all of them.
            documents: any ordered iterable of str; none gives an answer without rows.
            deadline_s: seconds from now for which the answer is wanted; pairs not begun by then are dropped.
            cut: what is read of a pair that is too long; None takes the model's `truncation`.
            instruction: what the model is told to look for, as in `CrossEncoder.predict`.
            budget_s: seconds from now after which the answer is what is scored by then (`Scored.read`), no later than
                by one batch; pairs are scored in their order.

        Returns:
            A future of the answer. `cancel()` succeeds until the answer is there: what is not begun is not done. Its
            errors: DeadlineExceeded (the time was up before the last pair was scored), NonFiniteScore and OutOfMemory
            (by one of these pairs), InvalidInput (with a budget, by pairs behind the first), SecondPassError (the model
            or this object was closed, or training began).

        Raises:
            InvalidInput: an argument is refused, or the call is larger than may ever wait.
            Overloaded: too much is waiting already; nothing was begun.
            SecondPassError: this object or the model is closed.
        """
        call = self._accepted(queries, documents, deadline_s, cut, instruction, budget_s, time.monotonic())
        try:
            while self._advance(call):
                if call.budget_s is not None:
                    self._advance_in_pool(call)
                    break
        except BaseException:
            call.future.cancel()
            raise
        return call.future

    async def score(
        self,
        queries: str | Iterable[str],
        documents: Iterable[str],
        *,
        deadline_s: float | None = None,
        cut: CutPolicy | None = None,
        instruction: str | None = None,
        budget_s: float | None = None,
    ) -> Scored:
        """The same for coroutines of any event loop; a cancelled task takes its work back.

        Raises:
            InvalidInput, Overloaded, DeadlineExceeded, NonFiniteScore, OutOfMemory, SecondPassError: as `submit` and
                its future.
        """
        began = time.monotonic()

        def accepted() -> QueuedJob:
            return self._accepted(queries, documents, deadline_s, cut, instruction, budget_s, began)

        has_cache = self.reranker.score_cache is not None
        # what is no deadline is refused with the other arguments
        limit = deadline_s if deadline_s is None or deadline_s > 0 else None
        try:
            async with asyncio.timeout(limit):
                call = await self._in_pool(accepted) if has_cache else accepted()
                answer = asyncio.wrap_future(call.future)
                self._advance_in_pool(call)
                return await answer
        except TimeoutError:
            raise too_late(deadline_s) from None

    def close(self, drain: bool = True, timeout_s: float | None = None) -> None:
        """Accept no more; finish what was accepted (at most `timeout_s` long) or, without `drain`, fail it at once.

        Calls that do not get finished raise `SecondPassError`. Returns when the scoring thread has ended. A future's
        callback runs in a thread that scores or tokenises: closed by one, what is not finished fails, for it waits for
        this thread.
        """
        queue = self._queue
        with queue.changed:
            queue.closed = True
            queue.changed.notify_all()
            pools = list(self._pools.values())
            here = threading.current_thread()
            own = here in self._scoring.threads or any(here in pool._threads for pool in pools)
            if drain and not own:
                queue.changed.wait_for(lambda: not queue.calls, timeout_s)
                pools = list(self._pools.values())
        queue.abandon(SecondPassError(f"{CLOSED}: this call was not finished"))
        if not own:  # two that wait for each other would do so for ever; threads end by themselves
            self._scoring.join()
        for pool in pools:
            pool.shutdown(wait=not own)

    def _accepted(
        self,
        queries: object,
        documents: object,
        deadline_s: float | None,
        cut: CutPolicy | None,
        instruction: str | None,
        budget_s: float | None,
        arrived: float,
    ) -> QueuedJob:
        if deadline_s is not None and not deadline_s > 0:
            raise InvalidInput(f"deadline_s={deadline_s!r} is not above 0")
        budget_s = None if budget_s is None else positive_number(budget_s, "budget_s")
        texts = columns(queries, documents)
        reading = self.reranker.reading_of(texts, cut, instruction)
        call = QueuedJob(*texts, deadline_s, cut, instruction, budget_s, reading)
        call.arrived = arrived
        self._queue.accept(call)
        if budget_s is not None:
            try:
                self._scoring.wake(call)  # it may end before it has tokens
            except BaseException:
                call.future.cancel()
                raise
        return call

    async def _in_pool(self, accept: Callable[[], QueuedJob]) -> QueuedJob:
        """Off the event loop: what a cache knows is in a file, and whose scores they are is asked of a busy model."""
        try:
            # of its own: the other one may be busy with a million words
            call = self._thread("secondpass-accept").submit(accept)
        except RuntimeError:
            raise SecondPassError(CLOSED) from None
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            call.add_done_callback(_take_back)
            raise

    def _advance(self, call: QueuedJob) -> bool:
        """Tokenise the next piece; True while there are more."""
        if call.late:
            self._queue.settle(call, too_late(call.deadline_s))
        if call.settled:
            return False
        began = time.perf_counter()
        piece = self._tokens(call) if call.untokenised else []
        if not self._queue.add(call, piece, time.perf_counter() - began):
            return False
        self._scoring.wake(call)
        return call.untokenised > 0

    def _tokens(self, call: QueuedJob) -> list[Tokens]:
        made = self.reranker.tokens
        characters = math.inf if call.reading.windows is None else LONG
        if call.budget_s is not None:
            characters = CHARACTERS * self._scoring.batch_tokens // PART
        texts = call.next_texts(PIECE, characters)
        try:
            return made(*texts, cut=call.cut, instruction=call.instruction)
        except InvalidInput:
            if len(texts[0]) < len(call):
                # The message counts from the piece's start: let the whole call name the pairs.
                made(call.queries, call.documents, cut=call.cut, instruction=call.instruction)
            raise

    def _advance_in_pool(self, call: QueuedJob) -> None:
        """A piece at a time, each behind the other callers' pieces."""
        try:
            self._thread("secondpass-tokenise").submit(self._advance_and_on, call)
        except RuntimeError:
            self._queue.settle(call, SecondPassError(CLOSED))

    def _thread(self, name: str) -> ThreadPoolExecutor:
        with self._queue.changed:
            if name not in self._pools:
                self._pools[name] = ThreadPoolExecutor(1, name)
            return self._pools[name]

    def _advance_and_on(self, call: QueuedJob) -> None:
        try:
            more = self._advance(call)
        except Exception as error:
            self._queue.settle(call, error)
        else:
            if more and not self._queue.pause(call, self._scoring.batch_tokens):
                self._advance_in_pool(call)

    def _after_fork(self) -> None:
        self._pools = {}
        self._queue.after_fork()
        self._scoring.after_fork()


def _take_back(accepted: Future[QueuedJob]) -> None:
    """Nobody waits for this call any more, which was accepted meanwhile."""
    if not accepted.cancelled() and accepted.exception() is None:
        accepted.result().future.cancel()


_OPEN: weakref.WeakSet[SharedReranker] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for shared in _OPEN:
        shared._after_fork()


def _at_exit() -> None:
    """A thread inside the model while the interpreter is taken down can crash the process."""
    for shared in list(_OPEN):
        shared.close(drain=False)


at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
