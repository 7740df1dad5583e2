"""Corpora of a size that meets every border, and a run over one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secondpass_servers.index import Sink
from secondpass_servers.indexing.entries import Embedding, IndexingSettings
from secondpass_servers.indexing.journal import RunFiles
from secondpass_servers.indexing.run import IndexingReport, IndexingRequest, index_corpus
from tests.secondpass_servers.indexing.sinks import QUICK, Silent
from tests.small_collection import write_json_lines


def rows(count: int) -> list[dict[str, str]]:
    """Documents with a title now and then, some long, one blank, and text of many scripts."""
    return [
        {
            "_id": f"d{number}",
            "title": "" if number % 3 else f"Title {number}",
            "text": "" if number == 7 else f"text {number} ä 語 \U0001f600 " + "word " * (number % 50),
        }
        for number in range(count)
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Fifty documents as JSON Lines."""
    return write_json_lines(tmp_path / "corpus.jsonl", rows(50))


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    """Journal and dead letters in the test's folder."""
    return RunFiles.of_index("docs", tmp_path)


@pytest.fixture
def indexing(corpus: Path, files: RunFiles) -> Callable[..., IndexingReport]:
    """A run over the corpus with quick settings."""

    def run(
        sink: Sink,
        settings: IndexingSettings = QUICK,
        embedding: Embedding | None = None,
        add: bool = False,
        watch: Silent | None = None,
        path: Path | None = None,
    ) -> IndexingReport:
        request = IndexingRequest(path or corpus, sink, files, settings, embedding, add)
        return index_corpus(request, watch or Silent())

    return run
