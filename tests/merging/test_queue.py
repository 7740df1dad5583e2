"""Rules of `secondpass.merging.queue`: what is let in, and every call settled once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, NonFiniteScore, OutOfMemory, Overloaded, SecondPassError
from secondpass.forwards.contract import Computation, Logits
from secondpass.merging.queue import Queue, QueuedJob, Share, columns, next_batch, score_shares
from secondpass.record import Cut
from secondpass.scoring import Reading, Scored, Spent
from secondpass.tokens import Tokens
from tests.merging.watched_forward import watched

COMPUTATION = Computation("cpu", "float32", False, lambda inputs: np.zeros((len(inputs), 1), np.float32))


def tokens(count: int, length: int) -> list[Tokens]:
    """Make inputs that all differ."""
    return [Tokens(np.full(length, row, np.int32), np.zeros(length, np.int32)) for row in range(count)]


def call(pairs: int) -> QueuedJob:
    """Make a call of this many pairs."""
    return QueuedJob(["q"] * pairs, ["d"] * pairs, None)


def accepted(queue: Queue, pairs: int, length: int = 1) -> QueuedJob:
    """Let a call in, with its tokens."""
    made = call(pairs)
    queue.accept(made)
    assert queue.add(made, tokens(pairs, length), 0.0)
    return made


def answer_of(made: QueuedJob) -> Scored:
    """Score everything, with zeros."""
    rows = made.take(10**9, False)
    made.put(rows, np.zeros((len(rows), 1), np.float32), Spent(0.0, 1, 0, 1, 1))
    return made.scored(COMPUTATION)


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

            def give(racing: QueuedJob = racing, answer: Scored = answer) -> None:
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


SPENT = Spent(seconds=0.5, batches=2, retries=1, tokens=10, places=20)


def tokens_calls(*numbers: int, cut: Cut | None = None) -> Tokens:
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
    call = QueuedJob(["q"] * 5, ["a", "b", "a", "c", "b"], None)
    call.add([tokens_calls(1, 2), tokens_calls(3), tokens_calls(1, 2)], 0.1)
    assert (call.untokenised, call.waiting_tokens, call.complete) == (2, 3, False)
    assert call.take(2, False) == (0,)
    call.add([tokens_calls(4, 5, 6), tokens_calls(3)], 0.2)
    assert call.take(100, False) == (3, 1)
    assert call.take(100, False) == ()
    call.put((3, 1), np.array([[3.0], [1.0]], np.float32), SPENT)
    assert not call.complete
    call.put((0,), np.array([[0.5]], np.float32), SPENT)
    assert call.complete
    answer = call.scored(COMPUTATION)
    assert answer.logits.tolist() == [[0.5], [1.0], [0.5], [3.0], [1.0]]
    record = answer.record
    assert (record.pairs, record.tokens, record.batches, record.retries) == (5, 6, 4, 2)
    assert record.tokenise_ms == pytest.approx(300)
    assert record.score_ms == pytest.approx(1000)
    assert record.padding_share == pytest.approx(0.5)
    assert (record.device, record.dtype) == ("cpu", "float32")


def test_cuts_count_pairs_as_the_call_does() -> None:
    """A piece counts from its own start."""
    call = QueuedJob(["q"] * 3, ["a", "b", "c"], None)
    call.add([tokens_calls(1), tokens_calls(2, cut=Cut(1, 0, 7))], 0.0)
    call.add([tokens_calls(3, cut=Cut(0, 2, 5))], 0.0)
    call.put(call.take(100, False), np.zeros((3, 1), np.float32), SPENT)
    cuts = call.scored(COMPUTATION).record.truncated
    assert cuts == (Cut(1, 0, 7), Cut(2, 2, 5))


def test_segments_tell_pairs_apart() -> None:
    """The same ids with other segments are another input."""
    call = QueuedJob(["q"] * 2, ["a", "b"], None)
    call.add([tokens_calls(1, 2), Tokens(np.asarray([1, 2], np.int32), np.asarray([0, 1], np.int32))], 0.0)
    assert sorted(call.take(100, False)) == [0, 1]


def test_an_error_names_every_equal_pair() -> None:
    """One of them was scored, all of them have no score."""
    call = QueuedJob(["q"] * 4, ["a", "b", "a", "c"], None)
    call.add([tokens_calls(1), tokens_calls(2), tokens_calls(1), tokens_calls(3)], 0.0)
    error = call.pairs_of(NonFiniteScore("", (0, 3)))
    assert isinstance(error, NonFiniteScore)
    assert error.indices == (0, 2, 3)
    other = RuntimeError("device lost")
    assert call.pairs_of(other) is other


def test_pairs_without_tokens_count_as_long_as_the_others() -> None:
    """What is not tokenised yet takes time all the same."""
    call = QueuedJob(["q"] * 10, [str(number) for number in range(10)], None)
    assert call.remaining_tokens == 0
    call.add([tokens_calls(1, 1), tokens_calls(2, 2, 2, 2)], 0.0)
    assert call.remaining_tokens == 6 + 8 * 3


def test_a_call_without_pairs_has_an_answer_of_the_models_width() -> None:
    """No rows, but the right number of labels."""
    call = QueuedJob([], [], None, reading=Reading(labels=3))
    call.add([], 0.0)
    assert call.complete
    answer = call.scored(COMPUTATION)
    assert answer.logits.shape == (0, 3)
    assert answer.record.padding_share == 0.0


def test_a_deadline_counts_from_arrival() -> None:
    """None is never late."""
    assert not QueuedJob([], [], None).late
    assert not QueuedJob([], [], 60.0).late
    call = QueuedJob([], [], 0.0005)
    time.sleep(0.001)
    assert call.late


DOCUMENTS = [["mat", "dog " * 30, "cat"], ["open account"], ["sun " * 60, "mat", "river", "sun " * 60]]


def shares(encoder: CrossEncoder, budget: int = 10**6) -> list[Share]:
    """All the documents as calls of one query each."""
    made = []
    for number, documents in enumerate(DOCUMENTS):
        call = QueuedJob([f"query {number}"] * len(documents), documents, None)
        call.add(encoder.tokens(call.queries, call.documents), 0.0)
        made.append(Share(call, call.take(budget, False)))
    return made


def expected(encoder: CrossEncoder, share: Share) -> np.ndarray:
    """Logits of the share's rows, scored by the encoder itself."""
    pairs = [(share.call.queries[row], share.call.documents[row]) for row in share.rows]
    return np.asarray(encoder.predict(pairs, activation_fct=nn.Identity())).reshape(len(pairs), -1)


@pytest.mark.parametrize("budget", [10**6, 130, 1])
def test_together_as_alone(own_tiny: CrossEncoder, budget: int) -> None:
    """Whatever the batches: each share gets its own logits in the order of its rows."""
    parts = shares(own_tiny)
    references = [expected(own_tiny, share) for share in parts]
    forward = watched(own_tiny)
    outcomes = score_shares(forward.ready(), budget, parts)
    assert len(forward.lengths) == 1 or budget < 10**6
    for outcome, reference in zip(outcomes, references, strict=True):
        assert not isinstance(outcome, Exception)
        assert outcome[0] == pytest.approx(reference, abs=1e-5)


@pytest.mark.parametrize("labels", [1, 3])
def test_labels_stay_beside_each_other(tiny_model_folder: Callable[..., str], labels: int) -> None:
    """Any number of them."""
    encoder = CrossEncoder(tiny_model_folder("bert", labels), device="cpu")
    parts = shares(encoder)
    for share, outcome in zip(parts, score_shares(watched(encoder).ready(), 10**6, parts), strict=True):
        assert not isinstance(outcome, Exception)
        assert outcome[0].shape == (len(share.rows), labels)
        assert outcome[0] == pytest.approx(expected(encoder, share), abs=1e-5)


def test_a_non_finite_score_reaches_its_call_only(own_tiny: CrossEncoder) -> None:
    """The error counts pairs as its caller does and names all equal ones; the others have their logits."""

    def spoil(inputs: Sequence[Tokens], logits: Logits) -> Logits:
        return np.where(np.array([[len(item) > 60] for item in inputs]), np.float32(np.nan), logits)

    parts = shares(own_tiny)
    references = [expected(own_tiny, share) for share in parts]
    outcomes = score_shares(watched(own_tiny, spoil).ready(), 10**6, parts)
    error = outcomes[2]
    assert isinstance(error, NonFiniteScore)
    assert error.indices == (0, 3)
    for outcome, reference in list(zip(outcomes, references, strict=True))[:2]:
        assert not isinstance(outcome, Exception)
        assert outcome[0] == pytest.approx(reference, abs=1e-5)


def test_a_pair_that_does_not_fit_fails_its_call_only(own_tiny: CrossEncoder) -> None:
    """Batches are halved down to the pair; its caller hears which one it is."""

    def full(inputs: Sequence[Tokens], logits: Logits) -> Logits:
        if sum(map(len, inputs)) > 60:
            raise MemoryError
        return logits

    outcomes = score_shares(watched(own_tiny, full).ready(), 10**6, shares(own_tiny))
    assert isinstance(outcomes[2], OutOfMemory)
    assert str(outcomes[2]).startswith("pair 0 alone, ")
    for outcome in outcomes[:2]:
        assert not isinstance(outcome, Exception)


def test_an_error_of_the_model_itself_reaches_everybody(own_tiny: CrossEncoder) -> None:
    """Tried together and once alone each."""

    def broken(inputs: Sequence[Tokens], logits: Logits) -> Logits:
        raise RuntimeError("device lost")

    forward = watched(own_tiny, broken)
    outcomes = score_shares(forward.ready(), 10**6, shares(own_tiny))
    assert [str(outcome) for outcome in outcomes] == ["device lost"] * 3
    assert len(forward.lengths) == 4


def test_the_work_of_a_round_is_told(own_tiny: CrossEncoder) -> None:
    """Batches, tokens and places of what was computed."""
    parts = shares(own_tiny)
    forward = watched(own_tiny)
    for outcome in score_shares(forward.ready(), 150, parts):
        assert not isinstance(outcome, Exception)
        work = outcome[1]
        assert work.batches == len(forward.lengths) > 1
        assert work.tokens == sum(map(sum, forward.lengths)) == sum(share.tokens for share in parts)
        assert work.places == sum(len(batch) * max(batch) for batch in forward.lengths)
        assert work.seconds > 0


SPEED = 0.001  # seconds a token


def call_turns(lengths: Sequence[int], arrived: float = 0.0) -> QueuedJob:
    """Make a call whose pairs, all different, have these many tokens."""
    made = QueuedJob([""] * len(lengths), [""] * len(lengths), None)
    made.arrived = arrived
    made.add([Tokens(np.full(n, row, np.int32), np.zeros(n, np.int32)) for row, n in enumerate(lengths)], 0.0)
    return made


def lengths_of(calls: Sequence[QueuedJob], budget: int, padded: bool = False) -> list[tuple[int, list[int]]]:
    """Take a round: of each share the number of its call and its lengths."""
    shares = next_batch(calls, budget, padded, SPEED)
    return [(calls.index(share.call), [len(share.call.tokens[row]) for row in share.rows]) for share in shares]


def test_a_round_is_filled_across_calls_longest_first() -> None:
    """The call that could be done first begins, what is left of the budget goes to the next."""
    calls = [call_turns([10, 30, 20]), call_turns([5, 6, 50])]
    assert lengths_of(calls, 75) == [(0, [30, 20, 10])]
    assert lengths_of(calls, 75) == [(1, [50, 6, 5])]
    assert lengths_of(calls, 75) == []


def test_what_is_left_of_a_round_goes_to_the_next_call() -> None:
    """A model that could take more does."""
    calls = [call_turns([10, 30]), call_turns([35, 20])]
    assert lengths_of(calls, 75) == [(0, [30, 10]), (1, [35])]


def test_a_pair_longer_than_the_budget_goes_alone() -> None:
    """It has to be scored some time; nothing else makes the batch larger still."""
    calls = [call_turns([200]), call_turns([100, 100, 100])]
    assert lengths_of(calls, 100) == [(0, [200])]


@pytest.mark.parametrize(("padded", "expected"), [(False, [40, 10, 10, 10, 10, 10, 10]), (True, [40, 10])])
def test_padding_is_counted_where_there_is_some(padded: bool, expected: list[int]) -> None:
    """A rectangle is as wide as its longest pair."""
    assert lengths_of([call_turns([40, *[10] * 6])], 100, padded) == [(0, expected)]


def test_a_small_call_overtakes_a_large_one_under_way() -> None:
    """Five documents do not wait for ten thousand."""
    calls = [call_turns([10] * 10_000, arrived=0.0), call_turns([10] * 5, arrived=3.0)]
    assert lengths_of(calls, 100)[0] == (1, [10] * 5)


def test_equal_calls_are_finished_one_after_another() -> None:
    """Who came first is done first; nobody's answer waits for everybody's."""
    calls = [call_turns([10] * 20, arrived=0.001 * number) for number in range(3)]
    order = [number for _ in range(6) for number, _ in lengths_of(calls, 100)]
    assert order == [0, 0, 1, 1, 2, 2]


def test_a_large_call_is_not_overtaken_for_ever() -> None:
    """A small call arrives for every round: the large one is done after waiting about as long as it takes alone."""
    large = call_turns([10] * 100, arrived=0.0)
    now, served_first = 0.0, 0
    while large.waiting:
        shares = next_batch([large, call_turns([10] * 10, arrived=now)], 100, False, SPEED)
        served_first += shares[0].call is large
        now += 100 * SPEED
        assert now <= 2 * 1000 * SPEED + 2 * 100 * SPEED
    assert served_first == 10


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=20), min_size=1, max_size=6),
    st.integers(1, 100),
    st.booleans(),
)
def test_every_pair_is_taken_once_and_rounds_keep_to_the_budget(
    lengths: list[list[int]], budget: int, padded: bool
) -> None:
    """Whatever the calls: no pair is lost or doubled, and only a pair alone may be longer than a round."""
    calls = [call_turns(own, arrived=float(number)) for number, own in enumerate(lengths)]
    taken: list[set[int]] = [set() for _ in calls]
    while shares := next_batch(calls, budget, padded, SPEED):
        pairs = sum(len(share.rows) for share in shares)
        assert pairs == 1 or sum(share.tokens for share in shares) <= budget
        for share in shares:
            own = taken[calls.index(share.call)]
            assert own.isdisjoint(share.rows)
            own.update(share.rows)
    assert [len(rows) for rows in taken] == [len(own) for own in lengths]
