"""The first pass on real indexes of both engines: BM25, embeddings, both."""

from __future__ import annotations

from typing import Any

import pytest

from secondpass.errors import InvalidInput
from secondpass_searching.candidates import FirstPass, find_candidates
from secondpass_searching.searched_index import SearchedIndex
from tests.searching.places import Place

DOCUMENTS: dict[str, dict[str, Any]] = {
    "a": {"content": "the cat sat on the mat", "embedding": [1.0, 0.0]},
    "b": {"content": "a cat and a cat", "embedding": [0.1, 1.0], "title": "cats"},
    "c": {"content": "nothing of it", "embedding": [0.9, 0.1]},
    "d": {"title": "no content, but a cat"},
}


@pytest.fixture
def index(place: Place) -> SearchedIndex:
    """An index of four documents."""
    made = place.create(dims=2)
    place.fill(DOCUMENTS)
    return made


def ids(index: SearchedIndex, **first: Any) -> list[str]:
    """Ids of candidates in order."""
    given: dict[str, Any] = {"query": "cat", "depth": 10, **first}
    return [candidate.id for candidate in find_candidates(index, FirstPass(**given))]


def test_bm25(place: Place, index: SearchedIndex) -> None:
    """Words of the content, best first, with rank, score and text."""
    found = find_candidates(index, FirstPass("cat"))
    assert [(c.index, c.id, c.was, c.text) for c in found] == [
        (place.name, "b", 1, "a cat and a cat"),
        (place.name, "a", 2, "the cat sat on the mat"),
    ]
    assert found[0].scores["bm25"] > found[1].scores["bm25"] > 0


def test_depth_and_dense(index: SearchedIndex) -> None:
    """As many as asked for, by nearness."""
    assert ids(index, depth=1) == ["b"]
    assert ids(index, bm25=False, vector=[2.0, 0.0]) == ["a", "c", "b"]
    assert ids(index, bm25=False, vector=[2.0, 0.0], depth=2) == ["a", "c"]
    assert len(ids(index, bm25=False, vector=[2.0, 0.0], depth=10_000)) == 3


def test_hybrid_takes_a_document_once(index: SearchedIndex) -> None:
    """With both scores and the better rank."""
    found = {c.id: c for c in find_candidates(index, FirstPass("cat", depth=2, vector=[1.0, 0.0]))}
    assert list(found) == ["b", "a", "c"]
    assert set(found["a"].scores) == {"bm25", "dense"}
    assert (found["a"].was, found["b"].was, found["c"].was) == (1, 1, 2)


def test_several_fields(place: Place) -> None:
    """Both are searched and read one after another."""
    text = {"type": "text"}
    index = place.create(mappings={"title": text, "body": {"properties": {"text": text}}})
    place.fill({"x": {"title": "cats", "body": {"text": ["one", "two"]}}})
    (found,) = find_candidates(index, FirstPass("two", ("title", "body.text"), 5))
    assert found.text == "cats one two"


@pytest.mark.parametrize("query", ['"cat', "cat AND -mat", "+cat* (content : cat)", "cat\n\\ 😀", "{{cat}} \x00"])
def test_a_query_is_text_and_no_syntax(index: SearchedIndex, query: str) -> None:
    """Quotes, operators, line breaks and emoji are words or nothing."""
    assert "a" in ids(index, query=query)


@pytest.mark.parametrize("fields", [("content",), ("content", "title"), ("content", "title", "more")])
@pytest.mark.parametrize(
    "rest",
    [
        " ".join(f"w{number}" for number in range(5_000)),
        "cat " * 5_000,
        "東京" * 3_000,
        "😀" * 3_000,
        "x" * 400_000,
        "\U00020ac0" * 3_000 + "\U0001d400" * 200_000,
        "don't_3.14 " * 2_000,
    ],
    ids=["words", "one word", "ideographs", "emoji", "a long word", "astral letters", "joined"],
)
def test_a_query_of_thousands_of_words(place: Place, fields: tuple[str, ...], rest: str) -> None:
    """The engines refuse more than 1,024 clauses, a word in a field each: its beginning is searched, and found."""
    index = place.create(mappings={name: {"type": "text"} for name in ("content", "title", "more")})
    place.fill({"a": {"content": "a cat"}})
    assert ids(index, query=f"cat {rest}", fields=fields) == ["a"]


def test_what_the_server_refuses(place: Place, index: SearchedIndex) -> None:
    """A missing index, other dims, no vector field: one line each, with engine and address."""
    with pytest.raises(InvalidInput, match=rf"no such index.*secondpass {place.engine.command} create"):
        ids(place.opened(f"{place.name}-missing"))
    with pytest.raises(InvalidInput, match=rf"^{place.engine.title} {place.url}.*dimension"):
        ids(index, vector=[1.0])
    with pytest.raises(InvalidInput, match=place.url):
        ids(index, vector=[1.0, 0.0], vector_field="content")


@pytest.mark.parametrize("wrong", [{"query": " "}, {"fields": ()}, {"fields": ("",)}, {"depth": 0}, {"depth": 10_001}])
def test_what_is_refused(wrong: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInput):
        FirstPass(**({"query": "x"} | wrong))
