"""Indices made for two passes, on a real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_opensearch.indexes import IndexPlan, create_index
from secondpass_opensearch.server import Server
from tests.opensearch.conftest import NOBODY, TEXTS, fill


def test_bm25_reads_the_content_alone(server: Server, new_name: Callable[[], str]) -> None:
    """A query without fields, such as Haystack's, does not match ids and metadata; long metadata is kept."""
    name = new_name()
    create_index(server, IndexPlan(name))
    fill(server, name, TEXTS, title="zebra", long="x" * 40_000)
    with server.client() as client:
        anything = {"multi_match": {"query": "zebra", "type": "most_fields"}}
        assert client.search(index=name, body={"query": anything})["hits"]["hits"] == []
        anything["multi_match"]["query"] = "cat"
        hits = client.search(index=name, body={"query": anything})["hits"]["hits"]
        assert [hit["_id"] for hit in hits] == ["cat"]
        assert len(hits[0]["_source"]["long"]) == 40_000


def test_no_vectors_unless_asked(server: Server, new_name: Callable[[], str]) -> None:
    """So that a server without k-NN will do; with --dims it is Lucene's, by cosine."""
    plain, vectors = new_name(), new_name()
    create_index(server, IndexPlan(plain))
    create_index(server, IndexPlan(vectors, dims=3, shards=2, replicas=0))
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
        create_index(server, IndexPlan(name, analyzer))
        fill(server, name, TEXTS)
        with server.client() as client:
            hits = client.search(index=name, body={"query": {"match": {"content": "resetting"}}})["hits"]["hits"]
        assert [hit["_id"] for hit in hits] == found


def test_what_is_there_is_left_as_it_is(server: Server, index: str) -> None:
    """Its documents too."""
    with pytest.raises(InvalidInput, match="left as it is"):
        create_index(server, IndexPlan(index))
    with server.client() as client:
        assert client.count(index=index)["count"] == len(TEXTS)


def test_an_alias_of_that_name_is_no_place_either(server: Server, index: str, new_name: Callable[[], str]) -> None:
    """The server says so."""
    name = new_name()
    with server.client() as client:
        client.indices.put_alias(index=index, name=name)
    try:
        with pytest.raises(SecondPassError, match="alias"):
            create_index(server, IndexPlan(name))
    finally:
        with server.client() as client:
            client.indices.delete_alias(index=index, name=name)


def test_an_analyzer_that_is_not_there(server: Server, new_name: Callable[[], str]) -> None:
    """The option is named."""
    with pytest.raises(InvalidInput, match="--analyzer klingon"):
        create_index(server, IndexPlan(new_name(), "klingon"))


@pytest.mark.parametrize("name", ["Capital", "a b", "_under", "a/b", "é" * 200])
def test_names_that_opensearch_refuses(server: Server, name: str) -> None:
    """Its reason is passed on."""
    with pytest.raises(SecondPassError, match="index"):
        create_index(server, IndexPlan(name))


def test_a_dry_run(server: Server, new_name: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    """The request is shown and not sent."""
    name = new_name()
    create_index(server, IndexPlan(name), dry=True)
    assert capsys.readouterr().out.startswith(f"PUT /{name}\n{{")
    with server.client() as client:
        assert not client.indices.exists(index=name)


@pytest.mark.parametrize("wrong", [{"name": " "}, {"dims": 0}, {"dims": 16_001}, {"shards": 0}])
def test_plans_that_are_refused(wrong: dict[str, object]) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidInput):
        IndexPlan(**({"name": "x"} | wrong))  # type: ignore[arg-type]


def test_a_dead_server() -> None:
    """One line with the host."""
    with pytest.raises(SecondPassError, match=r"OpenSearch at http://127.0.0.1:1 cannot be reached"):
        create_index(Server.from_environment({"OPENSEARCH_URL": NOBODY}, retries=0), IndexPlan("x"))
