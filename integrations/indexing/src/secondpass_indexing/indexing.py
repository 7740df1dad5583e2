"""A corpus into an index: every document there exactly once at the end, or in the file of dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from secondpass.corpora import Survey, corpus_file, read_corpus, survey
from secondpass.errors import InvalidInput
from secondpass.text import is_blank
from secondpass_indexing.dead_letters import check_free, write_dead_letters
from secondpass_indexing.delivery import Delivered, Delivery, check_identity
from secondpass_indexing.entries import Embedding
from secondpass_indexing.errors import IndexChanged, IndexingError
from secondpass_indexing.journal import Journal
from secondpass_indexing.lost import lost
from secondpass_indexing.patience import Patience
from secondpass_indexing.pressure import Pressure
from secondpass_indexing.pump import pump
from secondpass_indexing.run_files import RunFiles
from secondpass_indexing.settings import IndexingSettings
from secondpass_indexing.sink import Sink
from secondpass_indexing.tally import IndexingReport, Tally
from secondpass_indexing.work import Placed, works

ROUNDS = 3
"""How often documents that a server forgot are written again."""


class Watch(Protocol):
    """Hears how a run goes on."""

    def counted(self, tally: Tally) -> None:
        """Some documents more are settled; called in the thread that indexes."""
        ...

    def notice(self, text: str) -> None:
        """Say why the run waits, "" when it goes on again; called in any thread."""
        ...


@dataclass(frozen=True, slots=True)
class IndexingRequest:
    """A corpus (BEIR folder or JSON Lines file, .gz too), where it goes, and how.

    `add` allows an index that holds documents already; documents of the same id are written over.
    """

    corpus: Path
    sink: Sink
    files: RunFiles
    settings: IndexingSettings = field(default_factory=IndexingSettings)
    embedding: Embedding | None = None
    add: bool = False


def index_corpus(request: IndexingRequest, watch: Watch) -> IndexingReport:
    """Index a corpus, or go on with a run that was broken; afterwards every id is known to be in the index.

    Documents that the engine refuses are in `files.dead_letters`, each with the reason. The journal is kept if the
    run breaks, for whatever reason, and deleted if it comes to its end.

    Raises:
        InvalidInput: a line of the corpus is refused, the corpus or the index is another than that of the journal,
            the index holds documents and `add` is False, or dead letters of an earlier run would be written over.
        IndexingError: the server stayed away, refuses everything, or lost documents again and again; what was
            settled is noted in the journal.
    """
    began = time.monotonic()
    file = corpus_file(request.corpus)
    if not file.is_file():
        raise InvalidInput(f"{file}: not a file; a corpus is read several times, so it cannot be a pipe")
    state, found = _state(file), survey(request.corpus)
    patience = Patience(request.settings, watch.notice)
    about = {
        "corpus": found.digest,
        "index": patience.call(request.sink.identity),
        "embedding": "" if request.embedding is None else request.embedding.name,
    }
    _check_start(request, patience)
    with Journal(request.files.journal, about) as journal:
        run = _Run(request, journal, found, about["index"], patience, watch)
        try:
            run.write()
            if _state(file) != state:
                raise IndexChanged(f"{file}: changed while it was indexed; delete {journal.path} and begin again")
            run.verify()
        except IndexChanged:
            raise
        except IndexingError as error:
            raise type(error)(f"{error}; {run.noted()}") from error
        finally:
            dead = write_dead_letters(request.files.dead_letters, journal.dead_letters())
        journal.remove()
    return IndexingReport(
        **asdict(run.tally),
        blank=run.blank,
        seconds=time.monotonic() - began,
        dead_letters=request.files.dead_letters if dead else None,
    )


def _state(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_start(request: IndexingRequest, patience: Patience) -> None:
    """Refuse to mix with what another run left, unless this one continues it."""
    journal = request.files.journal
    if journal.exists() and journal.stat().st_size > 0:
        return
    check_free(request.files.dead_letters)
    there = 0 if request.add else patience.call(request.sink.count)
    if there:
        raise InvalidInput(f"{request.sink.name} holds {there} documents already: add to them, or choose another index")


class _Run:
    """One run over a corpus whose journal is open."""

    def __init__(
        self,
        request: IndexingRequest,
        journal: Journal,
        found: Survey,
        identity: str,
        patience: Patience,
        watch: Watch,
    ) -> None:
        self._request = request
        self._journal = journal
        self._identity = identity
        self._patience = patience
        self._watch = watch
        pressure = Pressure(request.settings)
        self._deliver = Delivery(request.sink, identity, patience, pressure, request.settings.tries)
        self._dead_here = 0
        self.tally = Tally(found.documents, already=len(journal.done) - len(journal.dead), dead=len(journal.dead))
        self.blank = 0

    def write(self) -> None:
        """Settle every document that no earlier run has settled."""
        self._watch.counted(self.tally)
        work = works(self._left(), self._request.settings, self._request.embedding)
        pump(work, self._deliver, self._settled, self._request.settings.in_flight, self._patience.stop)

    def verify(self) -> None:
        """Write again what was acknowledged and is not there.

        Raises:
            IndexingError: the index loses documents again and again, or is another one than at the start.
        """
        sink = self._request.sink
        for _ in range(ROUNDS):
            self._patience.call(sink.settle)
            check_identity(sink, self._identity, self._patience)
            before = self.tally.mended
            for missing in lost(self._placed(), self._journal.dead, self._present):
                self.tally.mended += len(missing)
                for work in works(missing, self._request.settings, self._request.embedding):
                    self._settled(self._deliver(work), again=True)
            if self.tally.mended == before:
                return
        again = self.tally.mended - before
        raise IndexingError(
            f"{sink.name} lost {again} documents that it had acknowledged, {ROUNDS} times one after another"
        )

    def noted(self) -> str:
        """What a broken run leaves behind, for its error message."""
        done = len(self._journal.done)
        return (
            f"{done} of {self.tally.documents} documents are settled and noted in {self._journal.path}, "
            "where the same command goes on"
        )

    def _present(self, ids: Sequence[str]) -> set[str]:
        return self._patience.call(lambda: self._request.sink.present(ids))

    def _placed(self) -> Iterator[Placed]:
        return enumerate(read_corpus(self._request.corpus))

    def _left(self) -> Iterator[Placed]:
        for place, document in self._placed():
            self.blank += is_blank(document.content)
            if place not in self._journal.done:
                yield place, document

    def _settled(self, done: Delivered, again: bool = False) -> None:
        dead = done.dead
        self._journal.settle(done.work.start, done.work.end, dead)
        self._dead_here += len(dead)
        self.tally.dead += len(dead)
        self.tally.retries += done.retries
        if not again:
            self.tally.indexed += done.indexed
            self.tally.replaced += done.replaced
        self._watch.counted(self.tally)
        if self._dead_here >= self._request.settings.max_dead:
            reason = dead[-1].reason if dead else ""
            raise IndexingError(
                f"{self._request.sink.name} refused {self._dead_here} documents, the last one: {reason}"
            )
