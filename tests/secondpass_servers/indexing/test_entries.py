"""Documents as Haystack's stores write them, and the chunks that they come in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.corpora import CorpusDocument
from secondpass_servers.contract import IndexingError
from secondpass_servers.indexing.entries import Embedding, IndexingSettings, chunks, embedded, id_trouble, item


def test_fields_are_those_of_a_haystack_document() -> None:
    """What a store writes, without the nulls that mean nothing."""
    haystack = pytest.importorskip("haystack")
    written = haystack.Document(id="d1", content="Title text", embedding=[0.5, 1.0]).to_dict()
    made = item(0, CorpusDocument("d1", "Title", "text"), [0.5, 1.0])
    assert made.entry is not None
    assert made.entry.source == {key: value for key, value in written.items() if value is not None}
    assert haystack.Document.from_dict(dict(made.entry.source)).content == "Title text"


@pytest.mark.parametrize("text", ["", "plain", "ä 語 \U0001f600", '"quoted" \\ \n\t\x00', "a\ud800b\udc00"])
def test_the_size_is_that_of_the_request_s_lines(text: str) -> None:
    """At least, and not far above."""
    made = item(0, CorpusDocument("ä1", "", text)).entry
    assert made is not None
    lines = json.dumps({"index": {"_id": made.id}}, ensure_ascii=False) + "\n"
    lines += json.dumps(made.source, ensure_ascii=False) + "\n"
    assert 0 <= made.size - len(lines.encode()) <= 64


@pytest.mark.parametrize(
    ("document_id", "reason"),
    [("a" * 512, ""), ("a" * 513, "513 bytes, more than 512"), ("語" * 171, "513 bytes"), ("\ud800", "lone surrogate")],
)
def test_ids_are_measured_in_bytes(document_id: str, reason: str) -> None:
    """As the engines do."""
    found = id_trouble(document_id)
    assert reason in found
    assert bool(found) == bool(reason)
    assert (item(3, CorpusDocument(document_id, "", "t")).entry is None) == bool(reason)


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        ([[1.0]], "gave 1 vectors for 2 texts"),
        ([[1.0], [1.0, 2.0]], "different lengths"),
        ([[], []], "or empty ones"),
        ([[1.0], [float("inf")]], "NaN or infinity"),
    ],
)
def test_vectors_are_checked(vectors: list[list[float]], reason: str) -> None:
    """An index would take some of these and answer nonsense."""
    with pytest.raises(IndexingError, match=reason):
        embedded(Embedding("model", lambda texts: vectors), ["a", "b"])


@given(st.sets(st.integers(0, 60)), st.integers(1, 7), st.integers(1, 3_000))
def test_every_document_is_in_one_piece_of_neighbours(places: set[int], documents: int, size: int) -> None:
    """A piece's range has no document that is not in the piece."""
    placed = [(place, CorpusDocument(str(place), "", "x" * (place * 10))) for place in sorted(places)]
    found = list(chunks(iter(placed), IndexingSettings(max_documents=documents, max_bytes=size), None))
    assert [each.position for chunk in found for each in chunk.items] == sorted(places)
    for chunk in found:
        assert [each.position for each in chunk.items] == list(range(chunk.start, chunk.end))
        assert len(chunk.items) <= documents
        held = sum(each.entry.size for each in chunk.items if each.entry is not None)
        assert held <= size or len(chunk.items) == 1
