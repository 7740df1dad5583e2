"""A corpus into an index: every document there exactly once at the end, or in the file of dead letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

from secondpass.corpora import RecordKeys, Survey, corpus_file, read_corpus, survey
from secondpass.errors import InvalidInput
from secondpass.text import is_blank
from secondpass_servers.contract import IndexChanged, IndexingError
from secondpass_servers.index import MetadataFields, Sink
from secondpass_servers.indexing.delivery import Backoff, BulkSize, Delivered, Delivery, check_identity, execute_bounded
from secondpass_servers.indexing.entries import Embedding, IndexingSettings, Placed, chunks
from secondpass_servers.indexing.journal import IndexingJournal, RunFiles, check_free, write_dead_letters

ASKED_AT_ONCE = 1_000
ROUNDS = 3
"""How often documents that a server forgot are written again."""


@dataclass(slots=True)
class IndexingCounters:
    """Counts of a run that goes on; documents unless said otherwise.

    Attributes:
        documents: in the corpus.
        already: settled by an earlier, broken run.
        indexed: acknowledged in this run.
        replaced: of those, written over a document of the same id.
        dead: refused, in this run and in earlier ones that it continues.
        retries: requests and documents that were sent again.
        mended: acknowledged once, not there at the end, and written again.
    """

    documents: int
    already: int = 0
    indexed: int = 0
    replaced: int = 0
    dead: int = 0
    retries: int = 0
    mended: int = 0


@dataclass(slots=True)
class IndexingReport(IndexingCounters):
    """The counts at the end, `blank` documents without any text, and seconds of wall clock.

    `dead_letters` is the file that holds the refused documents, None if there are none; `unindexed` are fields of the
    metadata that are kept, and that nothing can be filtered by.
    """

    blank: int = 0
    seconds: float = 0.0
    dead_letters: Path | None = None
    unindexed: tuple[str, ...] = ()

    @property
    def per_second(self) -> float:
        """Documents a second that this run indexed."""
        return self.indexed / self.seconds if self.seconds > 0 else 0.0


def lost(
    placed: Iterable[Placed], dead: set[str], present: Callable[[Sequence[str]], set[str]]
) -> Iterator[list[Placed]]:
    """Documents of a corpus that the index has not got, refused ones left aside, in the order of the corpus.

    `present` is asked for at most 1,000 ids at once; a list comes for each such question that found some missing.
    """
    expected = ((place, document) for place, document in placed if document.id not in dead)
    while chunk := list(islice(expected, ASKED_AT_ONCE)):
        there = present([document.id for _, document in chunk])
        missing = [(place, document) for place, document in chunk if document.id not in there]
        if missing:
            yield missing


class ProgressListener(Protocol):
    """Hears how a run goes on."""

    def counted(self, counters: IndexingCounters) -> None:
        """Some documents more are settled; called in the thread that indexes."""
        ...

    def notice(self, text: str) -> None:
        """Say why the run waits, "" when it goes on again; called in any thread."""
        ...


@dataclass(frozen=True, slots=True)
class IndexingRequest:
    """A corpus (BEIR folder, JSON Lines or .tsv file, .gz too), where it goes, and how.

    `add` allows an index that holds documents already; documents of the same id are written over. `keys` names the
    keys of id, title and text where they are not the usual ones.
    """

    corpus: Path
    sink: Sink
    files: RunFiles
    settings: IndexingSettings = field(default_factory=IndexingSettings)
    embedding: Embedding | None = None
    add: bool = False
    keys: RecordKeys | None = None


def index_corpus(request: IndexingRequest, listener: ProgressListener) -> IndexingReport:
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
    state, found = _state(file), survey(request.corpus, request.keys)
    fields = MetadataFields.of(found.kinds)
    backoff = Backoff(request.settings, listener.notice)
    about = {
        "corpus": found.digest,
        "index": backoff.call(request.sink.identity),
        "embedding": "" if request.embedding is None else request.embedding.name,
    }
    _check_start(request, backoff)
    with IndexingJournal(request.files.journal, about) as journal:
        _add_fields(request.sink, fields, backoff, journal)
        run = _Run(request, journal, found, about["index"], backoff, listener)
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
        **asdict(run.counters),
        blank=run.blank,
        unindexed=fields.unindexed,
        seconds=time.monotonic() - began,
        dead_letters=request.files.dead_letters if dead else None,
    )


def _state(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_start(request: IndexingRequest, backoff: Backoff) -> None:
    """Refuse to mix with what another run left, unless this one continues it."""
    journal = request.files.journal
    if journal.exists() and journal.stat().st_size > 0:
        return
    check_free(request.files.dead_letters)
    there = 0 if request.add else backoff.call(request.sink.count)
    if there:
        raise InvalidInput(f"{request.sink.name} holds {there} documents already: add to them, or choose another index")


def _add_fields(sink: Sink, fields: MetadataFields, backoff: Backoff, journal: IndexingJournal) -> None:
    """Add what the index lacks, once the journal agrees; one that nothing was written with goes if that fails."""
    try:
        if fields.properties:
            backoff.call(lambda: sink.add_fields(fields))
    except BaseException:
        if not journal.continued:
            journal.remove()
        raise


@dataclass
class _Run:
    """One run over a corpus whose journal is open."""

    request: IndexingRequest
    journal: IndexingJournal
    found: Survey
    identity: str
    backoff: Backoff
    listener: ProgressListener

    def __post_init__(self) -> None:
        bulk_size = BulkSize(self.request.settings)
        tries = self.request.settings.tries
        self.deliver = Delivery(self.request.sink, self.identity, self.backoff, bulk_size, tries)
        done, dead = len(self.journal.done), len(self.journal.dead)
        self.counters = IndexingCounters(self.found.documents, already=done - dead, dead=dead)
        self.dead_here = self.blank = 0

    def write(self) -> None:
        """Settle every document that no earlier run has settled."""
        self.listener.counted(self.counters)
        left = chunks(self._left(), self.request.settings, self.request.embedding)
        execute_bounded(left, self.deliver, self._settled, self.request.settings.in_flight, self.backoff.stop)

    def verify(self) -> None:
        """Write again what was acknowledged and is not there.

        Raises:
            IndexingError: the index loses documents again and again, or is another one than at the start.
        """
        sink = self.request.sink
        for _ in range(ROUNDS):
            self.backoff.call(sink.settle)
            check_identity(sink, self.identity, self.backoff)
            before = self.counters.mended
            for missing in lost(self._placed(), self.journal.dead, self._present):
                self.counters.mended += len(missing)
                for chunk in chunks(missing, self.request.settings, self.request.embedding):
                    self._settled(self.deliver(chunk), again=True)
            if self.counters.mended == before:
                return
        again = self.counters.mended - before
        raise IndexingError(
            f"{sink.name} lost {again} documents that it had acknowledged, {ROUNDS} times one after another"
        )

    def noted(self) -> str:
        """What a broken run leaves behind, for its error message."""
        done = len(self.journal.done)
        return (
            f"{done} of {self.counters.documents} documents are settled and noted in {self.journal.path}, "
            "where the same command goes on"
        )

    def _present(self, ids: Sequence[str]) -> set[str]:
        return self.backoff.call(lambda: self.request.sink.present(ids))

    def _placed(self) -> Iterator[Placed]:
        return enumerate(read_corpus(self.request.corpus, self.request.keys))

    def _left(self) -> Iterator[Placed]:
        for place, document in self._placed():
            self.blank += is_blank(document.content)
            if place not in self.journal.done:
                yield place, document

    def _settled(self, done: Delivered, again: bool = False) -> None:
        dead = done.dead
        self.journal.settle(done.chunk.start, done.chunk.end, dead)
        self.dead_here += len(dead)
        self.counters.dead += len(dead)
        self.counters.retries += done.retries
        if not again:
            self.counters.indexed += done.indexed
            self.counters.replaced += done.replaced
        self.listener.counted(self.counters)
        if self.dead_here >= self.request.settings.max_dead:
            reason = dead[-1].reason if dead else ""
            raise IndexingError(f"{self.request.sink.name} refused {self.dead_here} documents, the last one: {reason}")
