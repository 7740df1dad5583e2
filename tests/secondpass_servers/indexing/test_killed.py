"""Runs and servers that are killed on the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secondpass.corpora import read_corpus
from secondpass_servers.contract import ServerAway
from secondpass_servers.index import Sink
from secondpass_servers.indexing.entries import IndexingSettings
from secondpass_servers.indexing.journal import RunFiles
from secondpass_servers.indexing.run import IndexingReport, IndexingRequest, index_corpus
from tests.secondpass_servers.indexing.conftest import rows
from tests.secondpass_servers.indexing.sinks import FileSink, Silent
from tests.small_collection import write_json_lines

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("SECONDPASS_KILLS", "5"))


def start(corpus: Path, table: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run and wait until it is about to write."""
    command = [
        sys.executable,
        "-m",
        "tests.secondpass_servers.indexing.indexing_process",
        str(corpus),
        str(table),
        str(folder),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    return process


def test_nothing_is_lost_or_doubled_however_often_a_run_is_killed(tmp_path: Path) -> None:
    """Every document is in the index or among the dead letters, once; little is sent twice."""
    # enough that the kills never come after the end, however fast the machine is
    corpus = write_json_lines(tmp_path / "corpus.jsonl", rows(600 * KILLS))
    table, files = tmp_path / "table.sqlite", tmp_path
    chance = random.Random(KILLS)
    killed = 0
    for _ in range(KILLS):
        process = start(corpus, table, files)
        time.sleep(chance.uniform(0, 0.12))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed > 0
    process = start(corpus, table, files)
    process.communicate(timeout=60)
    assert process.returncode == 0
    held = FileSink(table).held()
    letters = [json.loads(line)["_id"] for line in (tmp_path / "docs.dead.jsonl").read_text().splitlines()]
    expected = {document.id: document.content for document in read_corpus(corpus)}
    assert {name: source["content"] for name, source in held.items()} == {
        name: content for name, content in expected.items() if not name.endswith("9")
    }
    assert sorted(letters) == sorted(name for name in expected if name.endswith("9"))
    # A kill may cost what was under way: two requests of five documents.
    assert FileSink(table).writes() <= len(held) + killed * 2 * 5
    assert not (tmp_path / "docs.journal").exists()


INDEX = "killed"
SETTINGS = IndexingSettings(max_documents=40, give_up_after=120, first_wait=0.2, longest_wait=1)
IMPATIENT = IndexingSettings(max_documents=40, give_up_after=1, first_wait=0.1, longest_wait=0.5)


@dataclass
class Engine:
    """A server of this test's own, an index in it as a sink, and all that the index holds."""

    server: Any
    sink: Sink
    everything: Callable[[], dict[str, str]]


def elasticsearch_engine(server: Any) -> Engine:
    """Elasticsearch with its usual mapping."""
    from elasticsearch import Elasticsearch

    from secondpass_servers.elasticsearch.client import ElasticsearchSink

    client = Elasticsearch(server.url, request_timeout=10)
    client.indices.create(index=INDEX)
    return Engine(server, ElasticsearchSink(client, server.url, INDEX), lambda: _all(client))


def opensearch_engine(server: Any) -> Engine:
    """OpenSearch with its usual mapping."""
    from secondpass_servers.opensearch.client import OpenSearchSink, Server

    stated = Server(server.url, timeout=10)
    client = stated.client()
    client.indices.create(index=INDEX)
    return Engine(server, OpenSearchSink(stated, INDEX), lambda: _all(client))


def _all(client: Any) -> dict[str, str]:
    """Contents by id; a document that is there twice fails."""
    client.indices.refresh(index=INDEX)
    hits = client.search(index=INDEX, body={"query": {"match_all": {}}, "size": 10_000})["hits"]["hits"]
    found = {hit["_id"]: hit["_source"]["content"] for hit in hits}
    assert len(found) == len(hits)
    return found


@pytest.fixture(params=["elasticsearch", pytest.param("opensearch", marks=pytest.mark.stacks)])
def engine(request: pytest.FixtureRequest):
    """Each engine in turn; its clients are closed with it."""
    make = {"elasticsearch": elasticsearch_engine, "opensearch": opensearch_engine}[request.param]
    with request.getfixturevalue(f"own_{request.param}")() as server:
        made = make(server)
        yield made
        made.sink._client.close()


class KillAt(Silent):
    """Kills the server once so many documents are settled; with `back`, starts it again in another thread."""

    def __init__(self, server: Any, documents: int, back: bool) -> None:
        super().__init__()
        self._server = server
        self._documents = documents
        self._back = back
        self.thread: threading.Thread | None = None

    def counted(self, counters: Any) -> None:
        """Kill once."""
        super().counted(counters)
        if self.thread is None and counters.indexed >= self._documents:
            self._server.kill()
            self.thread = threading.Thread(target=self._server.start if self._back else lambda: None)
            self.thread.start()


def test_kills_of_the_server_cost_nothing(engine: Engine, tmp_path: Path) -> None:
    """One while the run waits for it to come back, one that breaks the run, and the next run goes on."""
    corpus = write_json_lines(tmp_path / "corpus.jsonl", rows(1_500))
    files = RunFiles.of_index(INDEX, tmp_path)

    def run(settings: IndexingSettings, watch: Silent) -> IndexingReport:
        return index_corpus(IndexingRequest(corpus, engine.sink, files, settings), watch)

    broken = KillAt(engine.server, 300, back=False)
    with pytest.raises(ServerAway, match=r"nothing got through for .* noted in .*killed\.journal"):
        run(IMPATIENT, broken)
    assert engine.server.pid is None
    engine.server.start()
    patient = KillAt(engine.server, 500, back=True)
    report = run(SETTINGS, patient)
    assert broken.thread is not None
    assert patient.thread is not None
    patient.thread.join()
    assert report.already >= 300
    assert report.retries > 0
    assert report.dead == 0
    assert engine.everything() == {document.id: document.content for document in read_corpus(corpus)}
    assert engine.sink.count() == 1_500
    assert not files.journal.exists()
