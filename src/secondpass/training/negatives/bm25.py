"""BM25 over a corpus in memory: the first pass whose best wrong answers are the classic hard negatives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput, MissingExtra

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BM25Settings:
    """Of the formula (Robertson et al. 1995, as Lucene has it) and of what a word is.

    Attributes:
        k1: how much a word that is repeated adds.
        b: how much long documents are discounted, 0 to 1.
        stop_words: a language that bm25s has a list for, or the words themselves; None keeps all.
        stemmer: a Snowball algorithm; None leaves words as they are.
    """

    k1: float = 0.9
    b: float = 0.4
    stop_words: str | tuple[str, ...] | None = "english"
    stemmer: str | None = "english"


class BM25:
    """An index of texts, scored for a query at a time.

    Raises:
        InvalidInput: a setting is refused.
        MissingExtra: bm25s or PyStemmer is not installed.
    """

    def __init__(self, texts: Sequence[str], settings: BM25Settings | None = None) -> None:
        chosen = settings or BM25Settings()
        if not (chosen.k1 >= 0 and 0 <= chosen.b <= 1):
            raise InvalidInput(f"k1={chosen.k1!r}, b={chosen.b!r}: k1 is not below 0 and b is from 0 to 1")
        self._library = _module("bm25s", "bm25s")
        self._stemmer = None if chosen.stemmer is None else _stemmer(chosen.stemmer)
        self._stop_words = chosen.stop_words if isinstance(chosen.stop_words, str) else list(chosen.stop_words or ())
        try:
            self._tokens([""])
        except ValueError:
            raise InvalidInput(f"stop_words={chosen.stop_words!r}: bm25s has no list for that language") from None
        self._size = len(texts)
        tokens = self._tokens(texts)
        # Without a single word there is no index to make, and nothing can be found.
        self._index = None
        if any(tokens):
            self._index = self._library.BM25(k1=chosen.k1, b=chosen.b)
            self._index.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Iterator[Floats]:
        """For each query float32 [texts]; 0 where no word is shared."""
        for words in self._tokens(queries):
            known = [] if self._index is None else self._index.get_tokens_ids(words)
            if self._index is None or not known:
                yield np.zeros(self._size, np.float32)
            else:
                yield np.asarray(self._index.get_scores_from_ids(known), np.float32)

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        found: list[list[str]] = self._library.tokenize(
            list(texts), stopwords=self._stop_words, stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        return found


def _stemmer(chosen: str) -> Any:
    library = _module("Stemmer", "PyStemmer")
    if chosen not in library.algorithms():
        raise InvalidInput(f"stemmer={chosen!r} is none of {', '.join(library.algorithms())}")
    return library.Stemmer(chosen)


def _module(name: str, library: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtra(f'{library} is not installed: pip install "secondpass[train]"') from error
