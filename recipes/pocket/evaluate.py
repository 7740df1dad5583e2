"""Rankers on the same candidates, BM25's first hundred: nDCG@10 by collection, and their mean with intervals.

What is compared is the mean over collections; its intervals resample the queries of each collection, the same ones for
both rankers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from recipes.pocket.candidates import DEPTH, FirstPass
from recipes.pocket.corpora import (
    DEVELOPMENT,
    SHINGLE,
    Collection,
    Shingles,
    apart,
    digest_of,
    evenly_spaced,
    read_test,
)
from recipes.pocket.queries import trained_texts
from secondpass import CrossEncoder
from secondpass.evaluation.measures import evaluate as measure
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.forwards.kernel import native
from secondpass.forwards.precision import Precision, has_fast_bf16
from secondpass.models.folders import folder_of
from secondpass.models.identity import weights_digest

log = logging.getLogger(__name__)

MEASURE = "nDCG@10"
# Evenly spaced queries of a collection.
DEVELOPMENT_QUERIES = 50
# The same of a test set; of the others all.
TEST_QUERIES: Mapping[str, int] = {"squad": 2000}
RESAMPLES = 5000
# Queries of one call: a passage that several of them have is read once; few enough to lose little when stopped.
CHUNK = 2000

Scores = dict[str, list[float]]
"""By query one score per candidate, in the order of BM25."""
Values = dict[str, dict[str, float]]
"""By collection, by query: nDCG@10."""


@dataclass(frozen=True)
class Task:
    """One query with its candidates, best first by BM25."""

    query_id: str
    query: str
    rows: list[int]


@dataclass(frozen=True)
class Exam:
    """A collection's queries that are measured, each with its candidates."""

    collection: Collection
    tasks: list[Task]
    bm25: Scores

    @property
    def name(self) -> str:
        """Of the collection."""
        return self.collection.name

    @property
    def qrels(self) -> Qrels:
        """Of the measured queries."""
        return self.collection.qrels.only({task.query_id for task in self.tasks})

    def documents(self, task: Task) -> list[str]:
        """Texts of a query's candidates."""
        return [self.collection.corpus.texts[row] for row in task.rows]

    def digest(self) -> str:
        """Stands for what is scored."""
        return digest_of(part for task in self.tasks for part in (task.query, *self.documents(task)))

    def values(self, scores: Scores) -> dict[str, float]:
        """nDCG@10 by query; equal scores keep BM25's order."""
        ids = self.collection.corpus.ids
        rankings: dict[str, list[tuple[str, float | None]]] = {}
        for task in self.tasks:
            order = np.argsort(-np.asarray(scores[task.query_id]), kind="stable")
            rankings[task.query_id] = [(ids[task.rows[place]], None) for place in order]
        report = measure(self.qrels, Run("scores", rankings), (MEASURE,))
        return dict(report.values[MEASURE])


def exam(collection: Collection, limit: int | None) -> Exam:
    """At most `limit` evenly spaced queries that can be answered, with BM25's hundred; of trecqa the judged ones."""
    corpus = collection.corpus
    names = evenly_spaced(sorted(collection.qrels.with_relevant), limit)
    judged_only = collection.name == "trecqa"
    places = corpus.index() if judged_only else {}
    depth = len(corpus.texts) if judged_only else DEPTH
    rows, scores = FirstPass(corpus.texts).search([collection.queries[name] for name in names], depth)
    tasks, bm25 = [], {}
    for name, found, own in zip(names, rows, scores, strict=True):
        allowed = {places[document] for document in collection.qrels[name]} if judged_only else None
        kept = [
            (int(row), float(score))
            for row, score in zip(found, own, strict=True)
            if (score > 0 if allowed is None else int(row) in allowed)
        ]
        tasks.append(Task(name, collection.queries[name], [row for row, _ in kept]))
        bm25[name] = [score for _, score in kept]
    return Exam(collection, tasks, bm25)


@cache
def development(data: Path, limit: int = DEVELOPMENT_QUERIES) -> tuple[Exam, ...]:
    """What decides, see `corpora.DEVELOPMENT`, without what shares words with what is trained on."""
    trained, made = Shingles(trained_texts(data)), []
    for read in DEVELOPMENT.values():
        own = apart(read(data), trained)
        documents, queries = own.left_out
        log.info(
            "%s: %d documents left out, which share %d words in a row with what is trained on, and %d queries that "
            "they answer", own.name, documents, SHINGLE, queries,
        )  # fmt: skip
        made.append(exam(own, limit))
    return tuple(made)


def tests(data: Path, names: Sequence[str], limit: int | None) -> tuple[Exam, ...]:
    """What is measured once, at the end; at most so many queries of each, None: as many as the model card has."""
    return tuple(exam(read_test(data, name), TEST_QUERIES.get(name) if limit is None else limit) for name in names)


def fast_precision() -> Precision:
    """bfloat16 where the processor multiplies in it, else int16 where the kernel does, else float32."""
    if has_fast_bf16():
        return "bf16"
    return "fp32" if isinstance(native.find("int16"), str) else "int16"


def scorer(model: str, work: Path, window: int | None = None) -> Callable[[Exam], Scores]:
    """What gives a model's logits: a name or a folder's.

    They are kept in `work` by the weights' digest, the precision, the window and what was scored.
    """
    encoder = CrossEncoder(model, device="cpu", max_length=window, precision=fast_precision())
    key = f"{str(weights_digest(folder_of(model)))[:12]}-{fast_precision()}-{window or 'all'}"
    return lambda own: _model_scores(encoder, own, work / "scores" / key / f"{own.name}-{own.digest()}.jsonl")


def _model_scores(model: CrossEncoder, own: Exam, file: Path) -> Scores:
    """Logits of a model, kept in `file` query by query; a stopped call goes on."""
    done = _kept(file)
    left = [task for task in own.tasks if task.query_id not in done]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        for start in range(0, len(left), CHUNK):
            part = left[start : start + CHUNK]
            rankings = model.rank_many(
                [task.query for task in part],
                [own.documents(task) for task in part],
                show_progress_bar=False,
            )
            for task, ranking in zip(part, rankings, strict=True):
                logits = {hit.index: hit.logit for hit in ranking.documents}
                done[task.query_id] = [float(logits[place]) for place in range(len(task.rows))]
                out.write(json.dumps({"query": task.query_id, "scores": done[task.query_id]}) + "\n")
            out.flush()
    return done


def _kept(file: Path) -> Scores:
    """What is in the file; a line that a stop has cut is dropped from it."""
    if not file.exists():
        return {}
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        file.write_bytes(whole)
    return {row["query"]: row["scores"] for row in map(json.loads, whole.splitlines())}


def collected(exams: Sequence[Exam], scores: Callable[[Exam], Scores]) -> Values:
    """A ranker's nDCG@10 on every collection."""
    return {own.name: own.values(scores(own)) for own in exams}


def means(values: Values) -> dict[str, float]:
    """By collection."""
    return {name: sum(found.values()) / len(found) for name, found in values.items()}


def mean(values: Values) -> float:
    """Over collections."""
    own = means(values)
    return sum(own.values()) / len(own)


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def difference(one: Values, other: Values, seed: int = 0) -> Difference:
    """How much higher `one` is, over the collections' mean; for one collection give only that."""
    rng = np.random.default_rng(seed)
    drawn = np.zeros(RESAMPLES)
    total = 0.0
    for name, found in one.items():
        gaps = np.array([value - other[name][query] for query, value in found.items()])
        total += float(gaps.mean())
        drawn += gaps[rng.integers(0, len(gaps), (RESAMPLES, len(gaps)))].mean(axis=1)
    low, high = np.quantile(drawn / len(one), [0.025, 0.975])
    return Difference(total / len(one), float(low), float(high))


def only(values: Values, name: str) -> Values:
    """One collection's."""
    return {name: values[name]}
