"""The thread that scores: takes a round from the queue, runs it, hands out what is complete."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from secondpass.engine import Engine
from secondpass.errors import DeadlineExceeded, SecondPassError
from secondpass.merging.calls import Call
from secondpass.merging.queue import Queue
from secondpass.merging.rounds import Outcome, score_round
from secondpass.merging.turns import Share, next_round
from secondpass.reranker import Reranker

logger = logging.getLogger(__name__)

# A thread that found nothing to do for so long ends; the next call starts another.
IDLE_S = 5.0
# How much the latest round counts in the measured speed.
FRESH = 0.2


@dataclass(frozen=True, slots=True)
class MergedBatch:
    """One round through the model: how many calls shared it, its pairs and tokens, wall clock in seconds."""

    calls: int
    pairs: int
    tokens: int
    seconds: float


def too_late(call: Call) -> DeadlineExceeded:
    """The error of a call whose time is up."""
    return DeadlineExceeded(f"the answer was not there within {call.deadline_s} s")


class ScoringThread:
    """Starts when there is something to score, ends after an idle while: an object that nobody closed leaves none."""

    def __init__(
        self,
        reranker: Reranker,
        queue: Queue,
        max_wait_s: float,
        max_round_tokens: int | None,
        watch: Callable[[MergedBatch], object],
    ) -> None:
        self._reranker = reranker
        self._queue = queue
        self._max_wait_s = max_wait_s
        self._max_round_tokens = max_round_tokens
        self._watch = watch
        self._thread: threading.Thread | None = None
        self.seconds_per_token = 0.0

    def wake(self, call: Call) -> None:
        """See to it that new rows of `call` get scored; a call whose rows all were scored already is delivered."""
        self._deliver(call)
        with self._queue.changed:
            if self._thread is None and not call.settled:
                self._thread = threading.Thread(target=self._run, name="secondpass-score", daemon=True)
                self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread, unless this is it (a callback of an answer)."""
        with self._queue.changed:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def after_fork(self) -> None:
        """The thread stayed in the parent."""
        self._thread = None

    def _run(self) -> None:
        try:
            while self._wait():
                self._turn()
        except BaseException as error:
            with self._queue.changed:
                self._thread = None
            self._queue.abandon(SecondPassError(f"the scoring thread ended: {error!r}"))
            raise

    def _wait(self) -> bool:
        """True when rows wait; False when none will come or none came for long: this is the thread no more then."""
        queue = self._queue
        with queue.changed:
            while not queue.rows_wait():
                idle = not (queue.closed and not queue.calls) and not queue.changed.wait(IDLE_S)
                if (idle and not queue.rows_wait()) or (queue.closed and not queue.calls):
                    self._thread = None
                    return False
            return True

    def _turn(self) -> None:
        """One round, unless everything was taken back; a model that refuses to score fails what waits for it."""
        try:
            engine = self._reranker._live()
            shares = self._shares(engine)
            began = time.perf_counter()
            outcomes = score_round(engine.forward, self._budget(engine), shares) if shares else []
            seconds = time.perf_counter() - began
            self._reranker._live()  # a fit or close that began meanwhile in another thread ends these calls
        except SecondPassError as error:
            self._queue.abandon(error)
        else:
            self._hand_out(shares, outcomes)
            if shares:
                self._measure(shares, seconds)

    def _budget(self, engine: Engine) -> int:
        return self._max_round_tokens or self._reranker.max_batch_tokens or engine.batch_tokens()

    def _shares(self, engine: Engine) -> list[Share]:
        budget = self._budget(engine)
        self._gather(budget)
        with self._queue.changed:
            late = [call for call in self._queue.calls if call.late]
        for call in late:
            self._queue.settle(call, too_late(call))
        padded = engine.forward.pads  # may wait for a batch of others: never under the lock of the queue
        with self._queue.changed:
            return next_round(self._queue.calls, budget, padded, self.seconds_per_token)

    def _gather(self, budget: int) -> None:
        """Let a round that is not full wait for company, if that is allowed."""
        queue = self._queue
        with queue.changed:
            while self._max_wait_s and not queue.closed and sum(call.waiting_tokens for call in queue.calls) < budget:
                oldest = min((call.arrived for call in queue.calls if call.waiting), default=-math.inf)
                left = oldest + self._max_wait_s - time.monotonic()
                if left <= 0:
                    return
                queue.changed.wait(left)

    def _measure(self, shares: Sequence[Share], seconds: float) -> None:
        tokens = sum(share.tokens for share in shares)
        latest = seconds / tokens
        before = self.seconds_per_token or latest
        self.seconds_per_token = before + FRESH * (latest - before)
        try:
            self._watch(MergedBatch(len(shares), sum(len(share.rows) for share in shares), tokens, seconds))
        except Exception:
            logger.exception("watch failed")

    def _hand_out(self, shares: Sequence[Share], outcomes: Sequence[Outcome]) -> None:
        for share, outcome in zip(shares, outcomes, strict=True):
            if isinstance(outcome, Exception):
                self._queue.settle(share.call, outcome)
            else:
                with self._queue.changed:
                    share.call.put(share.rows, *outcome)
                self._deliver(share.call)

    def _deliver(self, call: Call) -> None:
        with self._queue.changed:
            if call.settled or not call.complete:
                return
        if call.late:
            self._queue.settle(call, too_late(call))
            return
        forward = self._reranker._live().forward
        self._queue.settle(call, call.answer(forward.device, forward.dtype, self._reranker.config.num_labels))
