"""A run as a command: what is printed, and when it fails."""

from __future__ import annotations

import pytest

from secondpass_indexing.command import run_indexing, summary
from secondpass_indexing.errors import DocumentsRefused
from secondpass_indexing.indexing import IndexingRequest
from secondpass_indexing.tally import IndexingReport
from tests.indexing.sinks import QUICK, MemorySink, away


def test_a_clean_run_prints_one_line(corpus, files, capsys) -> None:
    """And one for each thing worth knowing."""
    report = run_indexing(IndexingRequest(corpus, MemorySink(), files, QUICK))
    lines = capsys.readouterr().out.splitlines()
    assert report.indexed == 50
    assert lines[0].startswith("50 of 50 documents indexed in ")
    assert lines[0].endswith(" documents a second: memory test")
    assert lines[1:] == ["  1 without any text"]


def test_refused_documents_make_the_command_fail(corpus, files, capsys) -> None:
    """After the summary, with the name of the file."""
    sink = MemorySink(lambda number, batch: {"d4": "no good"})
    with pytest.raises(DocumentsRefused, match=r"1 of 50 documents were refused; they are in .*docs\.dead"):
        run_indexing(IndexingRequest(corpus, sink, files, QUICK))
    assert "  1 refused" in capsys.readouterr().out.splitlines()


def test_waiting_is_told_once_where_there_is_no_terminal(corpus, files, capsys) -> None:
    """The same reason again and again would fill a log."""

    def fault(number: int, batch) -> None:
        if number < 9:
            raise away()

    run_indexing(IndexingRequest(corpus, MemorySink(fault), files, QUICK))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("secondpass: memory test is away (0); next try in ")


def test_the_summary_names_only_what_happened() -> None:
    """A run that found everything done has no speed."""
    report = IndexingReport(10, 10, 0, 0, 0, 0, 0, 0, 0.5, None)
    assert summary(report, "x") == [
        "0 of 10 documents indexed in 0.5 s: x",
        "  10 already indexed by the run that this one continues",
    ]
