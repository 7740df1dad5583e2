"""The index that `create` makes, on a real server."""

from __future__ import annotations

import pytest
from elasticsearch import Elasticsearch

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.index_definition import LONGEST_KEYWORD, IndexDefinition, create_index


def test_bm25_reads_the_content_alone(client: Elasticsearch, index: str) -> None:
    """A query that names no field, as Haystack's does, finds words of the content and no meta and no id."""
    create_index(client, "THE SERVER", IndexDefinition(index))
    documents = {"cat": {"content": "a mat", "title": "cat"}, "b": {"content": "the cat sat"}}
    for name, source in documents.items():
        client.index(index=index, id=name, document={"id": name, **source}, refresh=True)
    query = {"multi_match": {"query": "cat", "fuzziness": "0", "type": "most_fields", "operator": "OR"}}
    hits = client.search(index=index, query=query).body["hits"]["hits"]
    assert [hit["_id"] for hit in hits] == ["b"]


def test_meta_is_keyword_and_may_be_long(client: Elasticsearch, index: str) -> None:
    """A string longer than Lucene's longest term does not cost the document; shorter ones filter."""
    create_index(client, "THE SERVER", IndexDefinition(index))
    huge = "€" * 20_000
    client.index(index=index, id="a", document={"content": "x", "source": "wiki", "raw": huge}, refresh=True)
    assert client.count(index=index, query={"term": {"source": "wiki"}})["count"] == 1
    assert client.get(index=index, id="a")["_source"]["raw"] == huge
    assert 4 * LONGEST_KEYWORD <= 32_766
    mapping = client.indices.get_mapping(index=index).body[index]["mappings"]["properties"]
    assert "embedding" not in mapping


def test_embeddings_on_request(client: Elasticsearch, index: str) -> None:
    """Dims, similarity, shards and replicas are what was asked for."""
    definition = IndexDefinition(index, "whitespace", 2, 0, dims=3, similarity="l2_norm")
    create_index(client, "THE SERVER", definition)
    found = client.indices.get(index=index).body[index]
    vector = found["mappings"]["properties"]["embedding"]
    assert (vector["dims"], vector["similarity"], vector["index"]) == (3, "l2_norm", True)
    assert found["mappings"]["properties"]["content"]["analyzer"] == "whitespace"
    settings = found["settings"]["index"]
    assert (settings["number_of_shards"], settings["number_of_replicas"]) == ("2", "0")


def test_nothing_is_written_over(client: Elasticsearch, index: str) -> None:
    """An index or an alias of that name stays as it is."""
    create_index(client, "THE SERVER", IndexDefinition(index))
    client.index(index=index, id="a", document={"content": "x"}, refresh=True)
    with pytest.raises(InvalidInput, match=f"THE SERVER has an index '{index}' already, and it is left as it is"):
        create_index(client, "THE SERVER", IndexDefinition(index, dims=3))
    assert client.count(index=index)["count"] == 1
    client.indices.put_alias(index=index, name=f"{index}-alias")
    with pytest.raises(InvalidInput, match="alias"):
        create_index(client, "THE SERVER", IndexDefinition(f"{index}-alias"))


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (IndexDefinition("Upper"), "lowercase"),
        (IndexDefinition("a b"), "must not contain"),
        (IndexDefinition("x" * 300), "too long"),
        (IndexDefinition("secondpass-x", analyzer="klingon"), "klingon"),
        (IndexDefinition("secondpass-x", dims=100_000), "dimensions"),
    ],
)
def test_the_server_says_what_is_wrong(client: Elasticsearch, definition: IndexDefinition, words: str) -> None:
    """In its own words, as refused input."""
    with pytest.raises(InvalidInput, match=f"THE SERVER refuses this: .*{words}"):
        create_index(client, "THE SERVER", definition)


def test_unknown_similarity() -> None:
    """Refused before anything is sent."""
    with pytest.raises(InvalidInput, match="similarity='euclid'"):
        IndexDefinition("a", similarity="euclid")
