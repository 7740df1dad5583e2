"""Accepted calls under one lock: what is let in, and how each is settled once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from secondpass.errors import InvalidInput, Overloaded, SecondPassError
from secondpass.forwards.contract import Computation, Logits
from secondpass.inputs import CutPolicy
from secondpass.scoring import CHARACTERS_AROUND, PIECE, Job, Reading, Scored, Spent, fitting, score_rows
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


# Characters of a document that about fill a window.
WHOLE = 2048


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
        # what the tokens of a pair go by: its length, of which so much counts where the rest is not read
        most = WHOLE if self.reading.windows is None else math.inf
        self._sizes = [CHARACTERS_AROUND + int(min(len(documents[pair]), most)) for pair in self.asked]
        self._size_read, self._size_left = 0, sum(self._sizes)

    @property
    def remaining_tokens(self) -> int:
        """Tokens not begun; what has no tokens yet counts by its size as what has them."""
        return self.waiting_tokens + self._size_left * self._real_tokens // max(1, self._size_read)

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_s is not None and time.monotonic() > self.arrived + self.deadline_s

    @property
    def left_s(self) -> float:
        """Seconds of its budget that are left; infinity without one."""
        return math.inf if self.budget_s is None else self.arrived + self.budget_s - time.monotonic()

    def spent(self, seconds_per_token: float) -> bool:
        """Whether its budget is over, or has no room for the next row; the first is begun as long as there is any."""
        left = self.left_s
        row = len(self.tokens[self.waiting[-1]]) if self.waiting and self.tokens_begun else 0
        return left <= 0 or left < row * seconds_per_token

    def place(self, seconds_per_token: float) -> float:
        """Where it stands among others: the lowest is scored next."""
        return self.arrived + seconds_per_token * (
            self.remaining_tokens if self.budget_s is None else self.tokens_begun
        )

    def add(self, piece: Sequence[Tokens], seconds: float) -> None:
        """Take the tokens of the next pairs; the next row is last then: the longest, or with a budget the first."""
        before, begin = len(self.waiting), len(self._ends)
        super().add(piece, seconds)
        size = sum(self._sizes[begin : len(self._ends)])
        self._size_read, self._size_left = self._size_read + size, self._size_left - size
        if self.budget_s is None:
            self.waiting.sort(key=lambda row: len(self.tokens[row]))
        else:
            self.waiting = [*reversed(self.waiting[before:]), *self.waiting[:before]]
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

    def scored(self, computation: Computation) -> Scored:
        """Everything in the caller's order, and how long it waited."""
        return replace(super().scored(computation), waited_ms=1000 * max(0.0, self.begun - self._ready))


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
        self.paused: dict[QueuedJob, None] = {}  # enough of their tokens wait
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

    def settle(self, call: QueuedJob, outcome: Scored | BaseException | Callable[[], Scored]) -> None:
        """Give a call its answer or its error; whoever comes second does nothing.

        An answer that has to be made is made here: while a call is not settled, its tokens may still come.
        """
        if not self._release(call) or not call.future.set_running_or_notify_cancel():
            return
        try:
            answer = outcome() if callable(outcome) else outcome
        except Exception as error:
            answer = error
        if isinstance(answer, Scored):
            call.future.set_result(answer)
        else:
            call.future.set_exception(answer)

    def pause(self, call: QueuedJob, tokens: int) -> bool:
        """Whether a call with a budget has so many tokens waiting: more are wanted when the model has taken some."""
        with self.changed:
            enough = call.budget_s is not None and call.waiting_tokens >= tokens and not call.settled
            if enough:
                self.paused[call] = None
            return enough

    def resumed(self, tokens: int) -> list[QueuedJob]:
        """The paused calls that have fewer; they are paused no more."""
        with self.changed:
            made = [call for call in self.paused if call.waiting_tokens < tokens]
            for call in made:
                del self.paused[call]
            return made

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
            self.paused.pop(call, None)
            self.pairs -= len(call)
            self.tokens -= call.held_tokens
            self.changed.notify_all()
            return True

    @property
    def left_s(self) -> float:
        """Seconds until the next budget is spent, infinity where no call has one; asked under the lock."""
        return min((call.left_s for call in self.calls), default=math.inf)

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
        left, self.calls, self.paused = list(self.calls), {}, {}
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
#
# A call with a budget wants some of its pairs in a given time rather than the last one soon. It stands where it came
# plus the time that it has had, and takes no more than an even part of a batch while others want the rest: calls with
# budgets take turns, and a newcomer is ahead of none for longer than its own pairs take.
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
    ready.sort(key=lambda call: call.place(seconds_per_token))
    left = min((call.left_s for call in ready), default=math.inf)
    # a batch ends before the next budget does
    room = budget if left == math.inf else max(1, fitting(left, budget // PIECE, seconds_per_token))
    taken: dict[QueuedJob, list[int]] = {}
    for part in (room,) if left == math.inf else (room // len(ready), room):
        for call in ready:
            first = len(call.tokens[call.waiting[-1]]) if call.waiting else 0
            most = room if call.budget_s is None else min(room, max(part, first))
            rows = call.take(most if taken else max(most, first), padded)
            if rows:
                taken.setdefault(call, []).extend(rows)
                lengths = [len(call.tokens[row]) for row in rows]
                room -= max(lengths) * len(rows) if padded else sum(lengths)
    return [Share(call, tuple(rows)) for call, rows in taken.items()]


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
