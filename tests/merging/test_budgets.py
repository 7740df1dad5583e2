"""Rules of budgets among many callers: who gets what of a batch, and when an answer is given."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from secondpass import CrossEncoder, scoring
from secondpass.errors import DeadlineExceeded, InvalidInput
from secondpass.forwards.choosing import StoredForward
from secondpass.inputs import CutPolicy
from secondpass.merging import SharedReranker, queue
from secondpass.merging import shared as shared_module
from secondpass.merging.queue import Queue, QueuedJob, next_batch
from secondpass.scoring import FIRST_PIECE, Scored, batch_tokens
from secondpass.tokens import Tokens
from secondpass.windows import Windows
from tests.merging.test_queue import COMPUTATION, SPEED, accepted, call, call_turns, lengths_of, tokens, tokens_calls
from tests.merging.test_shared import QUERY, logits, numbers, texts
from tests.merging.watched_forward import WAIT_S, WatchedForward

# ---- batches


class Clock:
    """Time that passes where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of calls."""
    made = Clock()
    monkeypatch.setattr(queue, "time", made)
    return made


def call_budget(lengths: Sequence[int], budget_s: float, arrived: float = 0.0) -> QueuedJob:
    """The same as `call_turns` with a budget."""
    made = QueuedJob([""] * len(lengths), [""] * len(lengths), None, budget_s=budget_s)
    made.arrived = arrived
    made.add([Tokens(np.full(n, row, np.int32), np.zeros(n, np.int32)) for row, n in enumerate(lengths)], 0.0)
    return made


def test_pairs_of_a_call_with_a_budget_are_scored_in_their_order(clock: Clock) -> None:
    """Whatever their lengths, also across pieces of tokens."""
    call = QueuedJob(["q"] * 5, [str(number) for number in range(5)], None, budget_s=1.0)
    call.add([tokens_calls(1), tokens_calls(2, 2, 2), tokens_calls(3)], 0.0)
    assert call.take(1, False) == (0,)
    call.add([tokens_calls(4, 4), tokens_calls(5)], 0.0)
    assert call.take(6, False) == (1, 2, 3)
    assert call.take(6, False) == (4,)


def test_calls_with_budgets_share_every_batch_evenly(clock: Clock) -> None:
    """Whoever came first has no more of it; what some leave goes to the others."""
    calls = [call_budget([10] * 50, 60.0, arrived=0.001 * number) for number in range(3)]
    calls.append(call_budget([10] * 3, 60.0, arrived=0.01))
    assert sorted(lengths_of(calls, 400)) == [(0, [10] * 7), (1, [10] * 5), (2, [10] * 5), (3, [10] * 3)]
    for _ in range(5):
        lengths_of(calls, 400)
    begun = [call.tokens_begun for call in calls]
    assert max(begun[:3]) - min(begun[:3]) <= 100


def test_the_batch_of_short_pairs_is_not_left_to_one_call(clock: Clock) -> None:
    """Where a call's even part is less than its next pair, it takes that one: those left out are the next."""
    calls = [call_budget([40] * 10, 60.0, arrived=0.001 * number) for number in range(4)]
    assert [lengths_of(calls, 200) for _ in range(2)] == [[(0, [40]), (1, [40])], [(2, [40]), (3, [40])]]


def test_a_batch_ends_before_the_next_budget_does(clock: Clock) -> None:
    """By the speed measured; without one it is small."""
    calls = [call_budget([10] * 50, 0.1), call_budget([10] * 50, 60.0)]
    clock.now = 0.04
    assert sum(len(own) for _, own in lengths_of(calls, 200)) == 6
    calls = [call_budget([10] * 50, 60.0)]
    assert len(next_batch(calls, 800, False, 0.0)[0].rows) == 800 // scoring.FIRST_PIECE // 10


@pytest.mark.parametrize("budget_s", [1e-9, 1e12, 1e300])
def test_extreme_budgets_are_batched_like_others(clock: Clock, budget_s: float) -> None:
    """One row where hardly anything is left, and no number is too large."""
    assert lengths_of([call_budget([10] * 50, budget_s)], 400) == [(0, [10] * (1 if budget_s < 1 else 20))]


def test_a_large_call_is_not_kept_waiting_by_budgets_for_ever(clock: Clock) -> None:
    """Calls with small budgets arrive all the time: it is done after waiting about as long as it takes alone."""
    large, small = call_turns([10] * 100), [call_budget([10] * 50, 0.2, arrived=0.0)]
    while large.waiting:
        next_batch([large, *small], 200, False, SPEED)
        clock.now += 100 * SPEED
        small = [one for one in small if not one.spent(SPEED)] + [call_budget([10] * 50, 0.2, arrived=clock.now)]
        assert clock.now <= 2 * 1000 * SPEED + 2 * 100 * SPEED


def test_a_budget_is_spent_when_the_next_row_has_no_time(clock: Clock) -> None:
    """The first is begun as long as there is any, so that a speed measured in a bad moment is corrected."""
    call = call_budget([10] * 3, 1.0)
    assert not call.spent(1e6)
    call.take(10, False)
    assert call.spent(1e6)
    assert not call.spent(0.05)
    clock.now = 0.6
    assert call.spent(0.05)
    call.take(20, False)
    assert not call.spent(0.05)
    clock.now = 1.0
    assert call.spent(0.05)
    assert not call_turns([10]).spent(1e6)


def test_an_answer_is_made_when_no_tokens_come_any_more() -> None:
    """Whoever settles a call that is still being tokenised sees one state of it; what fails is the caller's to know."""
    waiting = Queue(10, 100)
    made = call(2)
    waiting.accept(made)
    assert waiting.add(made, tokens(1, 3), 0.0)
    seen: list[bool] = []

    def answer() -> Scored:
        seen.append(waiting.add(made, tokens(1, 3), 0.0))
        return made.scored(COMPUTATION)

    waiting.settle(made, answer)
    assert seen == [False]
    read = made.future.result(0).read
    assert read is not None
    assert read.tolist() == [False, False]
    broken = accepted(waiting, 1)
    waiting.settle(broken, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        broken.future.result(0)


# ---- calls


class Later:
    """The clock of calls, which a test can put forward."""

    def __init__(self) -> None:
        self.offset = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Theirs in this test."""
    made = Later()
    monkeypatch.setattr(queue, "time", made)
    return made


def test_a_budget_that_suffices_changes_nothing(shared: SharedReranker, own_tiny: CrossEncoder) -> None:
    """Everything is read; the first batch is small, as nobody knows how long it takes."""
    documents = texts(60)
    answer = shared.submit(QUERY, documents, budget_s=1e9).result(WAIT_S)
    assert answer.read is None
    assert numbers(answer) == pytest.approx(logits(own_tiny, documents), abs=1e-5)


def test_the_first_batch_of_a_budget_is_small(shared: SharedReranker, forward: WatchedForward) -> None:
    """Nobody knows how long it takes."""
    assert shared.submit(QUERY, texts(200), budget_s=1e9).result(WAIT_S).record.unscored == 0
    assert sum(forward.lengths[0]) <= batch_tokens("cpu") // FIRST_PIECE


def test_a_budget_ends_with_what_is_scored_by_then(
    shared: SharedReranker, forward: WatchedForward, later: Later
) -> None:
    """The batch under way is the last one; documents are read in their order."""
    documents = texts(200)
    forward.hold()
    answer = shared.submit(QUERY, documents, budget_s=1000.0)
    forward.wait_for_entry()
    later.offset = 2000.0
    forward.gate.set()
    found = answer.result(WAIT_S)
    assert found.read is not None
    count = int(found.read.sum())
    assert 0 < count == sum(found.read[:count]) < 200
    assert np.isnan(found.logits[count:]).all()
    assert np.isfinite(found.logits[:count]).all()
    assert (found.record.unscored, len(forward.lengths)) == (200 - count, 1)


async def test_a_budget_ends_while_nobody_has_tokenised(
    shared: SharedReranker, own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other callers' texts keep the pool: the answer does not wait for them."""
    free = threading.Event()
    tokens = own_tiny.tokens

    def held(*arguments: Any, **settings: Any) -> Any:
        assert free.wait(WAIT_S)
        return tokens(*arguments, **settings)

    monkeypatch.setattr(own_tiny, "tokens", held)
    other = asyncio.create_task(shared.score(QUERY, texts(3)))
    found = await asyncio.wait_for(shared.score(QUERY, texts(5, seed=1), budget_s=0.02), WAIT_S)
    assert not free.is_set()
    assert found.read is not None
    assert (found.read.any(), found.record.unscored, found.logits.shape) == (False, 5, (5, 1))
    free.set()
    assert (await other).read is None
    assert (shared.load.calls, shared.load.tokens) == (0, 0)


def test_a_budget_ends_while_its_texts_are_tokenised(
    shared: SharedReranker, own_tiny: CrossEncoder, later: Later, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has tokens by then is scored, and tokens that come later are let fall."""
    ended = threading.Event()
    made = own_tiny.tokens
    monkeypatch.setattr(shared_module, "PIECE", 2)

    def held(queries: list[str], documents: list[str], **settings: Any) -> Any:
        assert documents != ["c", "d"] or ended.wait(WAIT_S)
        return made(queries, documents, **settings)

    monkeypatch.setattr(own_tiny, "tokens", held)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(shared.submit, QUERY, ["a", "b", "c", "d", "e"], budget_s=1000.0)
        while not shared._scoring.seconds_per_token:
            time.sleep(0.001)
        later.offset = 2000.0
        with shared._queue.changed:
            shared._queue.changed.notify_all()
        while shared.load.calls:
            time.sleep(0.001)
        ended.set()
        found = call.result(WAIT_S).result(WAIT_S)
    assert found.read is not None
    assert found.read.tolist() == [True, True, False, False, False]
    assert shared.load.tokens == 0


def test_a_budget_ends_while_the_model_is_used_directly(own_tiny: CrossEncoder) -> None:
    """No row is taken that would wait for others: the call is answered, and the next one scored."""
    computation = own_tiny.engine().forward.ready()
    assert computation.lock is not None
    own_tiny.use_forward(StoredForward(computation, computation.logits, types=True))
    with SharedReranker(own_tiny) as shared:
        with computation.lock:
            found = shared.submit(QUERY, texts(5), budget_s=0.02).result(WAIT_S)
        assert found.record.unscored == 5
        assert shared.submit(QUERY, texts(5), budget_s=60.0).result(WAIT_S).read is None


def test_a_budget_does_not_wait_for_company(own_tiny: CrossEncoder) -> None:
    """Time is what it has not got."""
    with SharedReranker(own_tiny, max_wait_ms=60_000) as shared:
        assert shared.submit(QUERY, ["mat"], budget_s=60.0).result(WAIT_S).read is None


def test_a_bad_moment_does_not_end_all_budgets(shared: SharedReranker) -> None:
    """By a speed of days a token nothing would be begun, and no other speed be seen."""
    shared._scoring._pace.measure(1e6, 1)
    for _ in range(2):
        found = shared.submit(QUERY, texts(5), budget_s=10.0).result(WAIT_S)
        assert found.read is None or found.read.any()


def test_a_cancelled_budget_stops_at_the_next_piece(shared: SharedReranker, forward: WatchedForward) -> None:
    """What is not begun is not done, and nothing is held."""
    forward.hold()
    answer = shared.submit(QUERY, texts(200), budget_s=1e6)
    forward.wait_for_entry()
    assert answer.cancel()
    forward.gate.set()
    assert shared.submit(QUERY, ["cat"], budget_s=1e6).result(WAIT_S).read is None
    assert len(forward.lengths) == 2
    assert (shared.load.calls, shared.load.pairs, shared.load.tokens) == (0, 0, 0)


def test_a_deadline_beats_a_budget(shared: SharedReranker, forward: WatchedForward, later: Later) -> None:
    """An answer after its deadline is of no use, however little of it was asked for."""
    forward.hold()
    answer = shared.submit(QUERY, texts(200), budget_s=1000.0, deadline_s=1000.0)
    forward.wait_for_entry()
    later.offset = 2000.0
    forward.gate.set()
    with pytest.raises(DeadlineExceeded):
        answer.result(WAIT_S)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), True, "1"])
def test_a_budget_is_in_the_future(shared: SharedReranker, budget: float) -> None:
    """Refused before anything is queued."""
    with pytest.raises(InvalidInput, match="budget_s"):
        shared.submit(QUERY, ["cat"], budget_s=budget)
    assert shared.load.calls == 0


# ---- long documents


@pytest.mark.parametrize("windows", [Windows(), None])
def test_a_long_document_stands_for_no_short_ones(own_tiny: CrossEncoder, windows: Windows | None) -> None:
    """What a call will have of tokens is told by the length of its texts."""
    documents = [*texts(1, longest=400), *texts(40, longest=6)]
    cut = None if windows is None else CutPolicy("windows", windows=windows)
    with SharedReranker(own_tiny, max_waiting_tokens=2500) as shared:
        answer = shared.submit(QUERY, documents, cut=cut, budget_s=60.0).result(WAIT_S)
    assert answer.read is None
    assert answer.record.windows == (0 if windows is None else 2)


def test_long_documents_are_refused_before_all_are_read(
    own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few may be more than all that may wait, and other callers do not wait until all of them are tokens."""
    monkeypatch.setattr(shared_module, "LONG", 2000)
    read: list[int] = []
    own = own_tiny.tokens
    monkeypatch.setattr(own_tiny, "tokens", lambda *given, **more: read.append(len(given[1])) or own(*given, **more))
    with SharedReranker(own_tiny, max_waiting_tokens=4000) as shared:
        with pytest.raises(InvalidInput, match="max_waiting_tokens=4000: split the call"):
            shared.submit(QUERY, texts(9, longest=2000), cut=CutPolicy("windows", windows=Windows()))
    assert read == [1]
