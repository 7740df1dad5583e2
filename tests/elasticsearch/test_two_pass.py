"""Both passes on a real index: the order is the engine's over the same texts."""

from __future__ import annotations

from typing import NoReturn

import pytest
from elasticsearch import Elasticsearch

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass_elasticsearch.candidates import FirstPass, find_candidates
from secondpass_elasticsearch.index_definition import IndexDefinition, create_index
from secondpass_elasticsearch.two_pass import two_pass_search
from tests.small_collection import CORPUS

QUERY = "the cat and the train to Paris, second account"
FIRST = FirstPass(QUERY, ("content",), 10)


@pytest.fixture
def filled(client: Elasticsearch, index: str) -> str:
    """The small collection."""
    create_index(client, "THE SERVER", IndexDefinition(index))
    for row in CORPUS:
        client.index(index=index, id=row["_id"], document={"content": f"{row['title']} {row['text']}"}, refresh=True)
    return index


def test_the_order_is_the_engines(client: Elasticsearch, filled: str, tiny: CrossEncoder) -> None:
    """Scores, order, first ranks and passages belong together."""
    found = find_candidates(client, "THE SERVER", filled, FIRST)
    answer = two_pass_search(client, "THE SERVER", filled, FIRST, lambda: tiny, passages=True)
    expected = tiny.rank(QUERY, [candidate.text for candidate in found])
    assert [hit.candidate for hit in answer.hits] == [found[row["corpus_id"]] for row in expected]
    assert [hit.score for hit in answer.hits] == pytest.approx([float(row["score"]) for row in expected])
    assert answer.candidates == len(found) == 5
    assert [hit.candidate.was for hit in answer.hits] != sorted(hit.candidate.was for hit in answer.hits)
    assert all(hit.passage and hit.passage in hit.candidate.text for hit in answer.hits)


def test_top_k_and_batches(client: Elasticsearch, filled: str, tiny: CrossEncoder) -> None:
    """The best of all candidates, not of the first ones."""
    whole = two_pass_search(client, "THE SERVER", filled, FIRST, lambda: tiny)
    best = two_pass_search(client, "THE SERVER", filled, FIRST, lambda: tiny, top_k=2, batch_size=1)
    assert [hit.candidate.id for hit in best.hits] == [hit.candidate.id for hit in whole.hits][:2]
    assert best.candidates == 5
    assert best.hits[0].passage is None


def never() -> NoReturn:
    """A model that must not be loaded."""
    raise AssertionError("loaded")


def test_nothing_found_loads_no_model(client: Elasticsearch, filled: str) -> None:
    """Neither does an index that is not there."""
    assert two_pass_search(client, "THE SERVER", filled, FirstPass("zebra", ("content",), 5), never).hits == ()
    with pytest.raises(InvalidInput, match="no such index"):
        two_pass_search(client, "THE SERVER", f"{filled}-x", FIRST, never)


def test_documents_without_the_text(client: Elasticsearch, index: str, tiny: CrossEncoder) -> None:
    """Some are counted; if none has the text, the wrong field was named, and no order is made up."""
    mappings = {"properties": {"content": {"type": "text"}, "embedding": {"type": "dense_vector", "dims": 2}}}
    client.indices.create(index=index, mappings=mappings)
    client.index(index=index, id="a", document={"embedding": [1, 0]}, refresh=True)
    first = FirstPass("cat", ("content",), 5, bm25=False, vector=[1.0, 0.0])
    with pytest.raises(InvalidInput, match="none of the 1 documents found has a text in content"):
        two_pass_search(client, "THE SERVER", index, first, lambda: tiny)
    client.index(index=index, id="b", document={"content": "cat", "embedding": [1, 0]}, refresh=True)
    answer = two_pass_search(client, "THE SERVER", index, first, lambda: tiny)
    assert (answer.candidates, answer.without_text) == (2, 1)


def test_cut_documents_are_named(client: Elasticsearch, index: str, tiny: CrossEncoder) -> None:
    """A text longer than the model's window is read in part, and the answer says whose."""
    create_index(client, "THE SERVER", IndexDefinition(index))
    client.index(index=index, id="long", document={"content": "cat " * 5_000}, refresh=True)
    client.index(index=index, id="short", document={"content": "cat"}, refresh=True)
    answer = two_pass_search(client, "THE SERVER", index, FirstPass("cat", ("content",), 5), lambda: tiny)
    assert answer.cut == ("long",)
