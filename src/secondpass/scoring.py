"""The stages joined: texts in, float32 logits and a record of the call out.

A `Job` is what one caller wants scored. A direct call scores its job at once; the queue of `secondpass.merging` scores
the jobs of several callers in shared batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.errors import NonFiniteScore
from secondpass.forwards.contract import Computation, Forward, Logits, Progress, non_finite, plan, score
from secondpass.forwards.prefixes import side_by_side
from secondpass.inputs import CutPolicy, PromptTemplate, Truncation
from secondpass.text import is_blank
from secondpass.tokens import CallRecord, PairTokenizer, TokenCache, Tokens

# Padded tokens of one batch. A CPU is fastest while activations stay in its caches, a GPU while it is full.
BATCH_TOKENS = {"cpu": 2048, "mps": 8192}
BATCH_TOKENS_ELSEWHERE = 16384


@dataclass(frozen=True, slots=True)
class Window:
    """How inputs are cut and batched in one call; `max_batch_tokens` None takes what suits the device."""

    max_length: int
    truncation: Truncation | CutPolicy
    max_batch_tokens: int | None
    max_pairs: int
    template: PromptTemplate | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """float32 logits [pairs, labels], in the order of the job, and what it alone took.

    `blank` bool [pairs, texts] tells which texts say nothing: by `text.is_blank`, or to the tokenizer. Of shared
    batches `record.score_ms` counts those that held some of the job's pairs, and `record.padding_share` and
    `record.batches` are theirs; `waited_ms` is the time from tokens ready to the first of them.
    """

    logits: Logits
    blank: npt.NDArray[np.bool_]
    record: CallRecord
    waited_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Spent:
    """What scoring some rows took: wall clock in seconds, batches, tokens, and `places` with padding."""

    seconds: float
    batches: int
    retries: int
    tokens: int
    places: int
    planning_seconds: float = 0.0


class Job:
    """Texts of one caller on their way to logits: tokens come in pieces, rows leave for batches, logits come back.

    Equal inputs are scored once: the same numbers at another place of a batch may differ in the last bit, and equal
    documents must tie. `columns` are texts by column, queries and documents or single texts.
    """

    def __init__(self, columns: Sequence[Sequence[str]]) -> None:
        self.columns = columns
        self.tokens: list[Tokens] = []
        self.waiting: list[int] = []  # distinct rows not begun
        self.waiting_tokens = 0
        self._places: list[int] = []  # of each pair among the distinct ones
        self._rows: list[int] = []  # the first pair of each distinct one
        self._seen: dict[tuple[bytes, bytes], int] = {}
        self._parts: list[tuple[Sequence[int], Logits]] = []
        self._scored = 0
        self._real_tokens = 0
        self._places_read = 0.0
        self._spent: list[Spent] = []
        self._tokenising = 0.0
        self._planning = 0.0

    def __len__(self) -> int:
        return len(self.columns[0])

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
        """Take the tokens of the next pairs, which took `seconds` to make."""
        began = time.perf_counter()
        start = len(self.tokens)
        for row, item in enumerate(piece, start):
            place = self._seen.setdefault((item.ids.tobytes(), item.type_ids.tobytes()), len(self._rows))
            self._places.append(place)
            if place == len(self._rows):
                self._rows.append(row)
                self.waiting.append(row)
                self.waiting_tokens += len(item)
                self._real_tokens += len(item)
            cut = item.cut
            self.tokens.append(item if cut is None else replace(item, cut=replace(cut, index=cut.index + start)))
        self._tokenising += seconds
        self._planning += time.perf_counter() - began

    def take_all(self) -> list[int]:
        """Every row that is not begun, in order."""
        rows, self.waiting, self.waiting_tokens = self.waiting, [], 0
        return rows

    def put(self, rows: Sequence[int], logits: Logits, spent: Spent) -> None:
        """Take the logits [rows, labels] of rows, and what all the rows scored with them took."""
        self._parts.append((rows, logits))
        self._scored += len(rows)
        self._spent.append(spent)
        own = sum(len(self.tokens[row]) for row in rows)
        self._places_read += own * spent.places / max(1, spent.tokens)

    def pairs_of(self, error: Exception) -> Exception:
        """`error` in this caller's terms: a pair that was scored for several equal ones stands for all of them."""
        if not isinstance(error, NonFiniteScore):
            return error
        wrong = {self._places[row] for row in error.indices}
        return non_finite(tuple(row for row, place in enumerate(self._places) if place in wrong))

    def scored(self, computation: Computation, labels: int = 1) -> Scored:
        """Everything in the caller's order; `labels` is the width where there are no pairs."""
        labels = self._parts[0][1].shape[1] if self._parts else labels
        logits = np.empty((len(self), labels), np.float32)
        for rows, part in self._parts:
            logits[list(rows)] = part
        firsts = [self._rows[place] for place in self._places]
        return Scored(logits[firsts], self._blank(), self._record(computation))

    def _blank(self) -> npt.NDArray[np.bool_]:
        silent = [{text: is_blank(text) for text in set(column)} for column in self.columns]
        made = [
            [nothing or known[text] for nothing, known, text in zip(item.empty, silent, texts, strict=True)]
            for item, *texts in zip(self.tokens, *self.columns, strict=True)
        ]
        return np.array(made, np.bool_).reshape(len(self), len(self.columns))

    def _record(self, computation: Computation) -> CallRecord:
        spent = self._spent
        return CallRecord(
            pairs=len(self),
            tokens=self._real_tokens,
            batches=sum(part.batches for part in spent),
            padding_share=1.0 - self._real_tokens / self._places_read if self._places_read else 0.0,
            truncated=tuple(item.cut for item in self.tokens if item.cut is not None),
            tokenise_ms=1000 * self._tokenising,
            batch_ms=1000 * (self._planning + sum(part.planning_seconds for part in spent)),
            score_ms=1000 * sum(part.seconds for part in spent),
            rank_ms=0.0,
            retries=sum(part.retries for part in spent),
            device=computation.device,
            dtype=computation.dtype,
            batching=computation.batching,
        )


def batch_tokens(device: str) -> int:
    """The token budget that suits a device, as torch names it."""
    return BATCH_TOKENS.get(device.partition(":")[0], BATCH_TOKENS_ELSEWHERE)


def score_rows(
    computation: Computation,
    tokens: Sequence[Tokens],
    rows: Sequence[int],
    max_batch_tokens: int,
    max_pairs: int | None = None,
    step: Callable[[int], object] = lambda remaining: None,
) -> tuple[Logits, Spent]:
    """Logits [rows, labels] of some of the inputs, and what they took.

    Batches have at most `max_batch_tokens` (with padding where there is some) and where inputs are padded `max_pairs`;
    None has no limit. `step` hears before the first batch and after each how many are left.

    Raises:
        NonFiniteScore, OutOfMemory: as `contract.score`; indices are rows.
    """
    began = time.perf_counter()
    lengths = [len(tokens[row]) for row in rows]
    most = len(rows) if max_pairs is None or not computation.pads else max_pairs
    most = 1 if computation.batching == "single" else most
    order = side_by_side([tokens[row].ids for row in rows]) if computation.shares_beginnings else None
    places = plan(lengths, max_batch_tokens, most, computation.pads, computation.batching == "equal", order)
    batches = [tuple(rows[place] for place in batch) for batch in places]
    planned = time.perf_counter()
    progress = Progress()
    logits = score(computation, tokens, batches, progress, step)[list(rows)]
    seconds = time.perf_counter() - planned
    spent = Spent(seconds, progress.batches, progress.retries, sum(lengths), progress.places, planned - began)
    return logits, spent


class Engine:
    """One tokenizer and one forward; holds no state of a call, so any number of threads may use it.

    The forward may be replaced. `cache` keeps the ids of documents; None encodes every text anew.
    """

    def __init__(self, fast_tokenizer: Any, forward: Forward, cache: TokenCache | None = None) -> None:
        self.tokenizer = PairTokenizer(fast_tokenizer, cache)
        self.forward = forward

    def tokens(self, columns: Sequence[Sequence[str]], window: Window) -> list[Tokens]:
        """Inputs of one column (single texts) or two (queries, documents)."""
        if len(columns) == 1:
            return self.tokenizer.singles(columns[0], window.max_length, window.truncation)
        return self.tokenizer.pairs(columns[0], columns[1], window.max_length, window.truncation, window.template)

    def score(
        self, columns: Sequence[Sequence[str]], window: Window, step: Callable[[int], object] = lambda remaining: None
    ) -> Scored:
        """Score at least one input; `step` hears how many batches are left.

        The forward is asked once: batches, logits and record are those of one state of the model. Where nothing is
        padded memory goes by real tokens, so the bound of pairs becomes one of tokens: no batch is larger than that
        many pairs of full length.
        """
        job = Job(columns)
        began = time.perf_counter()
        job.add(self.tokens(columns, window), time.perf_counter() - began)
        computation = self.forward.ready()
        budget = window.max_batch_tokens or batch_tokens(computation.device)
        if not computation.pads:
            budget = min(budget, window.max_pairs * window.max_length)
        rows = job.take_all()
        try:
            job.put(rows, *score_rows(computation, job.tokens, rows, budget, window.max_pairs, step))
        except NonFiniteScore as error:
            raise job.pairs_of(error) from None
        return job.scored(computation)
