"""Rules of `secondpass.merging.scoring_thread`: when it runs, what it tells, and that nobody waits for ever."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator

import pytest

from secondpass import CrossEncoder
from secondpass.errors import SecondPassError
from secondpass.forwards.contract import Computation
from secondpass.merging import MergedBatch, SharedReranker, scoring_thread
from tests.merging.watched_forward import WAIT_S, WatchedForward, watched

NAME = "secondpass-score"


@pytest.fixture
def forward(own_tiny: CrossEncoder) -> WatchedForward:
    """The forward behind `own_tiny`, for a test to hold up."""
    return watched(own_tiny)


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    """Whatever a test does: closing ends the thread."""
    yield
    assert NAME not in {thread.name for thread in threading.enumerate()}


def test_a_shared_reranker_that_nobody_closed_leaves_nothing(
    own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread starts with the first call, ends when idle, starts again with the next; the object is then freed."""
    monkeypatch.setattr(scoring_thread, "IDLE_S", 0.01)
    shared = SharedReranker(own_tiny)
    for _ in range(3):
        assert NAME not in {thread.name for thread in threading.enumerate()}
        shared.submit("cat", ["mat"]).result(WAIT_S)
        for thread in threading.enumerate():
            if thread.name == NAME:
                thread.join(WAIT_S)
    reference = weakref.ref(shared)
    del shared
    gc.collect()
    assert reference() is None


def test_the_watcher_hears_of_every_round(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """Calls, pairs and tokens of each; the numbers add up."""
    heard: list[MergedBatch] = []
    with SharedReranker(own_tiny, watch=heard.append) as shared:
        forward.hold()
        futures = [shared.submit("cat", ["mat"])]
        forward.wait_for_entry()
        futures += [shared.submit("cat", ["mat", "dog"]), shared.submit("cat", ["sun", "sun"])]
        forward.gate.set()
        answers = [future.result(WAIT_S) for future in futures]
    assert [(batch.calls, batch.pairs) for batch in heard] == [(1, 1), (2, 3)]
    assert sum(batch.tokens for batch in heard) == sum(answer.record.tokens for answer in answers)
    assert all(batch.seconds > 0 for batch in heard)


def test_a_watcher_that_fails_is_logged_and_nothing_else(
    own_tiny: CrossEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics are no reason to lose an answer."""

    def fail(batch: MergedBatch) -> None:
        raise ValueError("no room for metrics")

    with SharedReranker(own_tiny, watch=fail) as shared, caplog.at_level(logging.ERROR):
        assert len(shared.submit("cat", ["mat"]).result(WAIT_S).logits) == 1
    assert "no room for metrics" in caplog.text


def test_the_load_tells_what_waits_and_for_how_long(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """At the speed measured so far; nothing is expected before anything was measured."""
    with SharedReranker(own_tiny) as shared:
        assert shared.load.expected_s == 0.0
        shared.submit("cat", ["mat"]).result(WAIT_S)
        forward.hold()
        first = shared.submit("cat", ["mat"])
        forward.wait_for_entry()
        second = shared.submit("cat", ["mat", "dog", "dog"])
        load = shared.load
        assert (load.calls, load.pairs, load.tokens) == (2, 4, 10)
        assert load.expected_s > 0
        forward.gate.set()
        first.result(WAIT_S)
        second.result(WAIT_S)


def test_calls_during_training_are_refused_and_later_answered(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """Also what waited when training began in another thread: no score with dropout noise."""
    refusal = "this CrossEncoder is being trained in another thread"
    with SharedReranker(own_tiny) as shared:
        forward.hold()
        begun = shared.submit("cat", ["mat"])
        forward.wait_for_entry()
        waiting = shared.submit("cat", ["dog"])
        own_tiny.training_thread = -1
        forward.gate.set()
        for future in (begun, waiting):
            with pytest.raises(SecondPassError, match=refusal):
                future.result(WAIT_S)
        with pytest.raises(SecondPassError, match=refusal):
            shared.submit("cat", ["mat"])
        own_tiny.training_thread = None
        assert len(shared.submit("cat", ["mat"]).result(WAIT_S).logits) == 1


def test_calls_on_a_closed_model_are_refused(own_tiny: CrossEncoder, forward: WatchedForward) -> None:
    """What waits hears of it too, and closing afterwards returns."""
    with SharedReranker(own_tiny) as shared:
        forward.hold()
        futures = [shared.submit("cat", ["mat"])]
        forward.wait_for_entry()
        futures.append(shared.submit("cat", ["dog"]))
        own_tiny.close()
        forward.gate.set()
        for future in futures:
            with pytest.raises(SecondPassError, match="closed: load the model again"):
                future.result(WAIT_S)
        with pytest.raises(SecondPassError, match="closed: load the model again"):
            shared.submit("cat", ["mat"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_ends_the_thread_nobody_waits_for_ever(
    own_tiny: CrossEncoder, forward: WatchedForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of our own reaches those who wait, and the next call starts a new thread."""
    with SharedReranker(own_tiny) as shared:
        with monkeypatch.context() as patch:
            patch.setattr(scoring_thread, "next_batch", lambda *arguments: 1 / 0)
            with pytest.raises(SecondPassError, match="the scoring thread ended: ZeroDivisionError"):
                shared.submit("cat", ["mat"]).result(WAIT_S)
            for thread in threading.enumerate():
                if thread.name == NAME:
                    thread.join(WAIT_S)
        assert len(shared.submit("cat", ["mat"]).result(WAIT_S).logits) == 1


@pytest.mark.parametrize("budget_s", [None, WAIT_S])
def test_a_thread_that_cannot_start_is_started_by_the_next_call(
    own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch, budget_s: float | None
) -> None:
    """The system may have no room for one: that call fails and leaves nothing."""
    start = threading.Thread.start

    def full(thread: threading.Thread) -> None:
        if thread.name == NAME:
            raise RuntimeError("can't start new thread")
        start(thread)

    with SharedReranker(own_tiny) as shared:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", full)
            with pytest.raises(RuntimeError, match="can't start"):
                shared.submit("cat", ["mat"], budget_s=budget_s)
        assert shared.load.calls == 0
        assert len(shared.submit("cat", ["mat"], budget_s=budget_s).result(WAIT_S).logits) == 1


def test_a_call_that_came_after_the_model_was_asked_waits_for_the_next_round(
    own_tiny: CrossEncoder, forward: WatchedForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that changed before a call came are those that it is scored with."""
    asked, later = forward.ready, []

    def ready() -> Computation:
        made = asked()
        if not later:
            later.append(shared.submit("cat", ["dog"]))
        return made

    with SharedReranker(own_tiny) as shared:
        monkeypatch.setattr(forward, "ready", ready)
        shared.submit("cat", ["mat"]).result(WAIT_S)
        later[0].result(WAIT_S)
    assert [len(batch) for batch in forward.lengths] == [1, 1]
