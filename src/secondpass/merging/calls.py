"""One caller's pairs on their way from texts to an answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

import torch

from secondpass.cuts import CutPolicy
from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.record import CallRecord
from secondpass.scoring import non_finite
from secondpass.text import checked_documents
from secondpass.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """float32 logits [pairs, labels] on the CPU in the call's order, and what this call alone took.

    `record.score_ms` counts the shared batches that held some of its pairs, `record.padding_share` and
    `record.batches` are theirs; `waited_ms` is the time from tokens ready to the first of those batches.
    """

    logits: torch.Tensor
    record: CallRecord
    waited_ms: float


@dataclass(frozen=True, slots=True)
class Work:
    """What one shared round did: wall clock in seconds, its batches, its tokens, and `places` with padding."""

    seconds: float
    batches: int
    retries: int
    tokens: int
    places: int


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


class Call:
    """Pairs of one caller; tokens come in a piece at a time, rows leave in rounds, logits come back.

    Equal pairs of one call are scored once, so that they tie. Whoever changes `waiting` or asks `complete` holds the
    lock of the queue; logits are written by the one thread that scores.
    """

    def __init__(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        deadline_s: float | None,
        cut: CutPolicy | None = None,
    ) -> None:
        self.queries = queries
        self.documents = documents
        self.arrived = time.monotonic()
        self.deadline_s = deadline_s
        self.cut = cut
        self.future: Future[Answer] = Future()
        self.settled = False
        self.held_tokens = 0
        self.tokens: list[Tokens] = []
        self.waiting: list[int] = []  # distinct rows not begun, the longest last
        self.waiting_tokens = 0
        self.begun = 0.0
        self._places: list[int] = []  # of each pair among the distinct ones
        self._rows: list[int] = []  # the first pair of each distinct one
        self._seen: dict[tuple[bytes, bytes], int] = {}
        self._parts: list[tuple[tuple[int, ...], torch.Tensor]] = []
        self._scored = 0
        self._real_tokens = 0
        self._places_read = 0.0
        self._work: list[Work] = []
        self._tokenise_s = 0.0
        self._ready = 0.0

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def late(self) -> bool:
        """Whether its deadline has passed."""
        return self.deadline_s is not None and time.monotonic() > self.arrived + self.deadline_s

    @property
    def untokenised(self) -> int:
        """Pairs whose tokens are still to come."""
        return len(self) - len(self.tokens)

    @property
    def remaining_tokens(self) -> int:
        """Tokens not begun; pairs without tokens yet count as long as the ones that have them."""
        return self.waiting_tokens + self.untokenised * self._real_tokens // max(1, len(self._rows))

    @property
    def complete(self) -> bool:
        """Whether every pair has its logits."""
        return not self.untokenised and self._scored == len(self._rows)

    def add(self, piece: Sequence[Tokens], seconds: float) -> None:
        """Take the tokens of the next pairs."""
        start = len(self.tokens)
        for row, item in enumerate(piece, start):
            key = (item.ids.tobytes(), item.type_ids.tobytes())
            place = self._seen.setdefault(key, len(self._rows))
            self._places.append(place)
            if place == len(self._rows):
                self._rows.append(row)
                self.waiting.append(row)
                self.waiting_tokens += len(item)
                self._real_tokens += len(item)
            cut = item.cut
            self.tokens.append(item if cut is None else replace(item, cut=replace(cut, index=cut.index + start)))
        self.waiting.sort(key=lambda row: len(self.tokens[row]))
        self._tokenise_s += seconds
        self._ready = self._ready or time.monotonic()

    def take(self, room: int, padded: bool) -> tuple[int, ...]:
        """Rows for a round, longest first, of no more than `room` tokens together, or places where they get padded."""
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

    def put(self, rows: tuple[int, ...], logits: torch.Tensor, work: Work) -> None:
        """Take the logits [rows, labels] of rows that a round scored."""
        self._parts.append((rows, logits))
        self._scored += len(rows)
        self._work.append(work)
        own = sum(len(self.tokens[row]) for row in rows)
        self._places_read += own * work.places / max(1, work.tokens)

    def pairs_of(self, error: Exception) -> Exception:
        """`error` in this caller's terms: a pair that was scored for several equal ones stands for all of them."""
        if not isinstance(error, NonFiniteScore):
            return error
        wrong = {self._places[row] for row in error.indices}
        return non_finite(tuple(row for row, place in enumerate(self._places) if place in wrong))

    def answer(self, device: torch.device, dtype: torch.dtype, labels: int) -> Answer:
        """Everything in the call's order; `labels` is the width of an answer without pairs."""
        labels = self._parts[0][1].shape[1] if self._parts else labels
        logits = torch.empty((len(self), labels))
        for rows, part in self._parts:
            logits[list(rows)] = part
        firsts = [self._rows[place] for place in self._places]
        record = CallRecord(
            pairs=len(self),
            tokens=self._real_tokens,
            batches=sum(work.batches for work in self._work),
            padding_share=1.0 - self._real_tokens / self._places_read if self._places_read else 0.0,
            truncated=tuple(item.cut for item in self.tokens if item.cut is not None),
            tokenise_ms=1000 * self._tokenise_s,
            batch_ms=0.0,
            score_ms=1000 * sum(work.seconds for work in self._work),
            rank_ms=0.0,
            retries=sum(work.retries for work in self._work),
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
        )
        return Answer(logits[firsts], record, 1000 * max(0.0, self.begun - self._ready))
