"""Accepted calls under one lock: what is let in, and how each is settled once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from secondpass.errors import InvalidInput, Overloaded, SecondPassError
from secondpass.forwards.contract import Computation, Logits
from secondpass.inputs import CutPolicy
from secondpass.scoring import FIRST_PIECE, Job, Reading, Scored, Spent, score_rows
from secondpass.text import checked_documents
from secondpass.tokens import Tokens


def columns(queries: object, documents: object) -> tuple[list[str], list[str]]:
    """Texts of the pairs (queries[i], documents[i]), one str for all documents; InvalidInput if numbers differ."""
    texts = checked_documents(documents)
    if isinstance(queries, str):
        return [queries] * len(texts), texts
    asked = checked_documents(queries, "queries")
    if len(asked) != len(texts):
        raise InvalidInput(f"queries has {len(asked)} texts for {len(texts)} documents")
    return asked, texts


class QueuedJob(Job):
    """A job that waits for others: it has a time of arrival, a deadline or a budget, and a future.

    When its deadline passes it has failed; when its budget is spent it is answered with what is scored by then, and its
    pairs are scored in their order. Whoever changes `waiting` or asks `complete` holds the lock of the queue; logits
    are written by the one thread that scores.
    """

    def __init__(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        deadline_s: float | None,
        cut: CutPolicy | None = None,
        instruction: str | None = None,
        budget_s: float | None = None,
        reading: Reading | None = None,
    ) -> None:
        super().__init__((queries, documents), reading)
        self.queries = queries
        self.documents = documents
        self.arrived = time.monotonic()
        self.deadline_s = deadline_s
        self.cut = cut
        self.instruction = instruction
        self.budget_s = budget_s
        self.future: Future[Scored] = Future()
        self.settled = False
        self.held_tokens = 0
        self.begun = 0.0
        self._ready = 0.0

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_s is not None and time.monotonic() > self.arrived + self.deadline_s

    @property
    def left_s(self) -> float:
        """Seconds of its budget that are left; infinity without one."""
        return math.inf if self.budget_s is None else self.arrived + self.budget_s - time.monotonic()

    def spent(self, seconds_per_token: float) -> bool:
        """Whether its budget has no room for the next row, or for waiting for one; what is complete has none left."""
        row = len(self.tokens[self.waiting[-1]]) if self.waiting else 0
        return self.left_s < row * seconds_per_token or self.left_s <= 0

    def add(self, piece: Sequence[Tokens], seconds: float) -> None:
        """Take the tokens of the next pairs; the next row is last then: the longest, or with a budget the first."""
        super().add(piece, seconds)
        self.waiting.sort(key=lambda row: len(self.tokens[row]) if self.budget_s is None else -row)
        self._ready = self._ready or time.monotonic()

    def take(self, room: int, padded: bool) -> tuple[int, ...]:
        """Rows for a batch, the next first, of no more than `room` tokens together, or places where they get padded."""
        rows: list[int] = []
        longest = taken = 0
        while self.waiting:
            length = len(self.tokens[self.waiting[-1]])
            longest, taken = max(longest, length), taken + length
            if (longest * (len(rows) + 1) if padded else taken) > room:
                break
            rows.append(self.waiting.pop())
            self.waiting_tokens -= length
        if rows and not self.begun:
            self.begun = time.monotonic()
        return tuple(rows)

    def scored(self, computation: Computation, labels: int = 1) -> Scored:
        """Everything in the caller's order, and how long it waited."""
        return replace(super().scored(computation, labels), waited_ms=1000 * max(0.0, self.begun - self._ready))


CLOSED = "this SharedReranker is closed"


class Queue:
    """Calls from acceptance to answer, at most `max_pairs` pairs and `max_tokens` tokens of them.

    `changed` guards everything here and the waiting rows of the calls; answers are given outside it, because they run
    the callers' callbacks.
    """

    def __init__(self, max_pairs: int, max_tokens: int) -> None:
        self._max_pairs = max_pairs
        self._max_tokens = max_tokens
        self.changed = threading.Condition()
        self.calls: dict[QueuedJob, None] = {}
        self.pairs = 0
        self.tokens = 0
        self.closed = False

    def accept(self, call: QueuedJob) -> None:
        """Let a call in before its texts are tokenised.

        Raises:
            InvalidInput: it has more pairs than may ever wait.
            Overloaded: it has more than may wait now.
            SecondPassError: the queue is closed.
        """
        pairs, most = len(call), f"max_waiting_pairs={self._max_pairs}"
        if pairs > self._max_pairs:
            raise InvalidInput(f"documents has {pairs} texts, more than {most}: split the call")
        with self.changed:
            if self.closed:
                raise SecondPassError(CLOSED)
            if self.pairs + pairs > self._max_pairs:
                raise Overloaded(f"{self.pairs} pairs are waiting: {pairs} more would be above {most}")
            self.calls[call] = None
            self.pairs += len(call)
        call.future.add_done_callback(lambda future: self._taken_back(call))

    def add(self, call: QueuedJob, piece: Sequence[Tokens], seconds: float) -> bool:
        """Make the next pairs of a call ready to be scored; False when it was settled meanwhile.

        Raises:
            InvalidInput: the call has more tokens than may ever wait; its first piece stands for the rest.
            Overloaded: it has more than may wait now.
        """
        with self.changed:
            if call.settled:
                return False
            first = not call.tokens
            call.add(piece, seconds)
            held = call.remaining_tokens if first else max(call.held_tokens, call.remaining_tokens)
            if first:
                self._check_tokens(held)
            self.tokens += held - call.held_tokens
            call.held_tokens = held
            self.changed.notify_all()
            return True

    def _check_tokens(self, tokens: int) -> None:
        most = f"max_waiting_tokens={self._max_tokens}"
        if tokens > self._max_tokens:
            raise InvalidInput(f"documents has {tokens} tokens, more than {most}: split the call")
        if self.tokens + tokens > self._max_tokens:
            raise Overloaded(f"{self.tokens} tokens are waiting: {tokens} more would be above {most}")

    def settle(self, call: QueuedJob, outcome: Scored | BaseException) -> None:
        """Give a call its answer or its error; whoever comes second does nothing."""
        if not self._release(call):
            return
        if call.future.set_running_or_notify_cancel():
            if isinstance(outcome, Scored):
                call.future.set_result(outcome)
            else:
                call.future.set_exception(outcome)

    def _taken_back(self, call: QueuedJob) -> None:
        """A caller cancelled: free its place, and tell those who wait for several futures."""
        if self._release(call):
            call.future.set_running_or_notify_cancel()

    def _release(self, call: QueuedJob) -> bool:
        with self.changed:
            if call.settled:
                return False
            call.settled = True
            del self.calls[call]
            self.pairs -= len(call)
            self.tokens -= call.held_tokens
            self.changed.notify_all()
            return True

    def rows_wait(self) -> bool:
        """Whether there is anything to score, or a budget has been spent; asked under the lock."""
        return any(call.waiting or call.spent(0.0) for call in self.calls)

    def abandon(self, error: Exception) -> None:
        """Give every call this error."""
        with self.changed:
            left = list(self.calls)
        for call in left:
            self.settle(call, error)

    def after_fork(self) -> None:
        """Start afresh in a child: the calls are the parent's, their answers will never come here.

        The futures' own locks may be held by threads that the child lacks, so the futures are made anew.
        """
        left, self.calls = list(self.calls), {}
        self.changed = threading.Condition()
        self.pairs = self.tokens = 0
        for call in left:
            call.settled = True
            type(call.future).__init__(call.future)
            call.future.set_exception(SecondPassError("this call belongs to the process that was forked"))


# ---- Whose pairs are scored next.
#
# Every waiting call has a finishing time that it could expect of an idle model: when it came plus the time its
# remaining pairs take. The earliest goes first and the next fill what is left of the batch. So a call of five documents
# overtakes one of ten thousand that is under way, calls that began are finished rather than all kept half done (the
# mean wait of equal calls is half of what taking turns gives), and nothing starves: once a long call has waited as long
# as it would have taken alone, no newcomer is ahead of it.
@dataclass(frozen=True, slots=True)
class Share:
    """The rows of one call in a batch, the next first."""

    call: QueuedJob
    rows: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of these rows."""
        return sum(len(self.call.tokens[row]) for row in self.rows)


def next_batch(calls: Iterable[QueuedJob], budget: int, padded: bool, seconds_per_token: float) -> list[Share]:
    """Take the next batch's rows out of the calls: at most `budget` tokens, or one pair that is longer alone.

    Args:
        calls: in any order; their waiting rows change.
        budget: tokens of the batch.
        padded: count the places of the rectangle that each call's rows would fill.
        seconds_per_token: what the model takes.
    """
    ready = [call for call in calls if call.waiting]
    ready.sort(key=lambda call: call.arrived + seconds_per_token * call.remaining_tokens)
    left = min((call.left_s for call in ready), default=math.inf)
    shares: list[Share] = []
    # a batch ends before the next budget does; a small one tells how fast it goes
    room = budget
    if left < math.inf:
        room = min(budget, max(1, int(left / seconds_per_token) if seconds_per_token else budget // FIRST_PIECE))
    for call in ready:
        first = len(call.tokens[call.waiting[-1]])
        rows = call.take(room if shares else max(room, first), padded)
        if rows:
            shares.append(Share(call, rows))
            longest = max(len(call.tokens[row]) for row in rows)
            room -= longest * len(rows) if padded else shares[-1].tokens
    return shares


Outcome = tuple[Logits, Spent] | Exception
"""Logits [rows, labels] of one share with what its batch took, or the error that its own rows cause."""


def score_shares(computation: Computation, budget: int, shares: Sequence[Share]) -> list[Outcome]:
    """Score the shares together, at most `budget` tokens at a time; an outcome for each share.

    What fails is repeated share by share: an error (a non-finite logit, a pair that does not fit into memory) reaches
    the call whose pairs cause it and no other.
    """
    if len(shares) == 1:
        return [_alone(computation, budget, shares[0])]
    tokens = [share.call.tokens[row] for share in shares for row in share.rows]
    try:
        logits, spent = score_rows(computation, tokens, range(len(tokens)), budget)
    except Exception:
        return [_alone(computation, budget, share) for share in shares]
    ends = np.cumsum([len(share.rows) for share in shares])
    return [(part, spent) for part in np.split(logits, ends[:-1])]


def _alone(computation: Computation, budget: int, share: Share) -> Outcome:
    """One share by itself; errors count pairs as its call does."""
    try:
        return score_rows(computation, share.call.tokens, share.rows, budget)
    except Exception as error:
        return share.call.pairs_of(error)
