"""Queries with BM25 candidates: passages cut from real text to a wanted length, no passage twice.

No text comes again: neither a cache of tokens nor a dictionary of scores can answer. Each query gets candidates from a
fresh cut of the corpus, so that its documents differ from those of all other queries.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEMO = Path(__file__).parents[2] / "src" / "secondpass" / "demo"
# mean tokens of a pair and their spread, as they are cut; BM25 then prefers the longer ones
LENGTHS: dict[str, tuple[int, int]] = {"passage": (110, 36), "long": (425, 70), "mixed": (230, 130)}
LONGEST = 600  # tokens of a passage; all contenders cut pairs to 512
SHORTEST = 12
QUERY_TOKENS = 22  # of a usual query; where a third of the pair is less, the query is shortened
POOL = 3  # a cut has at least so many times the passages that are asked for


@dataclass(frozen=True, slots=True)
class Asked:
    """One query and its candidates, best first by BM25."""

    query: str
    documents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Running text and questions about it."""

    name: str
    words: tuple[str, ...]
    queries: tuple[str, ...]


def source(data: Path) -> Source:
    """Cranfield where the data folder has it, else the demo's help centre."""
    folder, name = (data / "cranfield", "cranfield") if (data / "cranfield").is_dir() else (DEMO, "demo")
    rows = _rows(folder / "corpus.jsonl")
    words = tuple(word for row in rows for word in f"{row['title']} {row['text']}".split())
    return Source(name, words, tuple(row["text"] for row in _rows(folder / "queries.jsonl")))


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Loads:
    """Makes loads for one tokenizer.

    Args:
        text: where passages and queries come from.
        folder: of the model, whose tokens are counted.
    """

    def __init__(self, text: Source, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.source = text
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()  # sentence-transformers stores it
        sample = " ".join(text.words[:5000])
        self._rate = 5000 / len(self._tokenizer.encode(sample, add_special_tokens=False).ids)
        self._cuts = 0

    def cut(self, mean: float, spread: float, count: int) -> list[str]:
        """`count` passages of about `mean` tokens, from a place that no other cut began at."""
        draw = random.Random(self._cuts)
        self._cuts += 1
        words = self.source.words
        passages: list[str] = []
        place = draw.randrange(len(words))
        while len(passages) < count:
            tokens = min(max(draw.gauss(mean, spread), SHORTEST), LONGEST)
            size = max(1, round(tokens * self._rate))
            passages.append(" ".join(words[(place + n) % len(words)] for n in range(size)))
            place += size
        return list(dict.fromkeys(passages))

    def make(self, kind: str, queries: int, documents: int) -> list[Asked]:
        """So many queries with so many candidates each; a further call gives other texts."""
        return [self._asked(*LENGTHS[kind], documents) for _ in range(queries)]

    def of_length(self, tokens: int, queries: int, documents: int) -> list[Asked]:
        """Pairs of about `tokens` tokens, with a spread of a twentieth."""
        return [self._asked(tokens, tokens / 20, documents) for _ in range(queries)]

    def _asked(self, mean: float, spread: float, documents: int) -> Asked:
        query = self.source.queries[self._cuts % len(self.source.queries)]
        if mean < 3 * QUERY_TOKENS:
            query = " ".join(query.split()[:5])
        own = len(self._tokenizer.encode(query).ids) + 1
        passages = self.cut(mean - own, spread, POOL * documents)
        return Asked(query, tuple(best(query, passages, documents)))

    def tokens(self, asked: Sequence[Asked]) -> tuple[float, float]:
        """Mean and standard deviation of a pair's tokens."""
        import numpy as np

        pairs = [(one.query, document) for one in asked for document in one.documents]
        lengths = [min(512, len(found.ids)) for found in self._tokenizer.encode_batch(pairs)]
        return float(np.mean(lengths)), float(np.std(lengths))


def best(query: str, passages: Sequence[str], count: int) -> list[str]:
    """The passages that BM25 puts first (k1 0.9, b 0.4, English stop words and stemmer)."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(
        bm25s.tokenize(list(passages), stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False
    )
    wanted = bm25s.tokenize([query], stopwords="en", stemmer=stemmer, show_progress=False)
    rows, _ = index.retrieve(wanted, k=min(count, len(passages)), show_progress=False)
    return [passages[int(row)] for row in rows[0]]
