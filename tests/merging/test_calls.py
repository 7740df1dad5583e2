"""Rules of `secondpass.merging.calls`: pieces in, rounds out, everything back in the call's order."""

from __future__ import annotations

import time

import numpy as np
import pytest

from secondpass.engine import Spent
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.merging.calls import Call, columns
from secondpass.record import Cut
from secondpass.scoring import Computation
from secondpass.tokens import Tokens

COMPUTATION = Computation("cpu", "float32", False, lambda inputs: np.zeros((len(inputs), 1), np.float32))
SPENT = Spent(seconds=0.5, batches=2, retries=1, tokens=10, places=20)


def tokens(*numbers: int, cut: Cut | None = None) -> Tokens:
    """Make an input of these ids."""
    return Tokens(np.asarray(numbers, np.int32), np.zeros(len(numbers), np.int32), cut)


def test_one_query_is_that_of_every_document() -> None:
    """A str stands for as many; an iterator is read once."""
    assert columns("cat", iter(["a", "b"])) == (["cat", "cat"], ["a", "b"])
    assert columns(iter(["x", "y"]), ("a", "b")) == (["x", "y"], ["a", "b"])
    assert columns([], []) == ([], [])


@pytest.mark.parametrize(
    ("queries", "documents", "message"),
    [
        ("cat", "mat", "documents is str"),
        (["cat"], ["a", "b"], "queries has 1 texts for 2 documents"),
        ("cat", ["a", None], r"documents\[1\] is NoneType"),
        ([b"cat"], ["a"], r"queries\[0\] is bytes"),
        (None, ["a"], "queries is NoneType"),
        ("cat", {"a": 1}, "documents is dict"),
    ],
)
def test_what_is_refused_is_named(queries: object, documents: object, message: str) -> None:
    """With argument and index."""
    with pytest.raises(InvalidInput, match=message):
        columns(queries, documents)


def test_logits_come_back_in_order_and_equal_pairs_are_scored_once() -> None:
    """Two pieces, three rounds, any order of rows; equal pairs, also across pieces, get the same bits."""
    call = Call(["q"] * 5, ["a", "b", "a", "c", "b"], None)
    call.add([tokens(1, 2), tokens(3), tokens(1, 2)], 0.1)
    assert (call.untokenised, call.waiting_tokens, call.complete) == (2, 3, False)
    assert call.take(2, False) == (0,)
    call.add([tokens(4, 5, 6), tokens(3)], 0.2)
    assert call.take(100, False) == (3, 1)
    assert call.take(100, False) == ()
    call.put((3, 1), np.array([[3.0], [1.0]], np.float32), SPENT)
    assert not call.complete
    call.put((0,), np.array([[0.5]], np.float32), SPENT)
    assert call.complete
    answer = call.scored(COMPUTATION, 1)
    assert answer.logits.tolist() == [[0.5], [1.0], [0.5], [3.0], [1.0]]
    record = answer.record
    assert (record.pairs, record.tokens, record.batches, record.retries) == (5, 6, 4, 2)
    assert record.tokenise_ms == pytest.approx(300)
    assert record.score_ms == pytest.approx(1000)
    assert record.padding_share == pytest.approx(0.5)
    assert (record.device, record.dtype) == ("cpu", "float32")


def test_cuts_count_pairs_as_the_call_does() -> None:
    """A piece counts from its own start."""
    call = Call(["q"] * 3, ["a", "b", "c"], None)
    call.add([tokens(1), tokens(2, cut=Cut(1, 0, 7))], 0.0)
    call.add([tokens(3, cut=Cut(0, 2, 5))], 0.0)
    call.put(call.take(100, False), np.zeros((3, 1), np.float32), SPENT)
    cuts = call.scored(COMPUTATION, 1).record.truncated
    assert cuts == (Cut(1, 0, 7), Cut(2, 2, 5))


def test_segments_tell_pairs_apart() -> None:
    """The same ids with other segments are another input."""
    call = Call(["q"] * 2, ["a", "b"], None)
    call.add([tokens(1, 2), Tokens(np.asarray([1, 2], np.int32), np.asarray([0, 1], np.int32))], 0.0)
    assert sorted(call.take(100, False)) == [0, 1]


def test_an_error_names_every_equal_pair() -> None:
    """One of them was scored, all of them have no score."""
    call = Call(["q"] * 4, ["a", "b", "a", "c"], None)
    call.add([tokens(1), tokens(2), tokens(1), tokens(3)], 0.0)
    error = call.pairs_of(NonFiniteScore("", (0, 3)))
    assert isinstance(error, NonFiniteScore)
    assert error.indices == (0, 2, 3)
    other = RuntimeError("device lost")
    assert call.pairs_of(other) is other


def test_pairs_without_tokens_count_as_long_as_the_others() -> None:
    """What is not tokenised yet takes time all the same."""
    call = Call(["q"] * 10, [str(number) for number in range(10)], None)
    assert call.remaining_tokens == 0
    call.add([tokens(1, 1), tokens(2, 2, 2, 2)], 0.0)
    assert call.remaining_tokens == 6 + 8 * 3


def test_a_call_without_pairs_has_an_answer_of_the_models_width() -> None:
    """No rows, but the right number of labels."""
    call = Call([], [], None)
    call.add([], 0.0)
    assert call.complete
    answer = call.scored(COMPUTATION, 3)
    assert answer.logits.shape == (0, 3)
    assert answer.record.padding_share == 0.0


def test_a_deadline_counts_from_arrival() -> None:
    """None is never late."""
    assert not Call([], [], None).late
    assert not Call([], [], 60.0).late
    call = Call([], [], 0.0005)
    time.sleep(0.001)
    assert call.late
