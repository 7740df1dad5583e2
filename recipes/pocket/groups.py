"""Candidates and soft targets: per query eight documents, each with the teachers' opinion of it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt
import Stemmer

from recipes.pocket.corpora import Corpus
from recipes.pocket.queries import TrainingQuery
from recipes.pocket.teachers import TEACHERS, Teacher

Floats = npt.NDArray[np.float32]

DEPTH = 100
DOCUMENTS_PER_QUERY = 8

# Cosines spread differently: these bring the three to one spread (MiniLM's, times ten).
COSINE_SCALE = {"minilm": 10.0, "e5": 45.0, "bge": 20.0}
# Who is right about what: e5 and bge on questions, MiniLM and BM25 on keywords, BM25 also on claims.
WEIGHTS = {
    "question": {"minilm": 0.6, "e5": 1.2, "bge": 1.2, "bm25": 0.1},
    "title": {"minilm": 1.0, "e5": 0.8, "bge": 1.2, "bm25": 0.3},
    "keywords": {"minilm": 1.1, "e5": 0.6, "bge": 1.0, "bm25": 0.6},
    "request": {"minilm": 1.0, "e5": 0.8, "bge": 1.0, "bm25": 0.6},
    "claim": {"minilm": 0.9, "e5": 0.8, "bge": 1.1, "bm25": 0.5},
}


@dataclass(frozen=True)
class Group:
    """One query, its documents, the targets [n] in logits, and which documents are labelled relevant."""

    query: TrainingQuery
    rows: tuple[int, ...]
    targets: Floats
    body_only: bool


class FirstPass:
    """BM25 as in the test tables: k1 0.9, b 0.4, English stop words and stemmer."""

    def __init__(self, texts: list[str]) -> None:
        self._stemmer = Stemmer.Stemmer("english")
        self._index = bm25s.BM25(k1=0.9, b=0.4)
        self._index.index(self._tokens(texts), show_progress=False)
        self._size = len(texts)

    def _tokens(self, texts: list[str]) -> bm25s.tokenization.Tokenized:
        return bm25s.tokenize(texts, stopwords="en", stemmer=self._stemmer, show_progress=False)

    def search(self, queries: list[str], depth: int = DEPTH) -> tuple[npt.NDArray[np.int64], Floats]:
        """-> rows [queries, depth] best first, scores alike; a score of 0 means no word in common."""
        depth = min(depth, self._size)
        rows, scores = self._index.retrieve(self._tokens(queries), k=depth, show_progress=False)
        return rows.astype(np.int64), scores.astype(np.float32)


def mixed_targets(kind: str, cosines: dict[str, Floats], bm25: Floats) -> Floats:
    """Weighted mean of the teachers in logits, twice, and BM25's vote standardised within the query."""
    weight = WEIGHTS[kind]
    total = sum(weight[name] for name in cosines)
    mean = sum(weight[name] * COSINE_SCALE[name] * cosines[name] for name in cosines) / total
    spread = float(bm25.std()) or 1.0
    return np.asarray(2.0 * mean + weight["bm25"] * (bm25 - bm25.mean()) / spread, dtype=np.float32)


def choose(targets: Floats, relevant: list[int], rng: random.Random) -> list[int]:
    """Positions of the documents to train on: labelled ones, the teachers' best, BM25's best, the rest."""
    chosen = relevant[:2]
    by_teacher = [int(position) for position in np.argsort(-targets)]
    pools = (
        (by_teacher[:6], 2),
        (list(range(min(10, len(targets)))), 2),
        (by_teacher[:40], 1),
        (list(range(len(targets))), DOCUMENTS_PER_QUERY),
    )
    for pool, take in pools:
        free = [position for position in pool if position not in chosen]
        room = DOCUMENTS_PER_QUERY - len(chosen)
        chosen += rng.sample(free, min(take, room, len(free)))
    return chosen


def corpus_groups(corpus: Corpus, queries: list[TrainingQuery], work: Path, seed: int) -> list[Group]:
    """Groups for all `queries` of one corpus; queries with fewer than eight candidates are left out."""
    rng = random.Random(seed)
    texts = [query.text for query in queries]
    rows, scores = FirstPass(corpus.texts).search(texts)
    vectors = {}
    for spec in TEACHERS:
        teacher = Teacher(spec, work)
        vectors[spec.name] = (teacher.queries(texts), teacher.documents(corpus.texts))
    groups = []
    for number, query in enumerate(queries):
        found, bm25 = _candidates(query, rows[number], scores[number], rng)
        if len(found) < DOCUMENTS_PER_QUERY:
            continue
        cosines = {n: (d[found].astype(np.float32) @ q[number].astype(np.float32)) for n, (q, d) in vectors.items()}
        targets = mixed_targets(query.kind, cosines, bm25)
        relevant = [position for position, row in enumerate(found) if row in query.relevant]
        chosen = choose(targets, relevant, rng)
        body_only = query.kind == "title"
        groups.append(Group(query, tuple(int(found[c]) for c in chosen), targets[chosen], body_only))
    return groups


def _candidates(
    query: TrainingQuery, rows: npt.NDArray[np.int64], scores: Floats, rng: random.Random
) -> tuple[npt.NDArray[np.int64], Floats]:
    """First-pass rows with any score, plus labelled ones it missed, sometimes less the query's own source."""
    keep = scores > 0
    if query.source >= 0 and query.kind in ("claim", "request") and rng.random() < 0.5:
        keep &= rows != query.source
    rows, scores = rows[keep], scores[keep]
    missed = [row for row in query.relevant if row not in rows]
    if missed and len(scores):
        rows = np.concatenate([rows, np.asarray(missed, dtype=rows.dtype)])
        scores = np.concatenate([scores, np.full(len(missed), scores.min(), dtype=np.float32)])
    return rows, scores
