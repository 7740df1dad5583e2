"""First pass on a real server: BM25, vectors, both, passages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_opensearch.candidates import Candidate, FirstPass, find_candidates, joined, shortened
from secondpass_opensearch.failures import speaking_to
from secondpass_opensearch.indexes import IndexPlan, create_index
from secondpass_opensearch.server import Server
from tests.opensearch.conftest import TEXTS, fill


def found(server: Server, index: str, first: FirstPass) -> list[Candidate]:
    """Candidates of a first pass."""
    with speaking_to(server), server.client() as client:
        return find_candidates(client, index, first)


@pytest.fixture
def vectors(server: Server, new_name: Callable[[], str]) -> str:
    """Four documents around the circle."""
    name = new_name()
    create_index(server, IndexPlan(name, dims=2, replicas=0))
    places = {"password": [1.0, 0.0], "cat": [0.9, 0.1], "paris": [0.0, 1.0], "train": [-1.0, 0.1]}
    for id_, place in places.items():
        fill(server, name, {id_: TEXTS[id_]}, embedding=place)
    return name


def test_bm25(server: Server, index: str) -> None:
    """Best first, with the score and the rank that the engine gave."""
    candidates = found(server, index, FirstPass("a big city of France"))
    assert candidates[0].id == "paris"
    assert [candidate.was for candidate in candidates] == list(range(1, len(candidates) + 1))
    scores = [candidate.scores["bm25"] for candidate in candidates]
    assert scores == sorted(scores, reverse=True)
    assert candidates[0].text == TEXTS["paris"]
    assert candidates[0].passage is None


def test_dense(server: Server, vectors: str) -> None:
    """By cosine."""
    candidates = found(server, vectors, FirstPass("x", depth=2, bm25=False, vector=[2.0, 0.0]))
    assert [candidate.id for candidate in candidates] == ["password", "cat"]


def test_hybrid_takes_a_document_once(server: Server, vectors: str) -> None:
    """With both scores and its better rank; what only one found is there too."""
    candidates = found(server, vectors, FirstPass("capital cat", depth=2, vector=[1.0, 0.0]))
    assert sorted(candidate.id for candidate in candidates) == ["cat", "paris", "password"]
    (cat,) = [candidate for candidate in candidates if candidate.id == "cat"]
    assert set(cat.scores) == {"bm25", "dense"}
    assert cat.was in (1, 2)


def test_passages(server: Server, new_name: Callable[[], str]) -> None:
    """The part that shares words with the query, without marks; of a huge document too, and one without any word."""
    name = new_name()
    create_index(server, IndexPlan(name, dims=2, replicas=0))
    filler = "Nothing of interest here. " * 30
    fill(server, name, {"middle": f"{filler}The quagga was a zebra. {filler}"}, embedding=[1.0, 0.0])
    fill(server, name, {"other": "No such animal."}, embedding=[1.0, 0.1])
    fill(server, name, {"huge": f"quagga {filler * 2000}"}, embedding=[0.0, 1.0])
    first = FirstPass("quagga", vector=[1.0, 0.0], passages=True)
    passages = {candidate.id: candidate.passage or "" for candidate in found(server, name, first)}
    assert "The quagga was a zebra." in passages["middle"]
    assert len(passages["middle"]) < 400
    assert passages["other"] == "No such animal."
    assert passages["huge"].startswith("quagga")


def test_a_query_of_thousands_of_words(server: Server, index: str) -> None:
    """OpenSearch refuses more than 1,024 clauses; the first 400 different words are enough for a first pass."""
    long = " ".join(["Paris", *(f"word{number}" for number in range(5_000))])
    assert {candidate.id for candidate in found(server, index, FirstPass(long))} == {"train"}
    assert shortened("same words stay as  they are") == "same words stay as  they are"


@pytest.mark.parametrize("query", ['"quo"te', "back\\slash", "AND OR (", "é🙂\n\t", "\x00", "a" * 40_000])
def test_any_text_is_a_query(server: Server, index: str, query: str) -> None:
    """No query language in between."""
    assert isinstance(found(server, index, FirstPass(query)), list)


def test_no_such_index(server: Server) -> None:
    """The server's reason, in one line."""
    with pytest.raises(SecondPassError, match="no such index"):
        found(server, "test-nobody-made-it", FirstPass("x"))


def test_vectors_of_another_length(server: Server, vectors: str) -> None:
    """The embedder is not the one of the index."""
    with pytest.raises(SecondPassError, match="dimension"):
        found(server, vectors, FirstPass("x", vector=[1.0, 0.0, 0.0]))


def test_several_fields_are_joined_in_their_order() -> None:
    """Lists, numbers, objects by dots; what is absent is skipped."""
    source = {"title": "A", "body": ["b", None, "c"], "meta": {"year": 1999}, "dotted.name": "d"}
    assert joined(source, ["title", "body", "none", "meta.year", "dotted.name"]) == "A b c 1999 d"
    with pytest.raises(InvalidInput, match="objects"):
        joined(source, ["meta"])


@pytest.mark.parametrize("wrong", [{"query": " "}, {"fields": ()}, {"fields": ("",)}, {"depth": 0}, {"depth": 10_001}])
def test_what_is_refused(wrong: dict[str, object]) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInput):
        FirstPass(**({"query": "x"} | wrong))  # type: ignore[arg-type]
