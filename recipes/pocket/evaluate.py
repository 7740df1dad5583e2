"""nDCG@10 of BM25's top 100 before and after the model, over every test query; resumable, query by query."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from recipes.pocket.corpora import TEST_SETS, read_corpus, read_qrels, read_queries
from recipes.pocket.groups import DEPTH, FirstPass
from secondpass import CrossEncoder
from secondpass.evaluation.measures import evaluate as measure
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.forwards.precision import Precision

log = logging.getLogger(__name__)

MEASURES = ("nDCG@10", "RR@10")
# Queries of one call: enough pairs to sort by length, few enough to lose little when stopped.
CHUNK = 20


@dataclass(frozen=True)
class Task:
    """One test query with its candidates, best first by BM25."""

    query_id: str
    query: str
    document_ids: list[str]
    documents: list[str]


@dataclass(frozen=True)
class Figures:
    """One test set: both measures of the first and the second pass."""

    name: str
    queries: int
    first: dict[str, float]
    second: dict[str, float]


def tasks(data: Path, name: str) -> tuple[list[Task], Qrels]:
    """Test queries with at least one relevant document; for trecqa the candidates are the judged documents."""
    corpus = read_corpus(data, name)
    rows = corpus.index()
    qrels = read_qrels(data, name, "test")
    queries = read_queries(data, name)
    names = sorted(qrels.with_relevant)
    first = FirstPass(corpus.texts)
    depth = len(corpus.texts) if name == "trecqa" else DEPTH
    made = []
    for start in range(0, len(names), 500):
        part = names[start : start + 500]
        found, scores = first.search([queries[n] for n in part], depth)
        for number, query_id in enumerate(part):
            allowed = {rows[d] for d in qrels[query_id]} if name == "trecqa" else None
            keep = [
                int(row)
                for row, score in zip(found[number], scores[number], strict=True)
                if (score > 0 if allowed is None else row in allowed)
            ]
            ids, texts = [corpus.ids[row] for row in keep], [corpus.texts[row] for row in keep]
            made.append(Task(query_id, queries[query_id], ids, texts))
    return made, qrels


def runs_folder(work: Path, model: Path, fast: bool) -> Path:
    """Where runs of exactly these weights and this tokenizer are kept: a changed model does not continue old ones."""
    digest = hashlib.sha256()
    for path in sorted([*model.glob("*.safetensors"), *model.glob("tokenizer.json")]):
        digest.update(path.read_bytes())
    return work / "runs" / f"{model.name}-{digest.hexdigest()[:12]}-{'bf16' if fast else 'fp32'}"


def _done(path: Path) -> dict[str, dict[str, float]]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8") as lines:
        return {row["query"]: row["scores"] for row in map(json.loads, lines)}


class Scorer:
    """A model that scores tasks, in several processes of one thread each: twice as fast as two threads in one."""

    def __init__(self, model: str, fast: bool, workers: int) -> None:
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (model, fast))

    def __call__(self, parts: list[list[Task]]) -> Iterator[list[dict[str, float]]]:
        """Logits by document id of each task, part after part."""
        return self._pool.map(_scores, parts)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


_LOADED: list[CrossEncoder] = []


def _start(model: str, fast: bool) -> None:
    torch.set_num_threads(1)
    precision: Precision = "bf16" if fast else "fp32"
    _LOADED.append(CrossEncoder(model, device="cpu", max_batch_tokens=4096, precision=precision))


def _scores(part: list[Task]) -> list[dict[str, float]]:
    rankings = _LOADED[0].rank_many(
        [task.query for task in part], [task.documents for task in part], batch_size=64, show_progress_bar=False
    )
    return [
        {task.document_ids[ranked.index]: ranked.logit for ranked in ranking.documents}
        for task, ranking in zip(part, rankings, strict=True)
    ]


def rescored(scorer: Scorer, todo: list[Task], path: Path) -> dict[str, dict[str, float]]:
    """Run by query id; each chunk is appended to `path` as soon as it is scored."""
    run = _done(path)
    left = [task for task in todo if task.query_id not in run]
    parts = [left[start : start + CHUNK] for start in range(0, len(left), CHUNK)]
    with path.open("a", encoding="utf-8") as out:
        for number, (part, scores) in enumerate(zip(parts, scorer(parts), strict=True)):
            for task, found in zip(part, scores, strict=True):
                run[task.query_id] = found
                out.write(json.dumps({"query": task.query_id, "scores": found}) + "\n")
            out.flush()
            if number % 25 == 0:
                log.info("%s: %d of %d queries", path.stem, number * CHUNK + len(part), len(left))
    return run


def measured(qrels: Qrels, run: Run) -> dict[str, float]:
    return dict(measure(qrels, run, MEASURES).means)


def first_pass_run(todo: list[Task]) -> Run:
    return Run("BM25", {task.query_id: [(document, None) for document in task.document_ids] for task in todo})


def evaluate(
    scorer: Scorer,
    data: Path,
    folder: Path,
    names: tuple[str, ...] = TEST_SETS,
    limit: int | None = None,
) -> Iterator[Figures]:
    """One row per test set: queries, and both measures of both passes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        todo, qrels = tasks(data, name)
        if limit is not None:
            todo = todo[:: max(1, len(todo) // limit)][:limit]
        qrels = qrels.only({task.query_id for task in todo})
        scores = rescored(scorer, todo, folder / f"{name}.jsonl")
        second = Run(folder.name, {task.query_id: scores[task.query_id].items() for task in todo})
        yield Figures(name, len(todo), measured(qrels, first_pass_run(todo)), measured(qrels, second))
