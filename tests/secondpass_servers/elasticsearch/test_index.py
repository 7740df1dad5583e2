"""An index of Elasticsearch: made, written and searched."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from secondpass.errors import InvalidInput
from secondpass_servers.contract import (
    BatchTooLarge,
    Entry,
    IndexingError,
    Outcome,
    ServerAway,
    TooBusy,
)
from secondpass_servers.elasticsearch.client import ElasticsearchIndex, ElasticsearchSink, create_index, creation
from secondpass_servers.index import IndexLayout, SearchedIndex, Sink
from tests.secondpass_servers.elasticsearch.conftest import invoke, only_line
from tests.secondpass_servers.elasticsearch.live_app import serving
from tests.small_collection import write_beir


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


def test_no_more_than_the_server_looks_at(client: Elasticsearch) -> None:
    """num_candidates has a ceiling that k may reach."""
    index: SearchedIndex = ElasticsearchIndex(client, "http://h:1", "docs")
    assert index.nearest([1.0], "embedding", 100)["knn"]["num_candidates"] == 1_000
    assert index.nearest([1.0], "embedding", 5_000)["knn"]["num_candidates"] == 10_000
    assert index.name == "Elasticsearch http://h:1/docs"


AWKWARD = ["a/b?c#d", "ünï😀", "..", " padded ", "%20", '"quoted"\\', "_id", "a,b", "*", "x" * 512, "l\nf"]


def entry(name: str, **source: object) -> Entry:
    """A document."""
    return Entry(name, {"id": name, **source}, 100)


@pytest.fixture
def sink(client: Elasticsearch, index: str) -> ElasticsearchSink:
    """A new index."""
    create_index(client, "THE SERVER", IndexLayout(index, dims=2))
    return ElasticsearchSink(client, "THE SERVER", index)


def test_it_is_a_sink(sink: ElasticsearchSink, index: str) -> None:
    """As the shared package wants it, and its name shows where it is."""
    shared: Sink = sink
    assert shared.name == f"Elasticsearch THE SERVER/{index}"


def test_awkward_ids_and_texts_come_back_whole(sink: ElasticsearchSink, client: Elasticsearch, index: str) -> None:
    """Outcomes are in the order of the batch, ids and texts as they were given, all found once settled."""
    texts = [f"{name}\u2028\0 text" for name in AWKWARD]
    batch = [entry(name, content=text) for name, text in zip(AWKWARD, texts, strict=True)]
    assert sink.write(batch) == [Outcome(name) for name in AWKWARD]
    assert sink.present([*AWKWARD, "absent"]) == set(AWKWARD)
    sink.settle()
    assert sink.count() == len(AWKWARD)
    hits = client.search(index=index, size=100).body["hits"]["hits"]
    assert {hit["_id"]: hit["_source"]["content"] for hit in hits} == dict(zip(AWKWARD, texts, strict=True))


def test_the_same_id_again_is_replaced(sink: ElasticsearchSink) -> None:
    """Also within one batch: the index holds it once."""
    assert sink.write([entry("a", content="1"), entry("a", content="2")]) == [
        Outcome("a"),
        Outcome("a", replaced=True),
    ]
    sink.settle()
    assert sink.count() == 1


def test_one_bad_document_costs_no_other(sink: ElasticsearchSink) -> None:
    """Each refusal has its reason, is not to be tried again, and stands where its document stood."""
    batch = [
        entry("good", content="x", embedding=[1.0, 0.0]),
        entry("object", content={"a": 1}),
        entry("dims", content="x", embedding=[1.0]),
        entry("zero", content="x", embedding=[0.0, 0.0]),
        entry("last", content="y"),
    ]
    outcomes = sink.write(batch)
    assert [outcome.indexed for outcome in outcomes] == [True, False, False, False, True]
    assert not any(outcome.again for outcome in outcomes)
    assert "content" in outcomes[1].reason
    assert "dimension" in outcomes[2].reason
    assert "zero" in outcomes[3].reason
    assert all("\n" not in outcome.reason for outcome in outcomes)


def test_a_huge_document(sink: ElasticsearchSink) -> None:
    """Five million characters are one document."""
    assert sink.write([entry("huge", content="wörd " * 1_000_000)])[0].indexed
    assert sink.present(["huge"]) == {"huge"}


def test_identity_tells_a_new_index_of_that_name(client: Elasticsearch, sink: ElasticsearchSink, index: str) -> None:
    """And an alias has the identity of its index."""
    first = sink.identity()
    client.indices.put_alias(index=index, name=f"{index}-alias")
    assert ElasticsearchSink(client, "THE SERVER", f"{index}-alias").identity() == first
    client.indices.delete(index=index)
    create_index(client, "THE SERVER", IndexLayout(index))
    assert sink.identity() != first


def test_a_missing_index_and_an_ambiguous_name(client: Elasticsearch, sink: ElasticsearchSink, index: str) -> None:
    """Both are refused for good, and the first with what to do."""
    missing = ElasticsearchSink(client, "THE SERVER", f"{index}-missing")
    for act in (missing.identity, missing.count, missing.settle):
        with pytest.raises(IndexingError, match=r"no such index .*; create it with") as refused:
            act()
        assert type(refused.value) is IndexingError
    create_index(client, "THE SERVER", IndexLayout(f"{index}-2"))
    with pytest.raises(IndexingError, match="stands for 2 indexes"):
        ElasticsearchSink(client, "THE SERVER", f"{index}*").identity()


def test_a_closed_or_read_only_index(client: Elasticsearch, sink: ElasticsearchSink, index: str) -> None:
    """An index that takes nothing says so for each document; none is lost and none tried for ever."""
    client.indices.put_settings(index=index, settings={"index.blocks.write": True})
    (outcome,) = sink.write([entry("a", content="x")])
    assert "block" in outcome.reason
    assert not outcome.again


@contextmanager
def answering(status: int, body: object, **headers: str) -> Iterator[ElasticsearchSink]:
    """A sink on a server that always says the same."""

    async def say(request: object) -> Response:
        return Response(json.dumps(body), status, {"X-Elastic-Product": "Elasticsearch", **headers}, "application/json")

    app = Starlette(routes=[Route("/{path:path}", say, methods=["GET", "POST", "PUT"])])
    with serving(app) as url, Elasticsearch(url, max_retries=5, retry_on_timeout=True) as client:
        yield ElasticsearchSink(client, "THE SERVER", f"none-{uuid.uuid4().hex}")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(413, BatchTooLarge), (502, ServerAway), (503, ServerAway), (504, ServerAway), (500, IndexingError)],
)
def test_statuses(status: int, kind: type[IndexingError]) -> None:
    """What may be tried again is told from what may not."""
    with answering(status, {}) as sink, pytest.raises(IndexingError, match="THE SERVER") as refused:
        sink.write([entry("a")])
    assert type(refused.value) is kind


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", None), (None, None)])
def test_a_busy_server(header: str | None, seconds: float | None) -> None:
    """429 says how long to wait, if the server does."""
    headers = {} if header is None else {"Retry-After": header}
    with answering(429, {"error": {"reason": "full"}}, **headers) as sink:
        with pytest.raises(TooBusy, match=r"too busy.*full") as refused:
            sink.write([entry("a")])
    assert refused.value.after == seconds


def test_busy_items_are_taken_later() -> None:
    """429 and 503 of one document in an answer of 200."""
    items = [
        {"index": {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "full"}}},
        {"index": {"status": 503, "error": {"type": "unavailable_shards_exception", "reason": "moves"}}},
        {"index": {"status": 201, "result": "created"}},
    ]
    with answering(200, {"errors": True, "items": items}) as sink:
        outcomes = sink.write([entry("a"), entry("b"), entry("c")])
    assert outcomes == [Outcome("a", "full", again=True), Outcome("b", "moves", again=True), Outcome("c")]


def test_an_answer_that_lacks_documents() -> None:
    """Nobody knows what was written, so it is written again."""
    with answering(200, {"items": []}) as sink, pytest.raises(ServerAway, match="0 answers to 1"):
        sink.write([entry("a")])


def test_dead_and_silent() -> None:
    """No answer is an absence, not a refusal."""
    with Elasticsearch("http://127.0.0.1:9", max_retries=5) as client:
        with pytest.raises(ServerAway, match=r"cannot be reached \(Connection refused\)"):
            ElasticsearchSink(client, "THE SERVER", "x").write([entry("a")])


def test_tls_that_fails_is_no_absence() -> None:
    """It will fail again, so nobody waits for it."""

    async def never(request: object) -> Response:
        return Response()

    with serving(Starlette(routes=[Route("/", never)])) as url:
        with Elasticsearch(url.replace("http://", "https://"), max_retries=5) as client:
            sink = ElasticsearchSink(client, "THE SERVER", "x")
            for act in (lambda: sink.write([entry("a")]), sink.identity):
                with pytest.raises(IndexingError, match=r"TLS failed.*ELASTICSEARCH_CA_FILE") as refused:
                    act()
                assert type(refused.value) is IndexingError


@pytest.mark.stacks
def test_search_before_during_and_after(
    no_credentials: None,
    own_elasticsearch: Callable[[], AbstractContextManager[Any]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_folder: str,
) -> None:
    """An answer, one clear line, and the same answer again: what was indexed is there."""
    monkeypatch.chdir(tmp_path)
    search = ("search", "articles", "cat", "-m", tiny_folder, "-f", "jsonl", "--timeout", "10")
    with own_elasticsearch() as server:
        monkeypatch.setenv("ELASTICSEARCH_URL", server.url)
        invoke("create", "articles", "--replicas", 0)
        indexed = invoke("index", "articles", write_beir(tmp_path / "beir"))
        assert indexed.exit_code == 0, indexed.output
        before = invoke(*search)
        server.kill()
        dead = invoke(*search)
        server.start()
        after = invoke(*search)
    assert (before.exit_code, after.exit_code) == (0, 0), after.output
    assert before.stdout == after.stdout != ""
    assert (dead.exit_code, only_line(dead)) == (
        1,
        f"secondpass: Elasticsearch {server.url}: cannot be reached (Connection refused)",
    )
