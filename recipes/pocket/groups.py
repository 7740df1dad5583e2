"""Candidates and soft targets: per query eight documents, each with the teachers' opinion of it."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from recipes.pocket.build import Window, token_limit
from recipes.pocket.corpora import Corpus
from recipes.pocket.queries import TrainingQuery
from recipes.pocket.teachers import Teacher
from secondpass.training import Group, Teaching
from secondpass.training.negatives.candidates import BM25, best

Floats = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

DEPTH = 100
DOCUMENTS_PER_QUERY = 8
# What the labelled document counts beside the teachers.
LABEL_WEIGHT = 0.5

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


class FirstPass:
    """BM25 as in the test tables: k1 0.9, b 0.4, English stop words and stemmer."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._index = BM25(texts)
        self._size = len(texts)

    def search(self, queries: Sequence[str], depth: int = DEPTH) -> tuple[npt.NDArray[np.int64], Floats]:
        """-> rows [queries, depth] best first, scores alike; a score of 0 means no word in common."""
        depth = min(depth, self._size)
        rows, scores = np.empty((len(queries), depth), np.int64), np.empty((len(queries), depth), np.float32)
        for number, found in enumerate(self._index.scores(queries)):
            rows[number] = best(found[None], depth)[0]
            scores[number] = found[rows[number]]
        return rows, scores


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


def training_groups(
    corpora: Sequence[Corpus], queries: Sequence[TrainingQuery], teachers: Sequence[Teacher], window: Window
) -> Iterator[Group]:
    """The groups of the first stage, corpus after corpus."""
    number = 0
    for corpus in corpora:
        own = [query for query in queries if query.corpus == corpus.name]
        before = number
        for query, rows, targets in corpus_targets(corpus, own, teachers, seed=31) if own else ():
            documents = [corpus.body(row) if query.kind == "title" else corpus.texts[row] for row in rows]
            relevant = [place for place, row in enumerate(rows) if row in query.relevant]
            teaching = Teaching(tuple(targets.tolist()), label_weight=LABEL_WEIGHT)
            group = window.group(query.text, documents, relevant, teaching, token_limit(number))
            if group is not None:
                number += 1
                yield group
        log.info("%s: %d of %d queries give a group", corpus.name, number - before, len(own))


def corpus_targets(
    corpus: Corpus, queries: Sequence[TrainingQuery], teachers: Sequence[Teacher], seed: int
) -> Iterator[tuple[TrainingQuery, list[int], Floats]]:
    """Each query with the rows chosen for it and their targets; one with fewer than eight candidates is left out."""
    rng = random.Random(seed)
    texts = [query.text for query in queries]
    rows, scores = FirstPass(corpus.texts).search(texts)
    vectors = {teacher.spec.name: (teacher.queries(texts), teacher.documents(corpus.texts)) for teacher in teachers}
    for number, query in enumerate(queries):
        found, bm25 = _candidates(query, rows[number], scores[number], rng)
        if len(found) < DOCUMENTS_PER_QUERY:
            continue
        cosines = {n: (d[found].astype(np.float32) @ q[number].astype(np.float32)) for n, (q, d) in vectors.items()}
        targets = mixed_targets(query.kind, cosines, bm25)
        relevant = [position for position, row in enumerate(found) if row in query.relevant]
        chosen = choose(targets, relevant, rng)
        yield query, [int(found[place]) for place in chosen], targets[chosen]


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
