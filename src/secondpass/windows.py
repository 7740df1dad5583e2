"""Long documents in pieces that fit: which tokens each window reads, and what the windows' logits say of the document.

Passages that are scored by themselves and joined by their best one ("MaxP") are from Dai and Callan, "Deeper Text
Understanding for IR with Contextual Neural Language Modeling", SIGIR 2019; Cohere's API and Elasticsearch's chunk
rescorer do the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput
from secondpass.sentences import sentences
from secondpass.text import choice, positive_int, whole_number

Borders = Literal["sentences", "words"]
Select = Literal["first", "bm25"]
Logits = npt.NDArray[np.float32]
Indices = Sequence[int] | npt.NDArray[np.intp]

# Tokens that a window shares with the one before it where nobody says how many: a sentence or two.
OVERLAP = 32
# BM25 over the windows of one document, as Lucene scores passages of about one length.
K1, B = 0.9, 0.4


@dataclass(frozen=True, slots=True)
class Windows:
    """How a document that is too long for the model is read: whole, in several inputs.

    A document that fits one window is read and scored as under any other policy.

    Args:
        tokens: of the document in a window; None is all that the query leaves.
        overlap: tokens that a window shares with the one before it, at most half of its own; None is 32, or a quarter
            of a window that is shorter than 128.
        most: windows read of a document; None reads all of it.
        aggregate: the document's logit is that of its best window ("max"), or the mean of so many best ones.
        borders: windows end and begin at "sentences" where one ends in their last quarter, else at "words".
        select: which windows are read where there are more than `most`: the "first" ones, or by "bm25" those that share
            the rarest tokens with the query.

    Raises:
        InvalidInput: an argument is refused; the message names it.
    """

    tokens: int | None = None
    overlap: int | None = None
    most: int | None = None
    aggregate: Literal["max"] | int = "max"
    borders: Borders = "sentences"
    select: Select = "first"

    def __post_init__(self) -> None:
        for name, check in (("tokens", positive_int), ("overlap", whole_number), ("most", positive_int)):
            if getattr(self, name) is not None:
                # numpy's numbers are others to a cache and to a file
                object.__setattr__(self, name, check(getattr(self, name), f"windows: {name}"))
        if self.overlap is not None and self.tokens is not None and self.overlap > self.tokens // 2:
            raise InvalidInput(f"windows: overlap={self.overlap!r} is more than half of tokens={self.tokens}")
        if self.aggregate != "max":
            object.__setattr__(self, "aggregate", positive_int(self.aggregate, "windows: aggregate"))
        choice(self.borders, get_args(Borders), "windows: borders")
        choice(self.select, get_args(Select), "windows: select")
        if self.select == "bm25" and self.most is None:
            raise InvalidInput("windows: select='bm25' chooses among windows, and most=None reads them all")

    def shared(self, size: int) -> int:
        """Tokens that a window of `size` shares with the one before it."""
        wish = OVERLAP if self.overlap is None else self.overlap
        return min(wish, size // 4 if self.overlap is None else size // 2)

    def parts(self, text: str, starts: Indices, ends: Indices, size: int) -> list[slice]:
        """The tokens of each window, in order; together they are all tokens, and no window has more than `size`.

        Each begins at least a quarter of `size` behind the one before it, so that the cost is linear in the text.

        Args:
            text: the document.
            starts: the place in `text` where each token begins, never falling.
            ends: where it ends, the same.
            size: at least 1.
        """
        borders = Places(text, starts, ends, self.borders)
        overlap, count = self.shared(size), len(starts)
        made: list[slice] = []
        begin = 0
        while count - begin > size:
            end = borders.last(begin + size - size // 4, begin + size)
            made.append(slice(begin, end))
            begin = borders.first(max(end - overlap, begin + max(1, size // 4)), end)
        return [*made, slice(begin, count)]

    def chosen(self, query: npt.NDArray[np.int32], windows: Sequence[npt.NDArray[np.int32]]) -> list[int]:
        """Which of the windows are read, in order, given the token ids of the query and of each."""
        if self.most is None or len(windows) <= self.most:
            return list(range(len(windows)))
        if self.select == "first":
            return list(range(self.most))
        return sorted(np.argsort(-bm25(query, windows), kind="stable")[: self.most].tolist())

    def joined(self, logits: Logits, grades: npt.NDArray[np.float32]) -> tuple[Logits, int]:
        """The logits [labels] of a document of which the windows have these, and its best window.

        Args:
            logits: float32 [windows, labels].
            grades: float32 [windows], by which a window is better than another; of equal ones the first.
        """
        best = int(grades.argmax())
        if self.aggregate == "max" or len(grades) == 1:
            return logits[best], best
        kept = np.argsort(-grades, kind="stable")[: self.aggregate]
        made: Logits = logits[kept].mean(axis=0, dtype=np.float64).astype(np.float32)
        return made, best


class Places:
    """Where windows of a text may begin and end."""

    def __init__(self, text: str, starts: Indices, ends: Indices, borders: Borders) -> None:
        self._text = text
        self._starts = starts
        self._ends = ends
        self._sentences = self._firsts(ends) if borders == "sentences" else []

    def _firsts(self, ends: Indices) -> list[int]:
        """The first token of each sentence; a token may begin with the blank before it."""
        firsts: list[int] = np.searchsorted(ends, [span.start for span in sentences(self._text)], "right").tolist()
        return firsts

    def last(self, least: int, most: int) -> int:
        """Where a window ends, within these bounds: before the last sentence or else word that begins there."""
        place = bisect_right(self._sentences, most)
        if place and self._sentences[place - 1] >= least:
            return self._sentences[place - 1]
        return self._best(range(most, least - 1, -1), most)

    def first(self, least: int, most: int) -> int:
        """Where the next one begins: with the first sentence or else word that begins within these bounds."""
        place = bisect_left(self._sentences, least)
        if place < len(self._sentences) and self._sentences[place] <= most:
            return self._sentences[place]
        return self._best(range(least, most), least)

    def _best(self, tokens: range, otherwise: int) -> int:
        """The first of some tokens that begins a word, else a character, of which a token may be a part."""
        whole = [token for token in tokens if not token or self._starts[token] >= self._ends[token - 1]]
        return next(filter(self._word, whole), next(iter(whole), otherwise))

    def _word(self, token: int) -> bool:
        start = self._starts[token]
        return start == 0 or self._text[start - 1 : start].isspace() or self._text[start : start + 1].isspace()


def bm25(query: npt.NDArray[np.int32], windows: Sequence[npt.NDArray[np.int32]]) -> npt.NDArray[np.float64]:
    """How well each window [windows] fits the query by its tokens: BM25 with the windows as the collection."""
    terms = np.unique(query)
    found = [np.searchsorted(terms, window[np.isin(window, terms)]) for window in windows]
    counts = np.array([np.bincount(places, minlength=len(terms)) for places in found], np.float64)
    sizes = np.array([len(window) for window in windows], np.float64)
    having = (counts > 0).sum(axis=0)
    rarity = np.log1p((len(windows) - having + 0.5) / (having + 0.5))
    weights = K1 * (1 - B + B * sizes / sizes.mean())
    scores: npt.NDArray[np.float64] = (rarity * counts / (counts + weights[:, None])).sum(axis=1)
    return scores


@dataclass(frozen=True, slots=True)
class Located:
    """Where the tokens of a text stand in it: int [tokens], places in `text`, neither ever falling.

    `given` are the places [characters + 1] of the text's characters in the one that the user gave; None: the same.
    `head` and `tail` are the ids of what the operator wrote next to it, without any character of the text.
    """

    text: str
    starts: npt.NDArray[np.intp]
    ends: npt.NDArray[np.intp]
    given: npt.NDArray[np.intp] | None
    head: npt.NDArray[np.int32]
    tail: npt.NDArray[np.int32]

    def span(self, part: slice) -> tuple[int, int]:
        """The characters of the given text that these tokens stand for, without white space at the ends.

        What a text begins and ends with is there though no token of its own stands for it.
        """
        start = int(self.starts[part.start]) if part.start else 0
        end = int(self.ends[part.stop - 1]) if part.stop < len(self.ends) else len(self.text)
        read = self.text[start:end]
        start, end = start + len(read) - len(read.lstrip()), end - len(read) + len(read.rstrip())
        end = max(start, end)
        return (start, end) if self.given is None else (int(self.given[start]), int(self.given[end]))


@dataclass(frozen=True, slots=True)
class Passage:
    """The best window of a document: document[start:end], without white space at its ends.

    `windows` is how many were read; `logit` and `score` are this one's: the number that documents are ranked by and
    what the activation makes of it.
    """

    start: int
    end: int
    logit: float
    windows: int = 1
    score: float = float("nan")


Grade = Callable[[Logits], npt.NDArray[np.float32]]
"""Logits [windows, labels] to the numbers [windows] that documents are ranked by."""
