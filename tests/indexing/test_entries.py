"""Documents as Haystack's stores write them."""

from __future__ import annotations

import json

import pytest

from secondpass.corpora import CorpusDocument
from secondpass_indexing.entries import Embedding, embedded, id_trouble, item
from secondpass_indexing.errors import IndexingError


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
