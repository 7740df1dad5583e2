"""The whole way on a real server: OpenSearch's own rerank processor through our service gives our order."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secondpass import CrossEncoder
from secondpass.corpora import read_queries
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.serving.settings import Settings
from secondpass_servers.index import IndexLayout
from secondpass_servers.indexing.journal import RunFiles
from secondpass_servers.indexing.run import IndexingRequest, index_corpus
from secondpass_servers.opensearch.client import OpenSearchSink, Server, create_index, opened, speaking_to
from secondpass_servers.opensearch.ml_commons import RerankService, pipeline_body, query_body
from secondpass_servers.opensearch.search_pipeline import connect, disconnect
from secondpass_servers.two_pass import FirstPass, TwoPassAnswer, two_pass_search
from tests.secondpass_servers.opensearch.conftest import NOBODY, fill
from tests.secondpass_servers.opensearch.test_client import answering
from tests.secondpass_servers.opensearch.test_index import Silent
from tests.serving.conftest import Live, running

DEPTH = 20
Hits = list[dict[str, Any]]


def search(server: Server, index: str, body: dict[str, Any], pipeline: str | None = None) -> Hits:
    """Hits of a search, reranked if a pipeline is named."""
    params = {} if pipeline is None else {"search_pipeline": pipeline}
    with speaking_to(server), server.client(max_retries=0) as client:
        hits: Hits = client.search(index=index, body=body, params=params)["hits"]["hits"]
        return hits


def first_pass(body: dict[str, Any]) -> dict[str, Any]:
    """The same search without what the processor reads."""
    return {key: value for key, value in body.items() if key != "ext"}


def assert_ours(ranked: Hits, found: Hits, query: str, encoder: CrossEncoder) -> None:
    """The same documents, our scores to the seven places of the wire, our order where these differ."""
    texts = [hit["_source"]["content"] for hit in found]
    ours = encoder.rank(query, texts)
    wire = {found[item["corpus_id"]]["_id"]: float(np.float32(round(float(item["score"]), 7))) for item in ours}
    assert {hit["_id"]: hit["_score"] for hit in ranked} == pytest.approx(wire, abs=1e-7)
    assert len(ranked) == len(wire)
    places = [wire[hit["_id"]] for hit in ranked]
    assert places == sorted(places, reverse=True)


@pytest.fixture(scope="module")
def cranfield(opensearch_url: str, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The collection in an index."""
    server = Server.from_environment({"OPENSEARCH_URL": opensearch_url})
    name = f"test-cranfield-{time.time_ns()}"
    create_index(server, IndexLayout(name, replicas=0))
    files = RunFiles.of_index(name, tmp_path_factory.mktemp("run"))
    sink = OpenSearchSink(server, name)
    index_corpus(IndexingRequest(data_folder / "cranfield", sink, files), Silent())
    sink.close()
    yield name
    with server.client() as client:
        client.indices.delete(index=name)


@pytest.fixture(scope="module")
def pipeline(server: Server, live: Live) -> Iterator[str]:
    """A search pipeline that reranks through our service on the tiny model."""
    name = f"test-{secrets.token_hex(6)}"
    connect(server, name, RerankService(f"{live.url}/v1/rerank"), ["content"])
    yield name
    disconnect(server, name)


def test_queries_of_cranfield(
    server: Server, cranfield: str, data_folder: Path, pipeline: str, tiny: CrossEncoder
) -> None:
    """Of 225 every fifth: what OpenSearch gives is what reranking the same hits in process gives."""
    queries = read_queries(data_folder / "cranfield" / "queries.jsonl")
    assert len(queries) == 225
    for query in islice(queries.values(), 0, None, 5):
        body = query_body(query, ["content"], DEPTH)
        found = search(server, cranfield, first_pass(body))
        assert_ours(search(server, cranfield, body, pipeline), found, query, tiny)


def test_the_embedded_model(server: Server, cranfield: str, data_folder: Path, connection: str) -> None:
    """A sample with the model in the package, whose scores span all of 0 to 1."""
    pocket = CrossEncoder("secondpass/pocket", device="cpu")
    queries = read_queries(data_folder / "cranfield" / "queries.jsonl")
    with running(Settings(), {"pocket": pocket}) as live:
        service = RerankService(f"{live.url}/v1/rerank", model="pocket")
        connect(server, connection, service, ["content"])
        for query in islice(queries.values(), 5):
            body = query_body(query, ["content"], 20)
            found = search(server, cranfield, first_pass(body))
            assert_ours(search(server, cranfield, body, connection), found, query, pocket)


AWKWARD = (
    'a "quoted" phrase',
    '"all of it"',
    "back\\slash \\n \\u0041",
    "line\nbreak\r\n\ttab",
    "emoji 🙂 é \u2028 \u0001",
    '{"a": "json"}',
    '["list"]',
    "<b>&amp; 'x'</b>",
    "12",
    "null",
    "$ {x} ${y} $",
    "x" * 5000,
)


@pytest.mark.parametrize("query", AWKWARD)
def test_queries_arrive_whole(server: Server, index: str, pipeline: str, tiny: CrossEncoder, query: str) -> None:
    """Scores say so: they are those of the text as it was typed. Documents of that text arrive whole as well."""
    fill(server, index, {"same": query})
    body = query_body(query, ["content"], 10) | {"query": {"match_all": {}}}
    assert_ours(search(server, index, body, pipeline), search(server, index, first_pass(body)), query, tiny)


@pytest.mark.parametrize("name", ["body", "query", "documents", "service", "x.toString()"])
def test_placeholders_of_opensearch_are_text(
    server: Server, index: str, pipeline: str, tiny: CrossEncoder, name: str
) -> None:
    """It would put something else in their place, or fail: they come with a space after the dollar sign."""
    text = f"about ${{parameters.{name}}} in a connector"
    spaced = text.replace("$", "$ ")
    fill(server, index, {"same": text})
    body = query_body(text, ["content"], 10) | {"query": {"match_all": {}}}
    found = search(server, index, first_pass(body))
    for hit in found:
        hit["_source"]["content"] = hit["_source"]["content"].replace(text, spaced)
    assert_ours(search(server, index, body, pipeline), found, spaced, tiny)


def test_the_text_of_the_query_by_its_path(server: Server, index: str, pipeline: str, tiny: CrossEncoder) -> None:
    """OpenSearch's other way to say what the second pass reads."""
    query = "the capital city"
    body = query_body(query, ["content"], 10)
    body["ext"]["rerank"]["query_context"] = {"query_text_path": "query.match.content.query"}
    assert_ours(search(server, index, body, pipeline), search(server, index, first_pass(body)), query, tiny)


def test_no_hits_are_no_request(server: Server, index: str, pipeline: str) -> None:
    """Nothing to rank."""
    assert search(server, index, query_body("zzz", ["content"], 10), pipeline) == []


def test_a_source_without_the_text(server: Server, index: str, pipeline: str) -> None:
    """Every document would be empty: the search fails and names the cause."""
    body = query_body("Paris", ["content"], 10) | {"_source": ["id"]}
    with pytest.raises(SecondPassError, match=r"422.*_source"):
        search(server, index, body, pipeline)


def test_one_document_without_the_text(server: Server, index: str, pipeline: str) -> None:
    """It is ranked as an empty text, and the search goes on."""
    with server.client() as client:
        client.index(index=index, id="blank", body={"other": "x"}, refresh=True)
    body = query_body("Paris", ["content"], 10) | {"query": {"match_all": {}}}
    assert "blank" in [hit["_id"] for hit in search(server, index, body, pipeline)]


DOCUMENTS: dict[str, dict[str, Any]] = {
    "two": {"title": "How to reset", "body": "the password of your account", "meta": {"title": "a train to Paris"}},
    "glued": {"title": "password", "body": "Rules for one: reset it in the second step", "meta": {"title": None}},
    "null": {"title": None, "body": "reset a password in Paris", "meta": None},
    "array": {"title": ["reset", None, "a train", ["the password"]], "body": [], "meta": {"tags": ["cat", "Paris"]}},
    "objects": {"body": "password", "meta": [{"title": "to reset"}, {"title": ["the", "capital"]}, {"other": 1}]},
    "flat": {"meta.title": "reset the password of the cat", "body": ""},
    "values": {"title": [12, 7.5, True, False, "reset"], "body": "the password", "meta": {"title": 2024}},
    "awkward": {
        "title": 'say "reset"\\ \n\r\n\t 🙂 é \u2028 \u0001',
        "body": "${parameters.body} <b>&amp; password</b>",
    },
}
JOINED = (
    ["title", "body"],
    ["body", "title"],
    ["title"],
    ["body"],
    ["meta.title"],
    ["title", "meta.title", "meta.tags"],
)


def ours(server: Server, index: str, query: str, fields: list[str], encoder: CrossEncoder) -> TwoPassAnswer:
    """What `secondpass opensearch search` answers."""
    with opened(server, index) as found:
        return two_pass_search(found, FirstPass(query, tuple(fields)), lambda: encoder, top_k=100)


def test_the_order_is_that_of_our_own_search(
    server: Server, new_name: Callable[[], str], pipeline: str, tiny: CrossEncoder
) -> None:
    """Several fields, paths into objects, null, arrays, numbers: the same order and scores, and `_source` as it was."""
    query = "reset the password of a train to Paris 2024"
    spaced = {"awkward": {"body": DOCUMENTS["awkward"]["body"].replace("$", "$ ")}}
    with server.client() as client:
        name, theirs = new_name(), new_name()
        for id_, source in DOCUMENTS.items():
            client.index(index=name, id=id_, body=source)
            client.index(index=theirs, id=id_, body=source | spaced.get(id_, {}))
        client.indices.refresh(index=f"{name},{theirs}")
        model = client.search_pipeline.get(id=pipeline)[pipeline]["response_processors"][0]["ml_inference"]["model_id"]
        try:
            for fields in JOINED:
                client.search_pipeline.put(id=pipeline, body=pipeline_body(model, fields))
                hits = search(server, name, query_body(query, fields, 100), pipeline)
                expected = ours(server, theirs, query, fields, tiny).hits
                assert [hit["_id"] for hit in hits] == [hit.candidate.id for hit in expected], fields
                assert [hit["_score"] for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)
                assert {hit["_id"]: hit["_source"] for hit in hits}.items() <= DOCUMENTS.items()
        finally:
            client.search_pipeline.put(id=pipeline, body=pipeline_body(model, ["content"]))


def test_a_field_that_holds_objects(server: Server, index: str, pipeline: str, live: Live, connection: str) -> None:
    """Refused by its name, as our own search refuses it."""
    fill(server, index, {"other": "Paris"}, meta={"title": "x"})
    connect(server, connection, RerankService(f"{live.url}/v1/rerank"), ["content", "meta"])
    body = query_body("Paris", ["content"], 10)
    with pytest.raises(InvalidInput, match="the field 'meta' holds objects"):
        search(server, index, body, connection)
    for gone in ({}, {"rerank": {}}, {"rerank": {"query_context": {"query_text_path": "query.nothing"}}}):
        with pytest.raises(InvalidInput, match=r"ext\.rerank\.query_context"):
            search(server, index, body | {"ext": gone}, pipeline)


@pytest.mark.parametrize("joins", [True, False])
def test_the_first_pass_instead_of_an_error(
    server: Server, index: str, live: Live, connection: str, tiny: CrossEncoder, joins: bool
) -> None:
    """If so chosen, of a service that is down, refuses or hears no query: order, scores and documents of the first."""
    body = query_body("Paris", ["content"], 10)
    found = search(server, index, first_pass(body))
    model = connect(server, connection, RerankService(f"{NOBODY}/v1/rerank"), ["content"], first_pass=True)
    with server.client() as client:
        client.search_pipeline.put(id=connection, body=pipeline_body(model, ["content"], first_pass=True, joins=joins))
        assert search(server, index, body, connection) == found
        connect(server, connection, RerankService(f"{live.url}/v1/rerank"), ["content"], first_pass=True)
        client.search_pipeline.put(id=connection, body=pipeline_body(model, ["content"], first_pass=True, joins=joins))
        assert_ours(search(server, index, body, connection), found, "Paris", tiny)
        for refused in ({"ext": {}}, {"_source": ["id"]}):
            assert [hit["_id"] for hit in search(server, index, body | refused, connection)] == [
                hit["_id"] for hit in found
            ]
        connect(server, connection, RerankService(f"{live.url}/v1/rerank"), ["content"])
        client.search_pipeline.put(id=connection, body=pipeline_body(model, ["content"], joins=joins))
        with pytest.raises(SecondPassError, match="_source"):
            search(server, index, body | {"_source": ["id"]}, connection)


def test_a_service_that_is_down_and_back(
    server: Server, index: str, live: Live, connection: str, tiny: CrossEncoder
) -> None:
    """A clear error at once; the server goes on, with searches of its own and reranked ones when it is back."""
    body = query_body("Paris", ["content"], 10)
    connect(server, connection, RerankService(f"{NOBODY}/v1/rerank"), ["content"])
    with pytest.raises(SecondPassError, match="Error communicating with remote model: Connection refused"):
        search(server, index, body, connection)
    found = search(server, index, first_pass(body))
    connect(server, connection, RerankService(f"{live.url}/v1/rerank"), ["content"])
    assert_ours(search(server, index, body, connection), found, "Paris", tiny)


def test_a_service_that_is_too_slow(
    server: Server, index: str, live: Live, connection: str, tiny: CrossEncoder
) -> None:
    """OpenSearch waits as long as it was told, says so, and recovers."""
    body = query_body("Paris", ["content"], 10)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/rerank"
        connect(server, connection, RerankService(url, timeout=1), ["content"])
        with pytest.raises(SecondPassError, match="Read timed out"):
            search(server, index, body, connection)
    connect(server, connection, RerankService(f"{live.url}/v1/rerank"), ["content"])
    assert_ours(search(server, index, body, connection), search(server, index, first_pass(body)), "Paris", tiny)


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_what_the_service_says_comes_through(server: Server, index: str, connection: str, status: int) -> None:
    """Its reason is in the error of the search."""
    reason = {"error": {"message": "because of the test"}}
    with answering(status, json.dumps(reason).encode()) as refusing:
        connect(server, connection, RerankService(f"{refusing.address}/v1/rerank"), ["content"])
        with pytest.raises(SecondPassError, match="because of the test"):
            search(server, index, query_body("Paris", ["content"], 10), connection)


def test_more_documents_than_the_service_takes(
    server: Server, new_name: Callable[[], str], own_tiny: CrossEncoder, connection: str
) -> None:
    """The service's limit is in the error."""
    name = new_name()
    create_index(server, IndexLayout(name, replicas=0))
    fill(server, name, {str(number): "Paris" for number in range(6)})
    with running(Settings(max_documents=5), {"tiny": own_tiny}) as small:
        connect(server, connection, RerankService(f"{small.url}/v1/rerank"), ["content"])
        with pytest.raises(SecondPassError, match="5"):
            search(server, name, query_body("Paris", ["content"], 10), connection)
        assert len(search(server, name, query_body("Paris", ["content"], 5), connection)) == 5
