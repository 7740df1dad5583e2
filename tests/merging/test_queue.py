"""Rules of `secondpass.merging.queue`: what is let in, and every call settled once."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import numpy as np
import pytest

from secondpass.engine import Scored, Spent
from secondpass.errors import InvalidInput, Overloaded, SecondPassError
from secondpass.merging.calls import Call
from secondpass.merging.queue import Queue
from secondpass.scoring import Computation
from secondpass.tokens import Tokens

COMPUTATION = Computation("cpu", "float32", False, lambda inputs: np.zeros((len(inputs), 1), np.float32))


def tokens(count: int, length: int) -> list[Tokens]:
    """Make inputs that all differ."""
    return [Tokens(np.full(length, row, np.int32), np.zeros(length, np.int32)) for row in range(count)]


def call(pairs: int) -> Call:
    """Make a call of this many pairs."""
    return Call(["q"] * pairs, ["d"] * pairs, None)


def accepted(queue: Queue, pairs: int, length: int = 1) -> Call:
    """Let a call in, with its tokens."""
    made = call(pairs)
    queue.accept(made)
    assert queue.add(made, tokens(pairs, length), 0.0)
    return made


def answer_of(made: Call) -> Scored:
    """Score everything, with zeros."""
    rows = made.take(10**9, False)
    made.put(rows, np.zeros((len(rows), 1), np.float32), Spent(0.0, 1, 0, 1, 1))
    return made.scored(COMPUTATION, 1)


def test_pairs_beyond_the_bound_are_refused_at_once_and_later_let_in() -> None:
    """Refused is refused whole; an answer makes room."""
    queue = Queue(10, 1000)
    first = accepted(queue, 8)
    with pytest.raises(Overloaded, match="8 pairs are waiting: 3 more would be above max_waiting_pairs=10"):
        queue.accept(call(3))
    accepted(queue, 2)
    assert queue.pairs == 10
    queue.settle(first, answer_of(first))
    accepted(queue, 8)


def test_tokens_beyond_the_bound_are_refused_at_once_and_later_let_in() -> None:
    """The same by tokens, known when a call is tokenised; the refused call holds nothing."""
    queue = Queue(100, 100)
    first = accepted(queue, 5, 12)
    second = call(5)
    queue.accept(second)
    with pytest.raises(Overloaded, match="60 tokens are waiting: 50 more would be above max_waiting_tokens=100"):
        queue.add(second, tokens(5, 10), 0.0)
    queue.settle(second, Overloaded("full"))
    assert (queue.pairs, queue.tokens) == (5, 60)
    first.future.cancel()
    accepted(queue, 10, 10)


def test_a_call_that_never_fits_is_no_overload() -> None:
    """Waiting would not help: the limit is named."""
    queue = Queue(10, 100)
    with pytest.raises(InvalidInput, match="documents has 11 texts, more than max_waiting_pairs=10"):
        queue.accept(call(11))
    large = call(10)
    queue.accept(large)
    with pytest.raises(InvalidInput, match="documents has 110 tokens, more than max_waiting_tokens=100"):
        queue.add(large, tokens(2, 11), 0.0)


def test_the_first_piece_stands_for_the_rest() -> None:
    """A call is refused before it is begun, never in its middle; what it turns out to hold is counted."""
    queue = Queue(100, 100)
    long = call(4)
    queue.accept(long)
    assert queue.add(long, tokens(2, 20), 0.0)
    assert queue.tokens == 80
    assert queue.add(long, tokens(4, 30)[2:], 0.0)
    assert queue.tokens == 100
    queue.settle(long, answer_of(long))
    assert (queue.pairs, queue.tokens) == (0, 0)


def test_cancelling_frees_the_place_and_wakes_who_waits() -> None:
    """`concurrent.futures.wait` returns too; later tokens and answers are let fall."""
    queue = Queue(10, 100)
    taken = accepted(queue, 10)
    answer = answer_of(taken)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, [taken.future], 20)
        assert taken.future.cancel()
        assert waiting.result().done == {taken.future}
    assert (queue.pairs, queue.tokens, queue.calls) == (0, 0, {})
    assert not queue.add(taken, tokens(1, 1), 0.0)
    queue.settle(taken, answer)
    with pytest.raises(CancelledError):
        taken.future.result(0)


def test_an_answered_call_cannot_be_cancelled_or_settled_again() -> None:
    """The first outcome stands."""
    queue = Queue(10, 100)
    done = accepted(queue, 1)
    answer = answer_of(done)
    queue.settle(done, answer)
    queue.settle(done, SecondPassError("late"))
    assert not done.future.cancel()
    assert done.future.result(0) is answer


def test_cancelling_and_answering_at_the_same_moment_ends_in_one_of_both() -> None:
    """A thousand races: always settled, never both, nothing held afterwards."""
    queue = Queue(10, 100)
    together = threading.Barrier(2)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(1000):
            racing = accepted(queue, 3)
            answer = answer_of(racing)

            def give(racing: Call = racing, answer: Scored = answer) -> None:
                together.wait()
                queue.settle(racing, answer)

            giving = pool.submit(give)
            together.wait()
            cancelled = racing.future.cancel()
            giving.result()
            assert racing.future.done()
            assert racing.future.cancelled() == cancelled
            assert cancelled or racing.future.result(0) is answer
            assert (queue.pairs, queue.tokens, queue.calls) == (0, 0, {})


def test_a_closed_queue_accepts_nothing() -> None:
    """Said as such: it is no overload."""
    queue = Queue(10, 100)
    queue.closed = True
    with pytest.raises(SecondPassError, match="this SharedReranker is closed"):
        queue.accept(call(1))


def test_abandoned_calls_all_hear_of_it() -> None:
    """Also those that are still being tokenised."""
    queue = Queue(10, 100)
    calls = [accepted(queue, 1), call(1)]
    queue.accept(calls[1])
    queue.abandon(SecondPassError("gone"))
    for made in calls:
        with pytest.raises(SecondPassError, match="gone"):
            made.future.result(0)
    assert not queue.calls
