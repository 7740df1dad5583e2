"""What a run has done so far, and what it did in all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Tally:
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


@dataclass(frozen=True, slots=True)
class IndexingReport:
    """The counts of `Tally` at the end, `blank` documents without any text, and seconds of wall clock.

    `dead_letters` is the file that holds the refused documents, None if there are none.
    """

    documents: int
    already: int
    indexed: int
    replaced: int
    dead: int
    retries: int
    mended: int
    blank: int
    seconds: float
    dead_letters: Path | None

    @property
    def per_second(self) -> float:
        """Documents a second that this run indexed."""
        return self.indexed / self.seconds if self.seconds > 0 else 0.0
