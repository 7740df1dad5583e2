"""An index of OpenSearch: made, written and searched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from secondpass.corpora import CorpusDocument, read_corpus
from secondpass.errors import InvalidInput, SecondPassError
from secondpass_servers.contract import BatchTooLarge, Entry, IndexingError, ServerAway, TooBusy
from secondpass_servers.index import IndexLayout
from secondpass_servers.indexing.entries import IndexingSettings, item
from secondpass_servers.indexing.journal import RunFiles
from secondpass_servers.indexing.run import IndexingCounters, IndexingRequest, index_corpus
from secondpass_servers.opensearch.client import OpenSearchSink, Server, create_index, creation, opened
from secondpass_servers.two_pass import FirstPass, find_candidates
from tests.secondpass_servers.opensearch.conftest import NOBODY, TEXTS, fill
from tests.secondpass_servers.opensearch.test_client import answering
from tests.servers.fixtures import OwnServer
from tests.servers.instance import Server as Running


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


def test_creating_on_a_dead_server() -> None:
    """One line with the host."""
    with pytest.raises(SecondPassError, match=r"OpenSearch http://127.0.0.1:1: cannot be reached"):
        create_index(Server.from_environment({"OPENSEARCH_URL": NOBODY}, retries=0), IndexLayout("x"))


def test_vectors_are_searched_by_the_plugins_query(server: Server) -> None:
    """As many neighbours as are wanted."""
    with opened(server, "docs") as index:
        assert index.nearest([1.0], "embedding", 7) == {"query": {"knn": {"embedding": {"vector": [1.0], "k": 7}}}}
        assert index.name == f"OpenSearch {server.address}/docs"


AWKWARD = ("a/b", "é", "x y", "_id", "a,b", '"', "\\", "🙂", "*", "?q=1", "%2F", "+", "0", "x" * 512)
HUGE = "a long story " * 160_000


class Silent:
    """A watch that nobody reads."""

    def counted(self, counters: IndexingCounters) -> None:
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


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_an_answer_that_is_not_json(kind: str) -> None:
    """An error of indexing as any other, so that a run that it breaks says where it goes on."""
    with answering(200, b"<html>Welcome</html>", kind) as server:
        sink = OpenSearchSink(server, "docs")
        for call in (lambda: sink.write([entry("a")]), lambda: sink.present(["a"]), sink.count, sink.identity):
            with pytest.raises(IndexingError, match=r"/docs: the answer is not the JSON") as caught:
                call()
            assert type(caught.value) is IndexingError
        sink.close()


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


def test_a_flood_of_an_index_that_is_read_only(
    server: Server, target: OpenSearchSink, beir: Path, tmp_path: Path
) -> None:
    """A disk that ran full blocks writes with 429: to be tried again, not to be thrown away, however often."""
    settings = IndexingSettings(first_wait=0.01, longest_wait=0.02, tries=2, give_up_after=1)
    request = IndexingRequest(beir, target, RunFiles.of_index("docs", tmp_path), settings)
    with server.client() as client:
        block = {"index.blocks.read_only_allow_delete": True}
        client.indices.put_settings(index=target._index, body=block)
        (outcome,) = target.write([entry("a")])
        with pytest.raises(TooBusy, match=r"put off \d+ of \d+ documents: .*; nothing got through for .*goes on"):
            index_corpus(request, Silent())
        client.indices.put_settings(index=target._index, body={"index.blocks.read_only_allow_delete": None})
    assert (outcome.indexed, outcome.again) == (False, True)
    assert not request.files.dead_letters.exists()
    report = index_corpus(request, Silent())
    assert (report.indexed, report.dead) == (report.documents, 0)
    assert target.write([entry("a")])[0].indexed


DOCUMENTS = 3_000


class Killing(Silent):
    """A watch that kills the server once a third is in."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.killed = False

    def counted(self, counters: IndexingCounters) -> None:
        if counters.indexed > DOCUMENTS // 3 and not self.killed:
            self.killed = True
            self.running.kill()


@pytest.mark.stacks
def test_killed_while_indexing_and_started_again(own_opensearch: OwnServer, tmp_path: Path) -> None:
    """The run breaks with a line; a search too; the same run again ends with every document once.

    In every run `indexing/test_killed.py` kills an Elasticsearch under the same indexing, and
    `pipelines/test_server_searches.py` an OpenSearch under a search.
    """
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"_id": str(i), "text": f"text {i} of many"}) + "\n" for i in range(DOCUMENTS))
    )
    settings = IndexingSettings(max_documents=50, give_up_after=1)
    with own_opensearch() as running:
        server = Server.from_environment({"OPENSEARCH_URL": running.url}, retries=0)
        create_index(server, IndexLayout("docs", replicas=0))
        sink = OpenSearchSink(server, "docs")
        request = IndexingRequest(corpus, sink, RunFiles.of_index("docs", tmp_path), settings)
        with pytest.raises(ServerAway, match="cannot be reached"):
            index_corpus(request, Killing(running))
        with pytest.raises(SecondPassError, match="cannot be reached"), opened(server, "docs") as index:
            find_candidates(index, FirstPass("text"))
        running.start()
        report = index_corpus(request, Silent())
        assert 0 < report.already < DOCUMENTS
        assert report.already + report.indexed == DOCUMENTS
        assert sink.count() == DOCUMENTS
        assert len(sink.present([str(i) for i in range(1000)])) == 1000
        sink.close()
