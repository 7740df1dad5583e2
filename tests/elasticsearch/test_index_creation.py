"""The index that `create` makes, on a real server."""

from __future__ import annotations

import pytest
from elasticsearch import Elasticsearch

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.index_creation import create_index, creation
from secondpass_searching.index_layout import IndexLayout


def test_embeddings_on_request(client: Elasticsearch, index: str) -> None:
    """Dims, similarity, shards and replicas are what was asked for."""
    layout = IndexLayout(index, "whitespace", 2, 0, dims=3)
    create_index(client, "THE SERVER", layout, "l2_norm")
    found = client.indices.get(index=index).body[index]
    vector = found["mappings"]["properties"]["embedding"]
    assert (vector["dims"], vector["similarity"], vector["index"]) == (3, "l2_norm", True)
    assert found["mappings"]["properties"]["content"]["analyzer"] == "whitespace"
    settings = found["settings"]["index"]
    assert (settings["number_of_shards"], settings["number_of_replicas"]) == ("2", "0")


def test_nothing_is_written_over(client: Elasticsearch, index: str) -> None:
    """An index or an alias of that name stays as it is."""
    create_index(client, "THE SERVER", IndexLayout(index))
    client.index(index=index, id="a", document={"content": "x"}, refresh=True)
    with pytest.raises(InvalidInput, match=f"THE SERVER has an index '{index}' already, and it is left as it is"):
        create_index(client, "THE SERVER", IndexLayout(index, dims=3))
    assert client.count(index=index)["count"] == 1
    client.indices.put_alias(index=index, name=f"{index}-alias")
    with pytest.raises(InvalidInput, match="alias"):
        create_index(client, "THE SERVER", IndexLayout(f"{index}-alias"))


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (IndexLayout("Upper"), "lowercase"),
        (IndexLayout("a b"), "must not contain"),
        (IndexLayout("x" * 300), "too long"),
        (IndexLayout("secondpass-x", analyzer="klingon"), "klingon"),
        (IndexLayout("secondpass-x", dims=100_000), "dimensions"),
    ],
)
def test_the_server_says_what_is_wrong(client: Elasticsearch, layout: IndexLayout, words: str) -> None:
    """In its own words, as refused input."""
    with pytest.raises(InvalidInput, match=f"THE SERVER refuses this: .*{words}"):
        create_index(client, "THE SERVER", layout)


def test_unknown_similarity() -> None:
    """Refused before anything is sent."""
    with pytest.raises(InvalidInput, match="similarity='euclid'"):
        creation(IndexLayout("a"), "euclid")
