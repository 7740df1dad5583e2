"""One caller's pairs on their way from texts to logits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from secondpass.cuts import CutPolicy
from secondpass.engine import Job, Scored
from secondpass.errors import InvalidInput
from secondpass.scoring import Computation
from secondpass.text import checked_documents
from secondpass.tokens import Tokens


def columns(queries: object, documents: object) -> tuple[list[str], list[str]]:
    """Texts of the pairs (queries[i], documents[i]); one str is the query of every document.

    Raises:
        InvalidInput: no str, no sequence, or as many queries as there are no documents.
    """
    texts = checked_documents(documents)
    if isinstance(queries, str):
        return [queries] * len(texts), texts
    asked = checked_documents(queries, "queries")
    if len(asked) != len(texts):
        raise InvalidInput(f"queries has {len(asked)} texts for {len(texts)} documents")
    return asked, texts


class Call(Job):
    """A job that waits for others: it has a time of arrival, a deadline and a future.

    Whoever changes `waiting` or asks `complete` holds the lock of the queue; logits are written by the one thread that
    scores.
    """

    def __init__(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        deadline_s: float | None,
        cut: CutPolicy | None = None,
    ) -> None:
        super().__init__((queries, documents))
        self.queries = queries
        self.documents = documents
        self.arrived = time.monotonic()
        self.deadline_s = deadline_s
        self.cut = cut
        self.future: Future[Scored] = Future()
        self.settled = False
        self.held_tokens = 0
        self.begun = 0.0
        self._ready = 0.0

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_s is not None and time.monotonic() > self.arrived + self.deadline_s

    def add(self, piece: Sequence[Tokens], seconds: float) -> None:
        """Take the tokens of the next pairs; the longest waiting row is last then."""
        super().add(piece, seconds)
        self.waiting.sort(key=lambda row: len(self.tokens[row]))
        self._ready = self._ready or time.monotonic()

    def take(self, room: int, padded: bool) -> tuple[int, ...]:
        """Rows for a batch, longest first, of no more than `room` tokens together, or places where they get padded."""
        rows: list[int] = []
        while self.waiting:
            length = len(self.tokens[self.waiting[-1]])
            cost = len(self.tokens[rows[0]]) if padded and rows else length
            if cost > room:
                break
            rows.append(self.waiting.pop())
            room -= cost
            self.waiting_tokens -= length
        if rows and not self.begun:
            self.begun = time.monotonic()
        return tuple(rows)

    def scored(self, computation: Computation, labels: int = 1) -> Scored:
        """Everything in the caller's order, and how long it waited."""
        return replace(super().scored(computation, labels), waited_ms=1000 * max(0.0, self.begun - self._ready))
