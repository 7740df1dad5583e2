"""The sink's promises, on a real server: an outcome for each document, errors that say whether to try again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secondpass.corpora import CorpusDocument, read_corpus
from secondpass_indexing.entries import item
from secondpass_indexing.errors import BatchTooLarge, IndexingError, ServerAway, TooBusy
from secondpass_indexing.indexing import IndexingRequest, index_corpus
from secondpass_indexing.run_files import RunFiles
from secondpass_indexing.settings import IndexingSettings
from secondpass_indexing.sink import Entry
from secondpass_indexing.tally import Tally
from secondpass_opensearch.index_creation import create_index
from secondpass_opensearch.server import Server
from secondpass_opensearch.sink import OpenSearchSink
from secondpass_searching.index_layout import IndexLayout
from tests.opensearch.conftest import NOBODY
from tests.opensearch.test_failures import answering

AWKWARD = ("a/b", "é", "x y", "_id", "a,b", '"', "\\", "🙂", "*", "?q=1", "%2F", "+", "0", "x" * 512)
HUGE = "a long story " * 160_000


class Silent:
    """A watch that nobody reads."""

    def counted(self, tally: Tally) -> None:
        pass

    def notice(self, text: str) -> None:
        pass


@pytest.fixture
def target(server: Server, new_name: Callable[[], str]) -> Iterator[OpenSearchSink]:
    """An empty index with vectors of two numbers."""
    name = new_name()
    create_index(server, IndexLayout(name, dims=2, replicas=0))
    sink = OpenSearchSink(server, name)
    yield sink
    sink.close()


def entry(id_: str, text: str = "text", **more: object) -> Entry:
    """An entry as indexing makes it."""
    made = item(0, CorpusDocument(id_, "", text)).entry
    assert made is not None
    return Entry(made.id, {**made.source, **more}, made.size)


def test_every_document_gets_its_outcome_in_order(target: OpenSearchSink) -> None:
    """The good are indexed, the bad have the reason, and what was there before is said to be replaced."""
    first = target.write([entry("a"), entry("b")])
    assert [(o.id, o.indexed, o.replaced) for o in first] == [("a", True, False), ("b", True, False)]
    outcomes = target.write([entry("a"), entry("bad", embedding=[1.0]), entry("c")])
    assert [(o.id, o.indexed, o.replaced, o.again) for o in outcomes] == [
        ("a", True, True, False),
        ("bad", False, False, False),
        ("c", True, False, False),
    ]
    assert "dimension" in outcomes[1].reason.lower()
    assert "\n" not in outcomes[1].reason
    target.settle()
    assert target.count() == 3
    assert target.present(["a", "bad", "c", "nobody"]) == {"a", "c"}


def test_nothing_is_nothing(target: OpenSearchSink) -> None:
    """No request that the server would refuse."""
    assert target.write([]) == []
    assert target.present([]) == set()


def test_awkward_ids_and_texts(target: OpenSearchSink) -> None:
    """Whatever JSON can hold comes back as it went in, found without a refresh."""
    texts = {id_: f"{id_} \u2028 \x00 {{}}\n{{" for id_ in AWKWARD}
    assert all(outcome.indexed for outcome in target.write([entry(id_, text) for id_, text in texts.items()]))
    assert target.present(AWKWARD) == set(AWKWARD)
    target.settle()
    with target._server.client() as client:
        hits = client.search(index=target._index, body={"size": 50, "query": {"match_all": {}}})["hits"]["hits"]
    assert {hit["_id"]: hit["_source"]["content"] for hit in hits} == texts


def test_a_huge_document(target: OpenSearchSink) -> None:
    """Two million characters are text like any other."""
    assert target.write([entry("huge", HUGE)])[0].indexed


def test_a_batch_that_is_too_large(server: Server, target: OpenSearchSink) -> None:
    """The server's 100 MB are refused as a whole, which indexing answers with smaller batches."""
    with pytest.raises((BatchTooLarge, ServerAway)):
        target.write([entry("x", "a" * 105_000_000)])
    assert target.write([entry("y")])[0].indexed


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, TooBusy),
        (413, BatchTooLarge),
        (503, ServerAway),
        (502, ServerAway),
        (403, IndexingError),
        (404, IndexingError),
    ],
)
def test_what_a_refusal_of_the_whole_means(status: int, kind: type[IndexingError]) -> None:
    """Exactly the classes that indexing knows; no error of the client comes through."""
    with answering(status, b'{"error":{"reason":"because"}}') as server:
        sink = OpenSearchSink(server, "docs")
        for call in (
            lambda: sink.write([entry("a")]),
            lambda: sink.present(["a"]),
            sink.count,
            sink.settle,
            sink.identity,
        ):
            with pytest.raises(IndexingError) as caught:
                call()
            assert type(caught.value) is kind
            assert server.address in str(caught.value)


@pytest.mark.parametrize(("status", "again"), [(429, True), (503, True), (400, False), (500, False)])
def test_what_a_refusal_of_one_document_means(status: int, again: bool) -> None:
    """429 and 503 pass, a mapping error does not."""
    answer = {"items": [{"index": {"_id": "a", "status": status, "error": {"reason": "because", "type": "t"}}}]}
    with answering(200, json.dumps(answer).encode()) as server:
        (outcome,) = OpenSearchSink(server, "docs").write([entry("a")])
    assert (outcome.indexed, outcome.again, outcome.reason) == (False, again, "because")


def test_an_answer_for_too_few(server: Server) -> None:
    """A proxy that cuts answers: what was not answered for is not taken for indexed."""
    with answering(200, b'{"items": []}') as cutting, pytest.raises(ServerAway, match="0 answers to 1"):
        OpenSearchSink(cutting, "docs").write([entry("a")])


def test_a_dead_server() -> None:
    """Away, at once: the client's own retries are off."""
    sink = OpenSearchSink(Server.from_environment({"OPENSEARCH_URL": NOBODY}), "docs")
    with pytest.raises(ServerAway, match=r"127.0.0.1:1"):
        sink.write([entry("a")])


def test_identity(server: Server, target: OpenSearchSink, index: str) -> None:
    """Stable for an index, another for another; none is an error that says what to do, several are refused."""
    assert target.identity() == target.identity() != OpenSearchSink(server, index).identity()
    with pytest.raises(IndexingError, match="secondpass opensearch create"):
        OpenSearchSink(server, "test-nobody-made-it").identity()
    with pytest.raises(IndexingError, match="stands for 2 indexes"):
        OpenSearchSink(server, f"{index},{target._index}").identity()


def test_a_corpus_comes_in_once(server: Server, new_name: Callable[[], str], beir: Path, tmp_path: Path) -> None:
    """Through the shared indexing: every document there, and the index holds what Haystack's store reads."""
    name = new_name()
    create_index(server, IndexLayout(name, replicas=0))
    request = IndexingRequest(beir, OpenSearchSink(server, name), RunFiles.of_index(name, tmp_path), IndexingSettings())
    report = index_corpus(request, Silent())
    assert (report.indexed, report.dead) == (report.documents, 0)
    from haystack_integrations.document_stores.opensearch import OpenSearchDocumentStore

    store = OpenSearchDocumentStore(hosts=server.address, index=name, create_index=False)
    documents = store.filter_documents()
    store.close()
    assert {document.id: document.content for document in documents} == {
        document.id: document.content for document in read_corpus(beir)
    }


def test_a_flood_of_an_index_that_is_read_only(server: Server, target: OpenSearchSink) -> None:
    """A disk that ran full blocks writes with 429: to be tried again, not to be thrown away."""
    with server.client() as client:
        block = {"index.blocks.read_only_allow_delete": True}
        client.indices.put_settings(index=target._index, body=block)
        (outcome,) = target.write([entry("a")])
        client.indices.put_settings(index=target._index, body={"index.blocks.read_only_allow_delete": None})
    assert (outcome.indexed, outcome.again) == (False, True)
    assert target.write([entry("a")])[0].indexed
