"""The index that `create` makes, on real servers of both engines."""

from __future__ import annotations

from typing import Any

import pytest

from secondpass.errors import InvalidInput
from secondpass_searching.index_layout import LONGEST_KEYWORD, IndexLayout
from tests.searching.places import Place


def test_bm25_reads_the_content_alone(place: Place) -> None:
    """A query that names no field, as Haystack's does, finds words of the content and no meta and no id."""
    index = place.create()
    place.fill({"cat": {"id": "cat", "content": "a mat", "title": "cat"}, "b": {"id": "b", "content": "the cat sat"}})
    query = {"multi_match": {"query": "cat", "fuzziness": "0", "type": "most_fields", "operator": "OR"}}
    assert [hit["_id"] for hit in index.hits({"query": query})] == ["b"]


def test_meta_is_keyword_and_may_be_long(place: Place) -> None:
    """A string longer than Lucene's longest term does not cost the document; shorter ones filter."""
    index = place.create()
    huge = "€" * 20_000
    place.fill({"a": {"content": "x", "source": "wiki", "raw": huge, "meta": {"lang": "x" * 5_000}}})
    (found,) = index.hits({"query": {"term": {"source": "wiki"}}})
    assert found["_source"]["raw"] == huge
    assert len(index.hits({"query": {"term": {"meta.lang": "x" * 5_000}}})) == 1
    assert 4 * LONGEST_KEYWORD <= 32_766


def test_what_was_asked_for_and_no_more(place: Place) -> None:
    """Embeddings, shards and replicas only on request."""
    plain = place.create(suffix="-1")
    full = place.create(suffix="-2", dims=3, shards=2, replicas=0, analyzer="whitespace")
    assert set(plain.known_fields(["content", "embedding"])) == {"content"}
    assert dict(full.known_fields(["embedding"])) == {"embedding": [place.engine.vector_type]}
    made = dict(place.client.indices.get(index=f"{place.name}-2"))[f"{place.name}-2"]
    settings = made["settings"]["index"]
    assert (settings["number_of_shards"], settings["number_of_replicas"]) == ("2", "0")
    assert made["mappings"]["properties"]["content"]["analyzer"] == "whitespace"


@pytest.mark.parametrize("wrong", [{"name": " "}, {"dims": 0}, {"shards": 0}, {"dims": True}])
def test_layouts_that_are_refused(wrong: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInput):
        IndexLayout(**({"name": "x"} | wrong))


def test_what_create_says() -> None:
    """Where, and what was made."""
    layout = IndexLayout("docs", "english", dims=4)
    expected = "Created http://h:1/docs: BM25 on content, analyzer english, embeddings of 4 numbers."
    assert layout.made("http://h:1") == expected
    assert IndexLayout("docs").made("http://h:1").endswith("analyzer standard, no embeddings.")
