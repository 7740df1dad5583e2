"""What both engines give, held against their servers."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from secondpass.errors import InvalidInput
from secondpass_servers.index import (
    LONGEST_KEYWORD,
    EngineAccess,
    IndexLayout,
    check_vector_field,
    mappings_of,
    require_fields,
)
from tests.secondpass_servers.searching.places import Place


def test_names(place: Place) -> None:
    """A message names engine and address; the command is the program's."""
    assert place.engine.at("http://h:1/docs") == f"{place.engine.title} http://h:1/docs"
    assert f"{place.engine.command} [OPTIONS]" in place.run("--help").stdout


def test_words_of_requests(place: Place) -> None:
    """Type and length of embeddings, and the highlighter's limit, as this engine calls them."""
    index = place.create(dims=3)
    place.fill({"a": {"content": "one cat. " * 50}})
    answer = index.field_mapping("embedding")
    assert answer is not None
    mapping = answer[place.name]["mappings"]["embedding"]["mapping"]["embedding"]
    assert (mapping["type"], mapping[place.engine.length_key]) == (place.engine.vector_type, 3)
    highlight = {"fields": {"content": {}}, place.engine.analysed_key: 20}
    (hit,) = index.hits({"query": {"match": {"content": "cat"}}, "highlight": highlight})
    assert hit["highlight"]["content"]


def test_an_index_to_search_and_to_write(place: Place) -> None:
    """On the server that the environment names, or the one that is given, the names in messages the same."""
    access: EngineAccess = importlib.import_module(f"secondpass_servers.{place.engine.command}.client").ACCESS
    place.create(dims=2)
    place.fill({"a": {"content": "cat"}})
    for url in (None, place.url):
        with access.searched(url, 30.0, place.name) as index, access.sink(url, 30.0, place.name) as sink:
            assert (len(index.hits({})), sink.count()) == (1, 1)
            assert index.name == sink.name == access.engine.at(f"{place.url}/{place.name}")
            assert sink.field_mapping("embedding") == index.field_mapping("embedding")
    with pytest.raises(InvalidInput, match="--url"), access.searched("nowhere", 30.0, place.name):
        pass


def test_fields_that_are_not_there(place: Place) -> None:
    """They would find nothing, silently."""
    index = place.create(dims=2)
    require_fields(index, ["content", "embedding"])
    where = f"{place.engine.title} {place.url}/{place.name}"
    with pytest.raises(InvalidInput, match=f"^{where} has no field body, vector: name the field"):
        require_fields(index, ["content", "body", "vector"])
    assert dict(index.known_fields(["embedding", "none"])) == {"embedding": [place.engine.vector_type]}


def test_an_index_that_is_not_there(place: Place) -> None:
    """Is told as such."""
    index = place.opened(f"{place.name}-missing")
    with pytest.raises(InvalidInput, match="no such index"):
        require_fields(index, ["content"])
    with pytest.raises(InvalidInput, match="no such index"):
        index.field_mapping("content")


def test_a_shard_that_fails_fails_the_search(place: Place) -> None:
    """Half an answer would look like a whole one: an alias over two indexes, one of which cannot run the query."""
    index = place.create(dims=2)
    place.fill({"a": {"content": "cat", "embedding": [1, 0]}})
    place.create(mappings={"embedding": {"type": "keyword"}}, suffix="-2")
    both = place.opened(f"{place.name}*")
    body = index.nearest([1.0, 0.0], "embedding", 5)
    assert len(index.hits(body)) == 1
    with pytest.raises(InvalidInput):
        both.hits(body)


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


def check(place: Place, name: str, field: str = "embedding", dims: int | None = None) -> None:
    """Ask the server and judge."""
    check_vector_field(place.engine, "NAME", mappings_of(place.opened(name), field), field, dims)


def test_what_fits(place: Place) -> None:
    """Of the length, or before a length is known; by an alias too."""
    place.create(dims=3)
    check(place, place.name)
    check(place, place.name, dims=3)
    place.client.indices.put_alias(index=place.name, name=f"{place.name}-alias")
    check(place, f"{place.name}-alias", dims=3)


def test_what_does_not_fit(place: Place) -> None:
    """No such field, another type, another length, each with what is there."""
    place.create(dims=3)
    with pytest.raises(InvalidInput, match=r"NAME: the field embedding takes embeddings of 3 numbers, and those .* 4"):
        check(place, place.name, dims=4)
    with pytest.raises(InvalidInput, match="NAME: the field content holds values of the type text, not embeddings"):
        check(place, place.name, "content")
    advice = f"`secondpass {place.engine.command} create NEW_INDEX --dims 4`"
    with pytest.raises(InvalidInput, match=f"NAME has no field vectors for embeddings: {advice}"):
        check(place, place.name, "vectors", 4)


def test_fields_inside_objects(place: Place) -> None:
    """By their dotted name; every index of an alias must fit."""
    vector = {"type": place.engine.vector_type, place.engine.length_key: 2}
    place.create(mappings={"meta": {"properties": {"vector": vector}}}, suffix="-1")
    check(place, f"{place.name}-1", "meta.vector", 2)
    place.create(mappings={"meta": {"properties": {"vector": {"type": "float"}}}}, suffix="-2")
    with pytest.raises(InvalidInput, match="type float"):
        check(place, f"{place.name}-*", "meta.vector", 2)
