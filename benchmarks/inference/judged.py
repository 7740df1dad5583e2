"""nDCG@10 of the contenders on judged queries: trecqa's judged candidates, BM25's top 100 of cranfield and squad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from benchmarks.inference.turns import Lineup, Measured, agreement
from benchmarks.inference.worker import Contender

SETS = ("trecqa", "cranfield", "squad")
DEPTH = 100
# More judged documents than any trecqa query has: the whole corpus is ordered, then only those are kept.
JUDGED_ONLY = "trecqa"


@dataclass(frozen=True, slots=True)
class Task:
    """A judged query with its candidates by id."""

    query_id: str
    query: str
    documents: dict[str, str]
    judged: Mapping[str, int]


class Judged(TypedDict):
    """One set: `rows` have nDCG@10 by contender, and Kendall's tau and overlap of the ten best with the first one's."""

    queries: int
    rows: dict[str, dict[str, float]]


def tasks(data: Path, name: str, limit: int | None) -> list[Task]:
    """Test queries with a relevant document, spread evenly over the set where `limit` asks for fewer."""
    from recipes.pocket.candidates import FirstPass
    from recipes.pocket.corpora import evenly_spaced, read_corpus, read_qrels, read_queries

    qrels = {query: judged for query, judged in read_qrels(data, name, "test").items() if max(judged.values()) > 0}
    names = evenly_spaced(sorted(qrels), limit)
    corpus, queries = read_corpus(data, name), read_queries(data, name)
    if name == JUDGED_ONLY:
        rows = corpus.index()
        return [Task(q, queries[q], {d: corpus.texts[rows[d]] for d in qrels[q]}, qrels[q]) for q in names]
    found, scores = FirstPass(corpus.texts).search([queries[query] for query in names], DEPTH)
    made = []
    for number, query in enumerate(names):
        best = [int(row) for row, score in zip(found[number], scores[number], strict=True) if score > 0]
        made.append(Task(query, queries[query], {corpus.ids[r]: corpus.texts[r] for r in best}, qrels[query]))
    return made


def ndcg(asked: Sequence[Task], run: dict[str, dict[str, float]]) -> float:
    """Mean over the queries, as trec_eval has it."""
    import ir_measures
    from ir_measures import nDCG

    qrels = {task.query_id: task.judged for task in asked}
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10])


def judge(lineup: Lineup, entered: Sequence[Contender], data: Path, limit: int | None) -> dict[str, Judged]:
    """-> for each set the contenders' figures; the first one is what the others are compared with.

    Raises:
        Unavailable: one of them cannot be had with the lineup's model.
    """
    for contender in entered:
        lineup.load(contender)
    found: dict[str, Judged] = {}
    for name in SETS:
        if not (data / name).is_dir():
            continue
        asked = tasks(data, name, limit)
        measured = [Measured(contender) for contender in entered]
        for one in measured:
            one.logits = [lineup.rank(one.contender, task.query, list(task.documents.values()))[1] for task in asked]
        found[name] = {
            "queries": len(asked),
            "rows": {one.contender.name: _row(asked, one, measured[0]) for one in measured},
        }
    return found


def _row(asked: Sequence[Task], found: Measured, exact: Measured) -> dict[str, float]:
    run = {
        task.query_id: dict(zip(task.documents, logits, strict=True))
        for task, logits in zip(asked, found.logits, strict=True)
    }
    several = [row for row, task in enumerate(asked) if len(task.documents) > 1]
    pair = [Measured(one.contender, logits=[one.logits[row] for row in several]) for one in (found, exact)]
    near = agreement(*pair)
    return {"ndcg": ndcg(asked, run), "tau": near["tau"], "top10": near["top10"]}
