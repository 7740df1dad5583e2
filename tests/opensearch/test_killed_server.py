"""A server that is killed while a corpus goes in: nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secondpass.errors import SecondPassError
from secondpass_indexing.errors import ServerAway
from secondpass_indexing.indexing import IndexingRequest, index_corpus
from secondpass_indexing.run_files import RunFiles
from secondpass_indexing.settings import IndexingSettings
from secondpass_indexing.tally import Tally
from secondpass_opensearch.access import opened
from secondpass_opensearch.index_creation import create_index
from secondpass_opensearch.server import Server
from secondpass_opensearch.sink import OpenSearchSink
from secondpass_searching.candidates import FirstPass, find_candidates
from secondpass_searching.index_layout import IndexLayout
from tests.opensearch.test_sink import Silent
from tests.servers.fixtures import OwnServer
from tests.servers.instance import Server as Running

DOCUMENTS = 3_000


class Killing(Silent):
    """A watch that kills the server once a third is in."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.killed = False

    def counted(self, tally: Tally) -> None:
        if tally.indexed > DOCUMENTS // 3 and not self.killed:
            self.killed = True
            self.running.kill()


def test_killed_while_indexing_and_started_again(own_opensearch: OwnServer, tmp_path: Path) -> None:
    """The run breaks with a line; a search too; the same run again ends with every document once."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(json.dumps({"_id": str(i), "text": f"text {i} of many"}) + "\n" for i in range(DOCUMENTS))
    )
    settings = IndexingSettings(max_documents=50, patience=1)
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
