"""Accepted calls under one lock: what is let in, and how each is settled once."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from secondpass.engine import Scored
from secondpass.errors import InvalidInput, Overloaded, SecondPassError
from secondpass.merging.calls import Call
from secondpass.tokens import Tokens

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
        self.calls: dict[Call, None] = {}
        self.pairs = 0
        self.tokens = 0
        self.closed = False

    def accept(self, call: Call) -> None:
        """Let a call in before its texts are tokenised.

        Raises:
            InvalidInput: it has more pairs than may ever wait.
            Overloaded: it has more than may wait now.
            SecondPassError: the queue is closed.
        """
        if len(call) > self._max_pairs:
            raise InvalidInput(
                f"documents has {len(call)} texts, more than max_waiting_pairs={self._max_pairs}: split the call"
            )
        with self.changed:
            if self.closed:
                raise SecondPassError(CLOSED)
            if self.pairs + len(call) > self._max_pairs:
                above = f"{len(call)} more would be above max_waiting_pairs={self._max_pairs}"
                raise Overloaded(f"{self.pairs} pairs are waiting: {above}")
            self.calls[call] = None
            self.pairs += len(call)
        call.future.add_done_callback(lambda future: self._taken_back(call))

    def add(self, call: Call, piece: Sequence[Tokens], seconds: float) -> bool:
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
                self._check_tokens(call, held)
            self.tokens += held - call.held_tokens
            call.held_tokens = held
            self.changed.notify_all()
            return True

    def _check_tokens(self, call: Call, tokens: int) -> None:
        if tokens > self._max_tokens:
            raise InvalidInput(
                f"documents has {tokens} tokens, more than max_waiting_tokens={self._max_tokens}: split the call"
            )
        if self.tokens + tokens > self._max_tokens:
            above = f"{tokens} more would be above max_waiting_tokens={self._max_tokens}"
            raise Overloaded(f"{self.tokens} tokens are waiting: {above}")

    def settle(self, call: Call, outcome: Scored | BaseException) -> None:
        """Give a call its answer or its error; whoever comes second does nothing."""
        if not self._release(call):
            return
        if call.future.set_running_or_notify_cancel():
            if isinstance(outcome, Scored):
                call.future.set_result(outcome)
            else:
                call.future.set_exception(outcome)

    def _taken_back(self, call: Call) -> None:
        """A caller cancelled: free its place, and tell those who wait for several futures."""
        if self._release(call):
            call.future.set_running_or_notify_cancel()

    def _release(self, call: Call) -> bool:
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
        """Whether there is anything to score; asked under the lock."""
        return any(call.waiting for call in self.calls)

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
