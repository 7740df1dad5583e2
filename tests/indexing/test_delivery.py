"""One piece of work: sent until it is settled."""

from __future__ import annotations

import pytest

from secondpass.corpora import CorpusDocument
from secondpass_indexing.delivery import Delivery
from secondpass_indexing.errors import IndexingError
from secondpass_indexing.patience import Patience, Stopped
from secondpass_indexing.pressure import Pressure
from secondpass_indexing.sink import Outcome
from secondpass_indexing.work import Work, works
from tests.indexing.sinks import QUICK, MemorySink


def work_of(*ids: str) -> Work:
    """A piece of work of documents with these ids."""
    documents = [CorpusDocument(name, "", f"text of {name}") for name in ids]
    return next(works(enumerate(documents), QUICK, None))


def delivery(sink: MemorySink, patience: Patience | None = None) -> Delivery:
    """A delivery with quick settings."""
    return Delivery(sink, "one", patience or Patience(QUICK), Pressure(QUICK), 3)


def test_dead_letters_come_in_the_order_of_the_corpus() -> None:
    """Those with an impossible id among those that the engine refused."""
    sink = MemorySink(lambda number, batch: {"c": "refused", "a": "refused too"})
    done = delivery(sink)(work_of("a", "x" * 600, "b", "c"))
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
            delivery(sink)(work_of("a"))


def test_nothing_is_sent_once_the_run_ends() -> None:
    """A piece of work that was not begun is not begun."""
    patience, sink = Patience(QUICK), MemorySink()
    patience.stop.set()
    with pytest.raises(Stopped):
        delivery(sink, patience)(work_of("a"))
    assert sink.requests == []
