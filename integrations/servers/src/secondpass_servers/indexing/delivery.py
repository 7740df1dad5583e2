"""Chunks of a corpus into the index: sent, sent again where that helps, until every document is settled."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from secondpass_servers.contract import (
    BatchTooLarge,
    Entry,
    IndexChanged,
    IndexingError,
    Outcome,
    ServerAway,
    TooBusy,
)
from secondpass_servers.index import Sink
from secondpass_servers.indexing.entries import CorpusChunk, IndexingSettings
from secondpass_servers.indexing.journal import DeadLetter

Answer = TypeVar("Answer")
PASSING = (ServerAway, TooBusy)
LESS = 0.5
MORE = 1.25


class Stopped(Exception):
    """Another part of the run failed or was interrupted, so this one ends too."""


class Backoff:
    """Counts the time since something last got through; `notice` hears why and how long is waited.

    `stop` ends every wait at once.
    """

    def __init__(self, settings: IndexingSettings, notice: Callable[[str], None] = lambda text: None) -> None:
        self.stop = threading.Event()
        self._settings = settings
        self._notice = notice
        self._lock = threading.Lock()
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        """Something got through: the seconds are counted anew."""
        with self._lock:
            before, self._failing_since = self._failing_since, None
        if before is not None:
            self._notice("")

    def wait(self, error: IndexingError, attempt: int) -> None:
        """Wait before the next attempt; `attempt` counts from 1.

        Raises:
            IndexingError: nothing got through for `give_up_after` seconds; `error` is the cause, of the same kind.
            Stopped: the run is being ended.
        """
        now = time.monotonic()
        with self._lock:
            since = self._failing_since = self._failing_since or now
        left = since + self._settings.give_up_after - now
        if left <= 0:
            raise type(error)(f"{error}; nothing got through for {now - since:.0f} seconds") from error
        seconds = min(self._seconds(error, attempt), left)
        self._notice(f"{error}; next try in {seconds:.1f} s")
        if self.stop.wait(seconds):
            raise Stopped

    def call(self, ask: Callable[[], Answer], renews: bool = True) -> Answer:
        """Ask until there is an answer; `renews` says whether that counts as something that got through.

        Raises:
            IndexingError: nothing got through for too long, or the answer is a refusal that stays.
            Stopped: the run is being ended.
        """
        attempt = 0
        while True:
            try:
                answer = ask()
            except PASSING as error:
                attempt += 1
                self.wait(error, attempt)
            else:
                if renews:
                    self.succeeded()
                return answer

    def _seconds(self, error: IndexingError, attempt: int) -> float:
        asked = error.after if isinstance(error, TooBusy) else None
        longest = min(self._settings.longest_wait, self._settings.first_wait * 2.0 ** min(attempt - 1, 60))
        # Half of it by chance, so that several clients do not come back at the same moment.
        return max(asked or 0.0, longest * random.uniform(0.5, 1.0))  # noqa: S311


class BulkSize:
    """The share of the largest request that the server takes, and a ceiling in bytes that it has shown."""

    def __init__(self, settings: IndexingSettings) -> None:
        self._documents = settings.max_documents
        self._bytes = settings.max_bytes
        self._share = 1.0
        self._lock = threading.Lock()

    @property
    def share(self) -> float:
        """Share of the largest request, above 0 and at most 1."""
        return self._share

    def less(self) -> None:
        """The server is busy, or did not answer in time: half of it from now on, never less than one document."""
        with self._lock:
            self._share = max(self._share * LESS, 1.0 / self._documents)

    def more(self) -> None:
        """A request got through: a quarter more, up to the whole."""
        with self._lock:
            self._share = min(self._share * MORE, 1.0)

    def too_large(self, size: int) -> None:
        """The server refused a request of `size` bytes: half of that is the ceiling for the rest of the run."""
        with self._lock:
            self._bytes = max(min(self._bytes, size // 2), 1)

    def take(self, waiting: deque[Entry]) -> list[Entry]:
        """Take the next request off the left of `waiting`: at least one entry."""
        with self._lock:
            documents, size = max(1, int(self._documents * self._share)), self._bytes * self._share
        taken = [waiting.popleft()]
        held = taken[0].size
        while waiting and len(taken) < documents and held + waiting[0].size <= size:
            held += waiting[0].size
            taken.append(waiting.popleft())
        return taken


@dataclass(slots=True)
class Delivered:
    """What became of a chunk: ids with the reason of refusal, counts, and whether any was taken or refused for good."""

    chunk: CorpusChunk
    taken: bool = False
    indexed: int = 0
    replaced: int = 0
    retries: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def dead(self) -> list[DeadLetter]:
        """Refused documents in the order of the corpus."""
        return [
            DeadLetter(each.document, each.reason or self.refused[each.document.id])
            for each in self.chunk.items
            if each.reason or each.document.id in self.refused
        ]


class Delivery:
    """Sends chunks into one index, from several threads; `identity` is what the index was at the start."""

    def __init__(self, sink: Sink, identity: str, backoff: Backoff, bulk_size: BulkSize, tries: int) -> None:
        self._sink = sink
        self._identity = identity
        self._backoff = backoff
        self._bulk_size = bulk_size
        self._tries = tries
        # When the index last took a document of any chunk, on the monotonic clock: the tries of others count then.
        self._taken_at = float("-inf")

    def __call__(self, chunk: CorpusChunk) -> Delivered:
        """Settle every document of `chunk`.

        Raises:
            IndexingError: the server stayed away, or refuses everything.
            Stopped: the run is being ended; nothing of `chunk` counts as settled.
        """
        done = Delivered(chunk)
        waiting = deque(each.entry for each in chunk.items if each.entry is not None)
        tries: Counter[str] = Counter()
        attempt, before = 0, time.monotonic()
        while waiting:
            if self._backoff.stop.is_set():
                raise Stopped
            batch = self._bulk_size.take(waiting)
            asked = time.monotonic()
            try:
                outcomes = self._sink.write(batch)
            except BatchTooLarge as error:
                self._split(batch, waiting, done, error)
            except PASSING as error:
                attempt += 1
                done.retries += 1
                waiting.extendleft(reversed(batch))
                self._hold_on(error, attempt)
            else:
                again = self._settle(batch, outcomes, tries, done, before)
                before = asked
                attempt = attempt + 1 if again else 0
                # Behind the others: whether those are taken tells a full server from a document that it never takes.
                waiting.extend(again)
                self._acknowledged(outcomes, len(again), attempt)
        return done

    def _split(self, batch: list[Entry], waiting: deque[Entry], done: Delivered, error: BatchTooLarge) -> None:
        size = sum(entry.size for entry in batch)
        if len(batch) == 1:
            done.refused[batch[0].id] = f"{size} bytes are more than the server takes in one request"
            return
        done.retries += 1
        self._bulk_size.too_large(size)
        waiting.extendleft(reversed(batch))

    def _hold_on(self, error: IndexingError, attempt: int) -> None:
        # Of a server that is away too: a time-out or a 504 may come from a request that is more work than fits into it.
        self._bulk_size.less()
        self._backoff.wait(error, attempt)
        if isinstance(error, ServerAway):
            # A server that came back without its index would make one at the first document, with guessed fields.
            # That it answers is no progress: a server may answer and write nothing.
            check_identity(self._sink, self._identity, self._backoff, renews=False)

    def _settle(
        self, batch: list[Entry], outcomes: list[Outcome], tries: Counter[str], done: Delivered, before: float
    ) -> list[Entry]:
        """Count what is settled and return what is to be sent again.

        A try counts if others were taken: in this chunk, or anywhere since `before`, the time of the chunk's last
        request but this. A server that puts off everything is full, and none of the documents is to blame.
        """
        if [outcome.id for outcome in outcomes] != [entry.id for entry in batch]:
            raise IndexingError(f"{self._sink.name}: the answer is not about the {len(batch)} documents that were sent")
        if not all(outcome.again for outcome in outcomes):
            done.taken, self._taken_at = True, time.monotonic()
        counts = done.taken or self._taken_at >= before
        again = []
        for entry, outcome in zip(batch, outcomes, strict=True):
            tries[entry.id] += counts
            if outcome.indexed:
                done.indexed += 1
                done.replaced += outcome.replaced
            elif outcome.again and tries[entry.id] < self._tries:
                again.append(entry)
            else:
                done.refused[entry.id] = outcome.reason
        done.retries += len(again)
        return again

    def _acknowledged(self, outcomes: Sequence[Outcome], again: int, attempt: int) -> None:
        """Patience begins anew if anything was taken; a document given up after its tries is no progress."""
        reasons = [outcome.reason for outcome in outcomes if outcome.again]
        if len(reasons) < len(outcomes):
            self._backoff.succeeded()
        if again:
            line = f"{self._sink.name} put off {again} of {len(outcomes)} documents: {reasons[0]}"
            self._hold_on(TooBusy(line), attempt)
        elif not reasons:
            self._bulk_size.more()


def check_identity(sink: Sink, identity: str, backoff: Backoff, renews: bool = True) -> None:
    """Make sure that the index is the one that was there at the start.

    Raises:
        IndexChanged: it is another one of the same name.
        IndexingError: it is gone, or the server stayed away.
        Stopped: the run is being ended.
    """
    if backoff.call(sink.identity, renews) != identity:
        raise IndexChanged(f"{sink.name} was deleted and made anew while documents were written into it")


Settled = Callable[[Delivered], None]


def execute_bounded(
    chunks: Iterable[CorpusChunk],
    deliver: Callable[[CorpusChunk], Delivered],
    settled: Settled,
    in_flight: int,
    stop: threading.Event,
) -> None:
    """A bounded executor of deliveries; `settled` hears of each in this thread, in the order in which they are done.

    Chunks are taken one at a time, when there is room for them. When something fails, or Ctrl-C comes, `stop` is set,
    requests under way are waited for and what they settled is told too; then the error is raised.
    """
    pending: set[Future[Delivered]] = set()
    with ThreadPoolExecutor(in_flight, thread_name_prefix="indexing") as pool:
        try:
            for chunk in chunks:
                while len(pending) >= in_flight:
                    _settle_some(pending, settled)
                pending.add(pool.submit(deliver, chunk))
            while pending:
                _settle_some(pending, settled)
        except BaseException:
            stop.set()
            wait(pending)
            _tell(pending, settled)
            raise


def _settle_some(pending: set[Future[Delivered]], settled: Settled) -> None:
    """Wait until one is done at least, and take those that are out of `pending`."""
    done = wait(pending, return_when=FIRST_COMPLETED).done
    pending -= done
    failures = _tell(done, settled)
    if failures:
        raise failures[0]


def _tell(done: Iterable[Future[Delivered]], settled: Settled) -> list[BaseException]:
    failures = []
    for future in done:
        error = future.exception()
        if error is None:
            settled(future.result())
        else:
            failures.append(error)
    return failures
