"""Indices made for two passes, on a real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_opensearch.index_creation import create_index, creation
from secondpass_opensearch.server import Server
from secondpass_searching.index_layout import IndexLayout
from tests.opensearch.conftest import NOBODY, TEXTS, fill


def test_no_vectors_unless_asked(server: Server, new_name: Callable[[], str]) -> None:
    """So that a server without k-NN will do; with --dims it is Lucene's, by cosine."""
    plain, vectors = new_name(), new_name()
    create_index(server, IndexLayout(plain))
    create_index(server, IndexLayout(vectors, dims=3, shards=2, replicas=0))
    with server.client() as client:
        made = client.indices.get(index=f"{plain},{vectors}")
    assert "knn" not in made[plain]["settings"]["index"]
    assert "embedding" not in made[plain]["mappings"]["properties"]
    settings = made[vectors]["settings"]["index"]
    assert (settings["knn"], settings["number_of_shards"], settings["number_of_replicas"]) == ("true", "2", "0")
    assert made[vectors]["mappings"]["properties"]["embedding"]["method"]["engine"] == "lucene"


def test_the_analyzer_finds_word_forms(server: Server, new_name: Callable[[], str]) -> None:
    """English takes "resetting" for "reset"; the standard one does not."""
    for analyzer, found in (("standard", []), ("english", ["password"])):
        name = new_name()
        create_index(server, IndexLayout(name, analyzer))
        fill(server, name, TEXTS)
        with server.client() as client:
            hits = client.search(index=name, body={"query": {"match": {"content": "resetting"}}})["hits"]["hits"]
        assert [hit["_id"] for hit in hits] == found


def test_what_is_there_is_left_as_it_is(server: Server, index: str) -> None:
    """Its documents too."""
    with pytest.raises(InvalidInput, match="left as it is"):
        create_index(server, IndexLayout(index))
    with server.client() as client:
        assert client.count(index=index)["count"] == len(TEXTS)


def test_an_alias_of_that_name_is_no_place_either(server: Server, index: str, new_name: Callable[[], str]) -> None:
    """The server says so."""
    name = new_name()
    with server.client() as client:
        client.indices.put_alias(index=index, name=name)
    try:
        with pytest.raises(SecondPassError, match="alias"):
            create_index(server, IndexLayout(name))
    finally:
        with server.client() as client:
            client.indices.delete_alias(index=index, name=name)


def test_an_analyzer_that_is_not_there(server: Server, new_name: Callable[[], str]) -> None:
    """It is named."""
    with pytest.raises(InvalidInput, match=r"refuses this: .*klingon"):
        create_index(server, IndexLayout(new_name(), "klingon"))


@pytest.mark.parametrize("name", ["Capital", "a b", "_under", "a/b", "é" * 200])
def test_names_that_opensearch_refuses(server: Server, name: str) -> None:
    """Its reason is passed on."""
    with pytest.raises(SecondPassError, match="index"):
        create_index(server, IndexLayout(name))


def test_embeddings_longer_than_opensearch_takes() -> None:
    """Refused before anything is sent."""
    with pytest.raises(InvalidInput, match="dims=16001"):
        creation(IndexLayout("x", dims=16_001))


def test_a_dead_server() -> None:
    """One line with the host."""
    with pytest.raises(SecondPassError, match=r"OpenSearch http://127.0.0.1:1: cannot be reached"):
        create_index(Server.from_environment({"OPENSEARCH_URL": NOBODY}, retries=0), IndexLayout("x"))
