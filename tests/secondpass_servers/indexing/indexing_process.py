"""Index a corpus into a file: python indexing_process.py CORPUS TABLE FOLDER; prints a line when it begins to write."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from secondpass_servers.contract import Entry, Outcome
from secondpass_servers.indexing.entries import IndexingSettings
from secondpass_servers.indexing.journal import RunFiles
from secondpass_servers.indexing.run import IndexingRequest, index_corpus
from tests.secondpass_servers.indexing.sinks import FileSink, Silent


class SlowSink(FileSink):
    """Takes a moment both before and after each write, so that a kill can come between any two steps."""

    def write(self, batch: Sequence[Entry]) -> list[Outcome]:
        """Refuse a tenth of the documents, always the same."""
        time.sleep(0.002)
        kept = [entry for entry in batch if not entry.id.endswith("9")]
        super().write(kept)
        time.sleep(0.002)
        return [Outcome(entry.id, "ends in 9" if entry.id.endswith("9") else "") for entry in batch]


def main() -> None:
    """Run once; an earlier run that was killed is continued."""
    corpus, table, folder = map(Path, sys.argv[1:])
    sink = SlowSink(table)
    print("began", flush=True)  # noqa: T201
    files = RunFiles.of_index("docs", folder)
    index_corpus(IndexingRequest(corpus, sink, files, IndexingSettings(max_documents=5)), Silent())


if __name__ == "__main__":
    main()
