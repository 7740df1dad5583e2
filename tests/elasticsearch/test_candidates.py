"""The first pass on a real index."""

from __future__ import annotations

from typing import Any

import pytest
from elasticsearch import Elasticsearch

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.candidates import FirstPass, check_fields, find_candidates, joined, searches
from secondpass_elasticsearch.index_definition import IndexDefinition, create_index

DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {"content": "the cat sat on the mat", "embedding": [1.0, 0.0]},
    "b": {"content": "a cat and a cat", "embedding": [0.0, 1.0], "title": "cats"},
    "c": {"content": "nothing of it", "embedding": [0.9, 0.1]},
    "d": {"title": "no content, but a cat"},
}


@pytest.fixture
def filled(client: Elasticsearch, index: str) -> str:
    """An index of four documents."""
    create_index(client, "THE SERVER", IndexDefinition(index, dims=2))
    for name, source in DOCUMENTS.items():
        client.index(index=index, id=name, document={"id": name, **source}, refresh=True)
    return index


def ids(client: Elasticsearch, index: str, **first: Any) -> list[str]:
    """Ids of candidates in order."""
    given: dict[str, Any] = {"query": "cat", "fields": ("content",), "depth": 10, **first}
    wanted = FirstPass(**given)
    return [candidate.id for candidate in find_candidates(client, "THE SERVER", index, wanted)]


def test_bm25(client: Elasticsearch, filled: str) -> None:
    """Words of the content, best first, with rank, score and text."""
    found = find_candidates(client, "THE SERVER", filled, FirstPass("cat", ("content",), 10))
    assert [(c.index, c.id, c.was, c.text) for c in found] == [
        (filled, "b", 1, "a cat and a cat"),
        (filled, "a", 2, "the cat sat on the mat"),
    ]
    assert found[0].scores["bm25"] > found[1].scores["bm25"] > 0


def test_depth_and_dense(client: Elasticsearch, filled: str) -> None:
    """As many as asked for, by nearness."""
    assert ids(client, filled, depth=1) == ["b"]
    assert ids(client, filled, bm25=False, vector=[1.0, 0.0]) == ["a", "c", "b"]
    assert ids(client, filled, bm25=False, vector=[1.0, 0.0], depth=2) == ["a", "c"]


def test_hybrid_takes_a_document_once(client: Elasticsearch, filled: str) -> None:
    """With both scores and the better rank."""
    first = FirstPass("cat", ("content",), 2, vector=[1.0, 0.0])
    found = {c.id: c for c in find_candidates(client, "THE SERVER", filled, first)}
    assert list(found) == ["b", "a", "c"]
    assert set(found["a"].scores) == {"bm25", "dense"}
    assert (found["a"].was, found["b"].was, found["c"].was) == (1, 1, 2)


def test_several_fields(client: Elasticsearch, index: str) -> None:
    """Both are searched and read one after another."""
    mappings = {"properties": {"title": {"type": "text"}, "body": {"properties": {"text": {"type": "text"}}}}}
    client.indices.create(index=index, mappings=mappings)
    client.index(index=index, id="x", document={"title": "cats", "body": {"text": ["one", "two"]}}, refresh=True)
    (found,) = find_candidates(client, "THE SERVER", index, FirstPass("two", ("title", "body.text"), 5))
    assert found.text == "cats one two"


def test_texts_of_awkward_sources() -> None:
    """Numbers, lists, dotted keys and nothing at all; an object is no text."""
    assert (
        joined({"a": 1, "b": None, "c": ["x", None, 2.5], "d.e": "dotted"}, ("a", "b", "c", "d.e", "f"))
        == "1 x 2.5 dotted"
    )
    with pytest.raises(InvalidInput, match="the field 'a' holds objects"):
        joined({"a": {"b": "c"}}, ("a",))


def test_a_query_is_text_and_no_syntax(client: Elasticsearch, filled: str) -> None:
    """Quotes, operators, line breaks and emoji are words or nothing."""
    for query in ('"cat', "cat AND -mat", "+cat* (content : cat)", "cat\n\\ 😀", "{{cat}}", "a" * 20_000 + " cat"):
        assert "a" in ids(client, filled, query=query)
    assert ids(client, filled, query="😀") == []


def test_what_the_server_refuses(client: Elasticsearch, filled: str) -> None:
    """A missing index, other dims, no vector field: one line each."""
    with pytest.raises(InvalidInput, match=r"no such index.*elasticsearch create"):
        ids(client, f"{filled}-missing")
    with pytest.raises(InvalidInput, match="dimension"):
        ids(client, filled, vector=[1.0])
    with pytest.raises(InvalidInput, match="THE SERVER"):
        ids(client, filled, vector=[1.0, 0.0], vector_field="content")


def test_fields_that_are_not_there(client: Elasticsearch, filled: str) -> None:
    """They would find nothing, silently."""
    check_fields(client, "THE SERVER", filled, ["content", "embedding"])
    with pytest.raises(InvalidInput, match=f"THE SERVER/{filled} has no field body, vector"):
        check_fields(client, "THE SERVER", filled, ["content", "body", "vector"])


def test_no_more_than_the_server_looks_at() -> None:
    """num_candidates has a ceiling that k may reach."""
    (search,) = searches(FirstPass("q", ("content",), 5_000, bm25=False, vector=[1.0])).values()
    assert search["knn"]["num_candidates"] == 10_000
