"""Chunks sent until they are settled: how large a request is, how long a server is waited for, what is under way."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from secondpass.corpora import CorpusDocument
from secondpass_servers.contract import Entry, IndexingError, Outcome, ServerAway, TooBusy
from secondpass_servers.indexing.delivery import Backoff, BulkSize, Delivered, Delivery, Stopped, execute_bounded
from secondpass_servers.indexing.entries import CorpusChunk, IndexingSettings, chunks
from tests.secondpass_servers.indexing.sinks import QUICK, MemorySink, away, busy


def chunk_of(*ids: str) -> CorpusChunk:
    """A chunk of documents with these ids."""
    documents = [CorpusDocument(name, "", f"text of {name}") for name in ids]
    return next(chunks(enumerate(documents), QUICK, None))


def delivery(sink: MemorySink, backoff: Backoff | None = None) -> Delivery:
    """A delivery with quick settings."""
    return Delivery(sink, "one", backoff or Backoff(QUICK), BulkSize(QUICK), 3)


def test_dead_letters_come_in_the_order_of_the_corpus() -> None:
    """Those with an impossible id among those that the engine refused."""
    sink = MemorySink(lambda number, batch: {"c": "refused", "a": "refused too"})
    done = delivery(sink)(chunk_of("a", "x" * 600, "b", "c"))
    assert [(letter.document.id[:1], letter.reason[:7]) for letter in done.dead] == [
        ("a", "refused"),
        ("x", "the id "),
        ("c", "refused"),
    ]
    assert (done.indexed, set(sink.held)) == (1, {"b"})


def test_an_answer_about_something_else_is_no_acknowledgement() -> None:
    """Each document needs an outcome of its own."""
    for outcomes in ([], [Outcome("other")], [Outcome("a"), Outcome("a")]):
        sink = MemorySink()
        sink.write = lambda batch, outcomes=outcomes: outcomes
        with pytest.raises(IndexingError, match="the answer is not about the 1 documents that were sent"):
            delivery(sink)(chunk_of("a"))


def test_nothing_is_sent_once_the_run_ends() -> None:
    """A chunk that was not begun is not begun."""
    backoff, sink = Backoff(QUICK), MemorySink()
    backoff.stop.set()
    with pytest.raises(Stopped):
        delivery(sink, backoff)(chunk_of("a"))
    assert sink.requests == []


class Answers:
    """Raises what it was given, one after another, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    def __call__(self) -> str:
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


def waits(backoff: Backoff, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record waits instead of waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(backoff.stop, "wait", lambda time: bool(seconds.append(time)))
    return seconds


def test_waits_double_up_to_a_ceiling_less_a_random_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of each is left to chance."""
    backoff = Backoff(IndexingSettings(first_wait=1, longest_wait=8, give_up_after=1_000))
    seconds = waits(backoff, monkeypatch)
    assert backoff.call(Answers(*[away()] * 7)) == "answer"
    for wait, longest in zip(seconds, [1, 2, 4, 8, 8, 8, 8], strict=True):
        assert longest / 2 <= wait <= longest


def test_retry_after_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even beyond the ceiling, but not beyond the end of patience."""
    backoff = Backoff(IndexingSettings(first_wait=1, longest_wait=2, give_up_after=50))
    seconds = waits(backoff, monkeypatch)
    backoff.call(Answers(busy(20), busy(1_000)))
    assert seconds[0] == 20
    assert 49 <= seconds[1] <= 50


def test_the_end_of_patience_is_an_error_of_the_same_kind() -> None:
    """It says how long nothing got through."""
    backoff = Backoff(IndexingSettings(first_wait=0, give_up_after=0.01))
    for error, kind in ((away(), ServerAway), (busy(), TooBusy)):
        with pytest.raises(kind, match="nothing got through for 0 seconds"):
            backoff.call(Answers(*[error] * 1_000_000))


def test_success_renews_patience_and_is_told() -> None:
    """A short break after a long time is no reason to give up."""
    notices: list[str] = []
    backoff = Backoff(IndexingSettings(first_wait=0, give_up_after=0.2), notices.append)
    for _ in range(3):
        backoff.call(Answers(away()))
    assert [notice == "" for notice in notices] == [False, True] * 3


def test_a_refusal_that_stays_is_not_waited_for() -> None:
    """No right to write does not pass."""
    with pytest.raises(IndexingError, match=r"^no right$"):
        Backoff(IndexingSettings()).call(Answers(IndexingError("no right")))


def test_the_end_of_the_run_ends_a_wait() -> None:
    """Within moments, however long the wait was to be."""
    backoff = Backoff(IndexingSettings(first_wait=200, give_up_after=300))
    threading.Timer(0.02, backoff.stop.set).start()
    with pytest.raises(Stopped):
        backoff.call(Answers(away()))


def entries(*sizes: int) -> deque[Entry]:
    """Entries of these sizes."""
    return deque(Entry(str(number), {}, size) for number, size in enumerate(sizes))


def test_a_request_is_bounded_by_documents_and_bytes() -> None:
    """A larger document goes alone, and every request takes one."""
    bulk_size = BulkSize(IndexingSettings(max_documents=3, max_bytes=100))
    waiting = entries(40, 40, 40, 500, 1, 1, 1, 1)
    taken = []
    while waiting:
        taken.append([entry.size for entry in bulk_size.take(waiting)])
    assert taken == [[40, 40], [40], [500], [1, 1, 1], [1]]


def test_complaints_halve_and_successes_grow() -> None:
    """Never below one document, never above the whole."""
    bulk_size = BulkSize(IndexingSettings(max_documents=8))
    for _ in range(10):
        bulk_size.less()
    assert bulk_size.share == 1 / 8
    assert len(bulk_size.take(entries(*[1] * 9))) == 1
    for _ in range(20):
        bulk_size.more()
    assert bulk_size.share == 1.0
    assert len(bulk_size.take(entries(*[1] * 9))) == 8


def test_a_ceiling_in_bytes_stays() -> None:
    """What the server refused once it will refuse again."""
    bulk_size = BulkSize(IndexingSettings(max_documents=100, max_bytes=1_000))
    bulk_size.too_large(800)
    bulk_size.more()
    assert len(bulk_size.take(entries(*[100] * 10))) == 4
    bulk_size.too_large(10_000)
    assert len(bulk_size.take(entries(*[100] * 10))) == 4


def pieces(count: int) -> list[CorpusChunk]:
    """Empty pieces at the places 0, 1, ..."""
    return [CorpusChunk(place, place + 1, ()) for place in range(count)]


def test_works_are_taken_when_there_is_room() -> None:
    """Reading never runs ahead by more than what is under way."""
    taken, told = [], []
    room = threading.Semaphore(0)

    def stream():
        for chunk in pieces(9):
            taken.append(chunk.start)
            if len(taken) > 3:
                # The fourth is taken when the first three are under way; from then on one is let through at a time.
                room.release()
            yield chunk
        for _ in range(3):
            room.release()

    def deliver(chunk: CorpusChunk) -> Delivered:
        assert room.acquire(timeout=10)
        assert len(taken) - len(told) <= 3 + 3
        return Delivered(chunk)

    execute_bounded(stream(), deliver, lambda done: told.append(done.chunk.start), 3, threading.Event())
    assert sorted(told) == taken == list(range(9))


def test_what_is_under_way_is_told_before_an_error_is_raised() -> None:
    """The stop is set, so that others end soon."""
    stop, told = threading.Event(), []

    def deliver(chunk: CorpusChunk) -> Delivered:
        if chunk.start == 0:
            raise ValueError("first")
        assert stop.wait(10)
        return Delivered(chunk)

    with pytest.raises(ValueError, match="first"):
        execute_bounded(pieces(5), deliver, lambda done: told.append(done.chunk.start), 2, stop)
    assert told == [1]


def test_an_error_of_the_stream_ends_it_the_same_way() -> None:
    """A corpus that cannot be read on, for one."""
    stop, told = threading.Event(), []

    def stream():
        yield from pieces(1)
        raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        execute_bounded(stream(), Delivered, lambda done: told.append(done.chunk.start), 2, stop)
    assert told == [0]
    assert stop.is_set()
