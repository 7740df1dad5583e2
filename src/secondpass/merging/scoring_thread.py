"""The threads that score: each takes a batch from the queue, runs it, hands out what is complete."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from secondpass.errors import DeadlineExceeded, SecondPassError
from secondpass.forwards.contract import Computation
from secondpass.merging.queue import Outcome, Queue, QueuedJob, Share, next_batch, score_shares
from secondpass.reranker import Reranker
from secondpass.scoring import Pace, batch_tokens

logger = logging.getLogger(__name__)

# A thread that found nothing to do for so long ends; the next call starts another.
IDLE_S = 5.0


@dataclass(frozen=True, slots=True)
class MergedBatch:
    """One shared batch: how many calls shared it, its pairs and tokens, wall clock in seconds."""

    calls: int
    pairs: int
    tokens: int
    seconds: float


def too_late(deadline_s: float | None) -> DeadlineExceeded:
    """The error of a call whose time is up."""
    return DeadlineExceeded(f"the answer was not there within {deadline_s} s")


class ScoringThread:
    """Starts when there is something to score, ends after an idle while: an object that nobody closed leaves none.

    A model that is computed by several processes has as many threads, which wait for those.
    """

    def __init__(
        self,
        reranker: Reranker,
        queue: Queue,
        max_wait_s: float,
        max_round_tokens: int | None,
        watch: Callable[[MergedBatch], object],
        resume: Callable[[QueuedJob], object],
    ) -> None:
        self._reranker = reranker
        self._queue = queue
        self._max_wait_s = max_wait_s
        self._max_round_tokens = max_round_tokens
        self._watch = watch
        self._resume = resume
        self.threads: set[threading.Thread] = set()  # guarded by the queue
        self._pace = Pace()

    @property
    def seconds_per_token(self) -> float:
        """What the model took for the latest batches; 0.0 before the first."""
        return self._pace.each

    def wake(self, call: QueuedJob) -> None:
        """See to it that new rows of `call` get scored; a call whose rows all were scored already is delivered."""
        self._deliver(call)
        with self._queue.changed:
            while len(self.threads) < self._reranker.workers and not call.settled:
                thread = threading.Thread(target=self._run, name="secondpass-score", daemon=True)
                thread.start()  # which may fail; it does nothing before this one lets go of the queue
                self.threads.add(thread)

    def join(self) -> None:
        """Wait for the end of the threads, but for this one where it is one of them (a callback of an answer)."""
        with self._queue.changed:
            threads = self.threads - {threading.current_thread()}
        for thread in threads:
            thread.join()

    def after_fork(self) -> None:
        """The threads stayed in the parent."""
        self.threads.clear()

    def _run(self) -> None:
        try:
            while self._wait():
                self._score_next()
        except BaseException as error:
            with self._queue.changed:
                self.threads.discard(threading.current_thread())
            self._queue.abandon(SecondPassError(f"the scoring thread ended: {error!r}"))
            raise

    def _wait(self) -> bool:
        """True when rows wait; False when none will come or none came for long: this thread is over then."""
        queue = self._queue
        with queue.changed:
            while not queue.rows_wait():
                left, over = queue.left_s, queue.closed and not queue.calls
                idle = not over and not queue.changed.wait(min(IDLE_S, left)) and left == math.inf
                if (idle and not queue.rows_wait()) or (queue.closed and not queue.calls):
                    self.threads.discard(threading.current_thread())
                    return False
            return True

    def _score_next(self) -> None:
        """One batch, unless everything was taken back; a model that refuses to score fails what waits for it."""
        try:
            self._reranker.engine()  # not of a model that is closed or trained
            self._gather(self.batch_tokens)
            engine = self._reranker.engine(scores=True)
            asked = time.monotonic()
            # may wait for a batch of others: never under the lock of the queue
            computation = engine.ready()
            budget = self._budget(computation.device)
            self._end(computation)
            shares, outcomes, seconds = self._batch(asked, budget, computation)
            self._reranker.engine()  # a fit or close that began meanwhile in another thread ends these calls
        except SecondPassError as error:
            self._queue.abandon(error)
        else:
            self._hand_out(shares, outcomes, computation)
            if shares:
                self._measure(shares, seconds)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a full batch."""
        return self._budget(self._reranker.device_name)

    def _budget(self, device: str) -> int:
        return self._max_round_tokens or self._reranker.max_batch_tokens or batch_tokens(device)

    def _end(self, computation: Computation) -> None:
        """Settle the calls whose time is up."""
        with self._queue.changed:
            late = [call for call in self._queue.calls if call.late]
            spent = [call for call in self._queue.calls if call.spent(self.seconds_per_token)]
        for call in late:
            self._queue.settle(call, too_late(call.deadline_s))
        for call in spent:
            self._queue.settle(call, partial(call.scored, computation))

    def _batch(
        self, asked: float, budget: int, computation: Computation
    ) -> tuple[list[Share], Sequence[Outcome], float]:
        """Score the next batch among calls that came before the model was `asked`: later ones want to know it as it is.

        Others may use the model directly: while they do, no rows are taken, and nothing is when a budget ends first.
        """
        with computation.turn(self._left_s) as mine:
            began = time.perf_counter()
            with self._queue.changed:
                calls = [call for call in self._queue.calls if mine and call.arrived <= asked]
                shares = next_batch(calls, budget, computation.pads, self.seconds_per_token)
            for call in self._queue.resumed(budget):
                self._resume(call)
            outcomes = score_shares(computation, budget, shares) if shares else []
            return shares, outcomes, time.perf_counter() - began

    def _left_s(self) -> float:
        with self._queue.changed:
            return self._queue.left_s

    def _gather(self, budget: int) -> None:
        """Let a batch that is not full wait for company, if that is allowed and no budget is running."""
        queue = self._queue
        with queue.changed:
            while self._max_wait_s and not queue.closed and queue.left_s == math.inf:
                if sum(call.waiting_tokens for call in queue.calls) >= budget:
                    return
                oldest = min((call.arrived for call in queue.calls if call.waiting), default=-math.inf)
                left = oldest + self._max_wait_s - time.monotonic()
                if left <= 0:
                    return
                queue.changed.wait(left)

    def _measure(self, shares: Sequence[Share], seconds: float) -> None:
        tokens = sum(share.tokens for share in shares)
        self._pace.measure(seconds, tokens)
        try:
            self._watch(MergedBatch(len(shares), sum(len(share.rows) for share in shares), tokens, seconds))
        except Exception:
            logger.exception("watch failed")

    def _hand_out(self, shares: Sequence[Share], outcomes: Sequence[Outcome], computation: Computation) -> None:
        for share, outcome in zip(shares, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._queue.settle(share.call, outcome)
            else:
                with self._queue.changed:
                    share.call.put(share.rows, *outcome)
                self._deliver(share.call, computation)

    def _deliver(self, call: QueuedJob, computation: Computation | None = None) -> None:
        """Give a call that is complete its answer; None asks the model, for one that was so without a batch."""
        with self._queue.changed:
            if call.settled or not call.complete:
                return
        if call.late:
            self._queue.settle(call, too_late(call.deadline_s))
            return
        engine = self._reranker.engine()
        self._queue.settle(call, partial(call.scored, computation or engine.ready()))
