"""One piece of work into the index: sent, sent again where that helps, until every document is settled."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from secondpass_indexing.errors import BatchTooLarge, IndexChanged, IndexingError, ServerAway, TooBusy
from secondpass_indexing.journal import DeadLetter
from secondpass_indexing.patience import PASSING, Patience, Stopped
from secondpass_indexing.pressure import Pressure
from secondpass_indexing.sink import Entry, Outcome, Sink
from secondpass_indexing.work import Work


@dataclass(slots=True)
class Delivered:
    """What became of a piece of work: ids with the reason of their refusal, and counts."""

    work: Work
    indexed: int = 0
    replaced: int = 0
    retries: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def dead(self) -> list[DeadLetter]:
        """Refused documents in the order of the corpus."""
        return [
            DeadLetter(each.document, each.reason or self.refused[each.document.id])
            for each in self.work.items
            if each.reason or each.document.id in self.refused
        ]


class Delivery:
    """Sends pieces of work into one index, from several threads; `identity` is what the index was at the start."""

    def __init__(self, sink: Sink, identity: str, patience: Patience, pressure: Pressure, tries: int) -> None:
        self._sink = sink
        self._identity = identity
        self._patience = patience
        self._pressure = pressure
        self._tries = tries

    def __call__(self, work: Work) -> Delivered:
        """Settle every document of `work`.

        Raises:
            IndexingError: the server stayed away, or refuses everything.
            Stopped: the run is being ended; nothing of `work` counts as settled.
        """
        done = Delivered(work)
        waiting = deque(each.entry for each in work.items if each.entry is not None)
        tries: Counter[str] = Counter()
        attempt = 0
        while waiting:
            if self._patience.stop.is_set():
                raise Stopped
            batch = self._pressure.take(waiting)
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
                again = self._settle(batch, outcomes, tries, done)
                attempt = attempt + 1 if again else 0
                self._acknowledged(again, len(batch), attempt)
                waiting.extendleft(reversed(again))
        return done

    def _split(self, batch: list[Entry], waiting: deque[Entry], done: Delivered, error: BatchTooLarge) -> None:
        size = sum(entry.size for entry in batch)
        if len(batch) == 1:
            done.refused[batch[0].id] = f"{size} bytes are more than the server takes in one request"
            return
        done.retries += 1
        self._pressure.too_large(size)
        waiting.extendleft(reversed(batch))

    def _hold_on(self, error: IndexingError, attempt: int) -> None:
        if isinstance(error, TooBusy):
            self._pressure.less()
        self._patience.wait(error, attempt)
        if isinstance(error, ServerAway):
            # A server that came back without its index would make one at the first document, with guessed fields.
            # That it answers is no progress: a server may answer and write nothing.
            check_identity(self._sink, self._identity, self._patience, renews=False)

    def _settle(
        self, batch: Sequence[Entry], outcomes: Sequence[Outcome], tries: Counter[str], done: Delivered
    ) -> list[Entry]:
        """Count what is settled and return what is to be sent again."""
        if [outcome.id for outcome in outcomes] != [entry.id for entry in batch]:
            raise IndexingError(f"{self._sink.name}: the answer is not about the {len(batch)} documents that were sent")
        again = []
        for entry, outcome in zip(batch, outcomes, strict=True):
            tries[entry.id] += 1
            if outcome.indexed:
                done.indexed += 1
                done.replaced += outcome.replaced
            elif outcome.again and tries[entry.id] < self._tries:
                again.append(entry)
            else:
                done.refused[entry.id] = outcome.reason
        done.retries += len(again)
        return again

    def _acknowledged(self, again: list[Entry], sent: int, attempt: int) -> None:
        if len(again) < sent:
            self._patience.succeeded()
        if again:
            self._hold_on(TooBusy(f"{self._sink.name} put off {len(again)} of {sent} documents"), attempt)
        else:
            self._pressure.more()


def check_identity(sink: Sink, identity: str, patience: Patience, renews: bool = True) -> None:
    """Make sure that the index is the one that was there at the start.

    Raises:
        IndexChanged: it is another one of the same name.
        IndexingError: it is gone, or the server stayed away.
        Stopped: the run is being ended.
    """
    if patience.call(sink.identity, renews) != identity:
        raise IndexChanged(f"{sink.name} was deleted and made anew while documents were written into it")
