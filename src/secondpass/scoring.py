"""The stages joined: texts in, float32 logits and a record of the call out.

A `Job` is what one caller wants scored. A direct call scores its job at once; the queue of `secondpass.merging` scores
the jobs of several callers in shared batches.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput, NonFiniteScore, NoTokens, OutOfMemory
from secondpass.forwards.contract import Computation, Forward, Logits, Progress, no_room, non_finite, plan, score
from secondpass.inputs import CutPolicy, PromptTemplate, Truncation
from secondpass.record import CallRecord, Cut
from secondpass.score_cache import Kept, ScoreCache
from secondpass.text import is_blank
from secondpass.token_cache import TokenCache
from secondpass.tokens import PairTokenizer, Tokens
from secondpass.windows import Grade, Passage, Windows

if TYPE_CHECKING:
    from secondpass.forwards.workers import Workers

# Padded tokens of one batch. A CPU is fastest while activations stay in its caches, a GPU while it is full.
BATCH_TOKENS = {"cpu": 2048, "mps": 8192}
BATCH_TOKENS_ELSEWHERE = 16384
# Of calls with a budget: a piece is at most this part of a batch, which costs some speed and ends in half the time, and
# while no speed is known or many take turns this one. How much of earlier batches stays in the speed at each new one;
# and how many characters a token is taken to have, and a pair beside its texts, when texts are made tokens in pieces.
PIECE, FIRST_PIECE = 2, 8
KEPT = 0.8
CHARACTERS, CHARACTERS_AROUND = 4, 16


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

    `blank` bool [pairs, texts] tells which texts say nothing: by `text.is_blank`, or to the tokenizer. `read` bool
    [pairs] tells which pairs were scored, None all of them: a budget may end a job, and the logits of others are NaN.
    `passages` are the best windows where documents are read in windows. Of shared batches `record.score_ms` counts
    those that held some of the job's pairs, and `record.padding_share` and `record.batches` are theirs; `waited_ms` is
    the time from tokens ready to the first of them.
    """

    logits: Logits
    blank: npt.NDArray[np.bool_]
    record: CallRecord
    read: npt.NDArray[np.bool_] | None = None
    passages: tuple[Passage | None, ...] | None = None
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


@dataclass(frozen=True, slots=True)
class Recall:
    """What a cache of scores knows of a job's pairs, by a model that is computed as `identity` says."""

    cache: ScoreCache
    identity: str
    keys: Sequence[bytes]
    found: Sequence[Kept | None]


@dataclass(frozen=True, slots=True)
class Reading:
    """How the inputs of a job become logits of its pairs.

    Attributes:
        windows: how documents are read in several inputs; None: they are not.
        grade: by what a window is better than another.
        recall: what a cache knows; None: there is none.
        labels: logits of a pair.
    """

    windows: Windows | None = None
    grade: Grade = lambda logits: logits[:, 0]
    recall: Recall | None = None
    labels: int = 1


class Job:
    """Texts of one caller on their way to logits: tokens come in pieces, rows leave for batches, logits come back.

    A row is an input: a pair, or a window of one. Equal inputs are scored once: the same numbers at another place of a
    batch may differ in the last bit, and equal documents must tie. `columns` are texts by column, queries and documents
    or single texts.
    """

    def __init__(self, columns: Sequence[Sequence[str]], reading: Reading | None = None) -> None:
        self.columns = columns
        self.reading = reading or Reading()
        recall = self.reading.recall
        found = () if recall is None else recall.found
        self._found = {pair: kept for pair, kept in enumerate(found) if kept is not None}
        self.asked = [pair for pair in range(len(columns[0])) if pair not in self._found]  # whose tokens are wanted
        self.tokens: list[Tokens] = []
        self.waiting: list[int] = []  # distinct rows not begun
        self.waiting_tokens = 0
        self._ends: list[int] = []  # of the rows of each pair that is asked
        self._places: list[int] = []  # of each row among the distinct ones
        self._rows: list[int] = []  # the first row of each distinct one
        self._seen: dict[tuple[bytes, bytes], int] = {}
        self._parts: list[tuple[Sequence[int], Logits]] = []
        self._scored = self._real_tokens = self._tokens_read = 0
        self._places_read = self._tokenising = self._planning = 0.0
        self._spent: list[Spent] = []

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def untokenised(self) -> int:
        """Pairs whose tokens are still to come."""
        return len(self.asked) - len(self._ends)

    @property
    def complete(self) -> bool:
        """Whether every pair has its logits."""
        return not self.untokenised and self._scored == len(self._rows)

    @property
    def tokens_begun(self) -> int:
        """Tokens of rows that left for batches."""
        return self._real_tokens - self.waiting_tokens

    def next_texts(self, most: int, characters: float = math.inf) -> list[list[str]]:
        """Texts by column of the next pairs whose tokens are wanted: at most so many, of so many characters or one."""
        pairs = self.asked[len(self._ends) : len(self._ends) + most]
        if characters < math.inf:
            sizes = accumulate(CHARACTERS_AROUND + sum(len(column[pair]) for column in self.columns) for pair in pairs)
            pairs = pairs[: max(1, sum(1 for _ in takewhile(lambda size: size <= characters, sizes)))]
        return [[column[pair] for pair in pairs] for column in self.columns]

    def add(self, piece: Sequence[Tokens], seconds: float) -> None:
        """Take the tokens of the next pairs, which took `seconds` to make; raises NoTokens where a pair has none."""
        began = time.perf_counter()
        for first in piece:
            pair = self.asked[len(self._ends)]
            if not len(first):
                raise NoTokens(f"pair {pair} has no tokens", (pair,))
            for item in (first, *first.others):
                place = self._seen.setdefault((item.ids.tobytes(), item.type_ids.tobytes()), len(self._rows))
                self._places.append(place)
                if place == len(self._rows):
                    self._rows.append(len(self.tokens))
                    self.waiting.append(len(self.tokens))
                    self.waiting_tokens += len(item)
                    self._real_tokens += len(item)
                self.tokens.append(item if item.cut is None else replace(item, cut=replace(item.cut, index=pair)))
            self._ends.append(len(self.tokens))
        self._tokenising += seconds
        self._planning += time.perf_counter() - began

    def take_all(self) -> list[int]:
        """Every row that is not begun, in order."""
        rows, self.waiting, self.waiting_tokens = self.waiting, [], 0
        return rows

    def take_first(self, tokens: int) -> list[int]:
        """The next rows in order: one, and more while they are no more than so many tokens together."""
        count, room = 0, tokens
        for row in self.waiting:
            room -= len(self.tokens[row])
            if count and room < 0:
                break
            count += 1
        rows, self.waiting = self.waiting[:count], self.waiting[count:]
        self.waiting_tokens -= sum(len(self.tokens[row]) for row in rows)
        return rows

    def put(self, rows: Sequence[int], logits: Logits, spent: Spent) -> None:
        """Take the logits [rows, labels] of rows, and what all the rows scored with them took."""
        self._parts.append((rows, logits))
        self._scored += len(rows)
        self._spent.append(spent)
        own = sum(len(self.tokens[row]) for row in rows)
        self._tokens_read += own
        self._places_read += own * spent.places / max(1, spent.tokens)

    def pairs_of(self, error: Exception) -> Exception:
        """`error` in this caller's terms: a pair that was scored for several equal ones stands for all of them."""
        if not isinstance(error, NonFiniteScore | OutOfMemory) or not error.indices:
            return error
        wrong = {self._places[row] for row in error.indices}
        rows = [row for row, place in enumerate(self._places) if place in wrong]
        pairs = tuple(dict.fromkeys(self.asked[bisect_right(self._ends, row)] for row in rows))
        return no_room(pairs[0], len(self.tokens[rows[0]])) if isinstance(error, OutOfMemory) else non_finite(pairs)

    def scored(self, computation: Computation) -> Scored:
        """What is known of every pair, in the caller's order."""
        widths = [part.shape[1] for _, part in self._parts[:1]]
        widths += [len(kept.logits) for kept in [*self._found.values()][:1]]
        logits = np.full((len(self), (*widths, self.reading.labels)[0]), np.nan, np.float32)
        read = np.zeros(len(self), np.bool_)
        best: dict[int, Passage] = {}
        for pair, kept in self._found.items():
            logits[pair], read[pair] = kept.logits, True
            if kept.passage is not None:
                best[pair] = Passage(*kept.passage)
        self._put_in_order(logits, read, best)
        blank = self._blank()
        passages = None if self.reading.windows is None else tuple(map(best.get, range(len(self))))
        record = self._record(computation, read, int((~read & ~blank[:, -1]).sum()))
        made = Scored(logits, blank, record, None if read.all() else read, passages)
        self._remember(computation, made)
        return made

    def _put_in_order(self, logits: Logits, read: npt.NDArray[np.bool_], best: dict[int, Passage]) -> None:
        """Fill in what was scored for this job: logits [pairs, labels], which are there, and the best windows."""
        rows = np.full((len(self.tokens), logits.shape[1]), np.nan, np.float32)
        done = np.zeros(len(self.tokens), np.bool_)
        for some, part in self._parts:
            rows[list(some)] = part
            done[list(some)] = True
        firsts = [self._rows[place] for place in self._places]
        rows, done = rows[firsts], done[firsts]
        windows, pairs = self.reading.windows, self.asked[: len(self._ends)]
        if windows is None:
            logits[pairs], read[pairs] = rows, done
            return
        for pair, begin, end in zip(pairs, [0, *self._ends], self._ends, strict=False):
            if done[begin:end].all():
                grades = self.reading.grade(rows[begin:end])
                logits[pair], place = windows.joined(rows[begin:end], grades)
                read[pair] = True
                span = self.tokens[begin + place].span or _visible(self.columns[-1][pair])
                best[pair] = Passage(*span, float(grades[place]), end - begin)

    def _remember(self, computation: Computation, made: Scored) -> None:
        """Keep what is new, unless the model has become another one meanwhile."""
        recall = self.reading.recall
        if recall is None or computation.identity is None or computation.identity() != recall.identity:
            return
        cuts = {cut.index: (cut.query_tokens, cut.document_tokens, cut.characters) for cut in made.record.truncated}
        entries = []
        for pair in self.asked:
            if made.read is None or made.read[pair]:
                passage = None if made.passages is None else made.passages[pair]
                place = None if passage is None else (passage.start, passage.end, passage.logit, passage.windows)
                blank = made.blank[pair].tolist()
                kept = Kept(tuple(made.logits[pair].tolist()), (blank[0], blank[-1]), cuts.get(pair), place)
                entries.append((recall.keys[pair], kept))
        recall.cache.keep(entries)

    def _blank(self) -> npt.NDArray[np.bool_]:
        silent = [{text: is_blank(text) for text in set(column)} for column in self.columns]
        flags = [[known[text] for text in column] for known, column in zip(silent, self.columns, strict=True)]
        made = np.array(flags, np.bool_).reshape(len(self.columns), len(self)).T.copy()
        for pair, begin in zip(self.asked, [0, *self._ends], strict=False):
            if begin < len(self.tokens):
                made[pair] |= self.tokens[begin].empty
        for pair, kept in self._found.items():
            made[pair] |= kept.blank[-len(self.columns) :]
        return made

    def _record(self, computation: Computation, read: npt.NDArray[np.bool_], unscored: int) -> CallRecord:
        spent = self._spent
        begins = zip(self.asked, [0, *self._ends][: len(self._ends)], strict=False)
        firsts = [self.tokens[begin] for pair, begin in begins if read[pair]]
        cuts = {item.cut.index: item.cut for item in firsts if item.cut is not None}
        cuts |= {pair: Cut(pair, *kept.cut) for pair, kept in self._found.items() if kept.cut is not None}
        return CallRecord(
            pairs=len(self),
            tokens=self._tokens_read,
            batches=sum(part.batches for part in spent),
            padding_share=1.0 - self._tokens_read / self._places_read if self._places_read else 0.0,
            truncated=tuple(cuts[pair] for pair in sorted(cuts)),
            tokenise_ms=1000 * self._tokenising,
            batch_ms=1000 * (self._planning + sum(part.planning_seconds for part in spent)),
            score_ms=1000 * sum(part.seconds for part in spent),
            rank_ms=0.0,
            retries=sum(part.retries for part in spent),
            device=computation.device,
            dtype=computation.dtype,
            batching=computation.batching,
            unscored=unscored,
            cache_hits=len(self._found),
            windows=sum(1 + len(item.others) for item in firsts if item.others),
        )


def _visible(text: str) -> tuple[int, int]:
    """A text without the white space at its ends."""
    start = len(text) - len(text.lstrip())
    return start, max(start, len(text.rstrip()))


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
    if computation.plan is not None:
        places = computation.plan([tokens[row] for row in rows], max_batch_tokens)
    else:
        most = len(rows) if max_pairs is None or not computation.pads else max_pairs
        most = 1 if computation.batching == "single" else most
        places = plan(lengths, max_batch_tokens, most, computation.pads, computation.batching == "equal")
    batches = [tuple(rows[place] for place in batch) for batch in places]
    planned, progress = time.perf_counter(), Progress()
    logits = score(computation, tokens, batches, progress, step)[list(rows)]
    seconds = time.perf_counter() - planned
    spent = Spent(seconds, progress.batches, progress.retries, sum(lengths), progress.places, planned - began)
    return logits, spent


class Pace:
    """Seconds for a token by what was measured last; any number of threads may use one."""

    def __init__(self) -> None:
        self._sums = 0.0, 0.0

    def measure(self, seconds: float, tokens: int) -> None:
        """Hear what so many tokens took: the latest count most, and many more than few."""
        before = self._sums
        self._sums = seconds + KEPT * before[0], tokens + KEPT * before[1]

    @property
    def each(self) -> float:
        """Of one token; 0.0 while nothing was measured."""
        seconds, tokens = self._sums
        return seconds / tokens if tokens else 0.0


def fitting(left: float, most: int, each: float) -> int:
    """Tokens, at most so many, for which `left` seconds suffice: a few where it is not known what `each` takes."""
    return int(min(most, max(0.0, left) / each)) if each else most * PIECE // FIRST_PIECE


class Engine:
    """One tokenizer and one forward; holds no state of a call, so any number of threads may use it.

    The forward may be replaced. `cache` keeps the ids of documents; None encodes every text anew. `workers` compute.
    """

    def __init__(self, fast_tokenizer: Any, forward: Forward, cache: TokenCache | None = None) -> None:
        self.tokenizer = PairTokenizer(fast_tokenizer, cache)
        self.forward = forward
        self.workers: Workers | None = None
        self._tokenising, self._scoring = Pace(), Pace()  # of calls with a budget
        self._under_way: set[int] = set()

    def ready(self) -> Computation:
        """How the model is computed now."""
        own = self.forward.ready()
        return own if self.workers is None else self.workers.around(own, self.forward)

    def tokens(self, columns: Sequence[Sequence[str]], window: Window) -> list[Tokens]:
        """Inputs of one column (single texts) or two (queries, documents)."""
        if len(columns) == 1:
            return self.tokenizer.singles(columns[0], window.max_length, window.truncation)
        return self.tokenizer.pairs(columns[0], columns[1], window.max_length, window.truncation, window.template)

    def score(
        self,
        columns: Sequence[Sequence[str]],
        window: Window,
        step: Callable[[int], object] = lambda remaining: None,
        reading: Reading | None = None,
        until: float | None = None,
    ) -> Scored:
        """Score at least one input; `step` hears how many batches are left.

        The forward is asked once: batches, logits and record are those of one state of the model. Where nothing is
        padded memory goes by real tokens, so the bound of pairs becomes one of tokens: no batch is larger than that
        many pairs of full length.

        Args:
            columns: texts by column.
            window: how they are cut and batched.
            step: what it raises ends the call.
            reading: how inputs become logits of pairs.
            until: in `time.perf_counter`'s seconds: pairs are scored in order, and none is begun that would not be
                done by then at the speed measured so far; the first is in any case, unless other threads have the model
                until then.
        """
        job = Job(columns, reading)
        if until is None and job.asked:
            self._tokenise(job, window)
        computation = self.ready()
        budget = window.max_batch_tokens or batch_tokens(computation.device)
        if not computation.pads:
            budget = min(budget, window.max_pairs * window.max_length)
        if until is not None:
            self._under_way.add(id(job))
            try:
                self._score_until(job, computation, window, budget, step, until)
            finally:
                self._under_way.discard(id(job))
        elif job.waiting:
            self._score_rows(job, job.take_all(), computation, budget, window.max_pairs, step)
        return job.scored(computation)

    def _score_rows(
        self,
        job: Job,
        rows: Sequence[int],
        computation: Computation,
        budget: int,
        max_pairs: int,
        step: Callable[[int], object],
    ) -> None:
        try:
            job.put(rows, *score_rows(computation, job.tokens, rows, budget, max_pairs, step))
        except (NonFiniteScore, OutOfMemory) as error:
            raise job.pairs_of(error) from None

    def _score_until(
        self,
        job: Job,
        computation: Computation,
        window: Window,
        budget: int,
        step: Callable[[int], object],
        until: float,
    ) -> None:
        """Score pieces of the job in order while there is time; the first is small where the speed is not known."""
        begun = False
        while job.waiting or job.untokenised:
            left = until - time.perf_counter()
            most = max(budget // FIRST_PIECE, budget // (1 + len(self._under_way)))
            if not job.waiting:
                if begun and left <= 0:
                    return
                self._tokenise(job, window, fitting(left, most, self._tokenising.each + self._scoring.each))
                continue
            with computation.turn(lambda: until - time.perf_counter()) as mine:
                began = time.perf_counter()
                left, each = until - began, self._scoring.each
                if not mine or (begun and left < len(job.tokens[job.waiting[0]]) * each):
                    return
                rows = job.take_first(fitting(left, most, each))
                self._score_rows(job, rows, computation, budget, window.max_pairs, step)
                self._scoring.measure(time.perf_counter() - began, sum(len(job.tokens[row]) for row in rows))
            begun = True

    def _tokenise(self, job: Job, window: Window, room: float = math.inf) -> None:
        """Make tokens of the next pairs: about so many, or one pair; an error names them by their places in the job."""
        began = time.perf_counter()
        texts = job.next_texts(len(job), CHARACTERS * room)
        try:
            made = self.tokens(texts, window)
        except InvalidInput:
            if len(texts[0]) < len(job):
                self.tokens(job.columns, window)  # the message would count from the first of these texts
            raise
        seconds = time.perf_counter() - began
        job.add(made, seconds)
        if room < math.inf:
            self._tokenising.measure(seconds, sum(len(item) + sum(map(len, item.others)) for item in made))
