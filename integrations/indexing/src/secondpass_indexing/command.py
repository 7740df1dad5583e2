"""A run of indexing as a command: a bar on stderr, a summary on stdout, an error if documents were refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from secondpass.cli.failures import PipeConsole
from secondpass_indexing.errors import DocumentsRefused
from secondpass_indexing.indexing import IndexingRequest, index_corpus
from secondpass_indexing.tally import IndexingReport, Tally


class ProgressBar:
    """A watch that draws a bar where stderr is a terminal, and else prints each reason for waiting once."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID = progress.add_task("Indexing", total=None)
        self._told = ""

    def counted(self, tally: Tally) -> None:
        """Move the bar."""
        done = tally.already + tally.indexed + tally.dead
        self._progress.update(self._task, total=tally.documents, completed=min(done, tally.documents))

    def notice(self, text: str) -> None:
        """Show why the run waits."""
        self._progress.update(self._task, description=escape(text) if text else "Indexing")
        reason = text.partition(";")[0]
        if reason and reason != self._told and self._progress.disable:
            print(f"secondpass: {text}", file=sys.stderr)  # noqa: T201
        self._told = reason or self._told


def run_indexing(request: IndexingRequest) -> IndexingReport:
    """Index with a bar on stderr and print the summary.

    Raises:
        DocumentsRefused: the run came to its end and some documents are dead letters: exit code 1.
        InvalidInput, IndexingError: as `index_corpus`.
    """
    with progress_bar() as watch:
        report = index_corpus(request, watch)
    console = PipeConsole(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in summary(report, request.sink.name):
        console.print(line)
    if report.dead_letters is not None:
        raise DocumentsRefused(
            f"{report.dead} of {report.documents} documents were refused; "
            f"they are in {report.dead_letters}, each with the reason"
        )
    return report


@contextmanager
def progress_bar() -> Iterator[ProgressBar]:
    """A bar that goes when it is done."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield ProgressBar(progress)


def summary(report: IndexingReport, name: str) -> list[str]:
    """Lines that say what a run did; what did not happen is not mentioned."""
    speed = f", {report.per_second:.0f} documents a second" if report.indexed else ""
    counts = {
        "already indexed by the run that this one continues": report.already,
        "written over a document of the same id": report.replaced,
        "sent again": report.retries,
        "forgotten by the server and written again": report.mended,
        "without any text": report.blank,
        "refused": report.dead,
    }
    first = f"{report.indexed} of {report.documents} documents indexed in {report.seconds:.1f} s{speed}: {name}"
    return [first, *(f"  {count} {what}" for what, count in counts.items() if count)]
