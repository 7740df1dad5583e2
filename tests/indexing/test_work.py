"""Pieces of work: neighbours, bounded by documents and by bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secondpass.corpora import CorpusDocument
from secondpass_indexing.settings import IndexingSettings
from secondpass_indexing.work import works


@given(st.sets(st.integers(0, 60)), st.integers(1, 7), st.integers(1, 3_000))
def test_every_document_is_in_one_piece_of_neighbours(places: set[int], documents: int, size: int) -> None:
    """A piece's range has no document that is not in the piece."""
    placed = [(place, CorpusDocument(str(place), "", "x" * (place * 10))) for place in sorted(places)]
    found = list(works(iter(placed), IndexingSettings(max_documents=documents, max_bytes=size), None))
    assert [each.position for work in found for each in work.items] == sorted(places)
    for work in found:
        assert [each.position for each in work.items] == list(range(work.start, work.end))
        assert len(work.items) <= documents
        held = sum(each.entry.size for each in work.items if each.entry is not None)
        assert held <= size or len(work.items) == 1
