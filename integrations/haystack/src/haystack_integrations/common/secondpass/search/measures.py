"""How good each pass's ranking is: nDCG@10 and MRR@10 by query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from haystack_integrations.common.secondpass.search.answers import Answer, ids

from secondpass.evaluation.libraries import ir_measures
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run

CUTOFF = 10
NDCG = "nDCG@10"
MRR = "MRR@10"
# By the name that people read; ir_measures calls the reciprocal rank RR.
MEASURES = {NDCG: f"nDCG@{CUTOFF}", MRR: f"RR@{CUTOFF}"}


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one stage: by query and measure (0 for a query that it answered with nothing)."""

    stage: str
    values: dict[str, Mapping[str, float]]
    ms: float

    def mean(self, measure: str) -> float:
        """Mean over the judged queries, 0 if there is none."""
        values = self.values[measure].values()
        return fmean(values) if values else 0.0


class Judge:
    """Collects the first ten documents of every stage for the judged queries, and measures them at the end.

    A mean is taken over the queries that were asked and have at least one relevant document. nDCG has trec_eval's
    linear gain (Järvelin & Kekäläinen 2002); MRR@10 is the reciprocal rank of the first document of grade 1 or up.

    Raises:
        MissingExtra: ir_measures is not installed.
    """

    def __init__(self, qrels: Qrels) -> None:
        ir_measures()
        self._qrels = qrels.only(set(qrels.with_relevant))
        self._runs: dict[str, dict[str, list[str]]] = {}
        self._ms: dict[str, list[float]] = {}

    def add(self, answer: Answer, last: str) -> None:
        """Take an answer into account; `last` is the name of the last pass's component."""
        for stage, hits in (*answer.first.items(), (last, answer.second)):
            self._ms.setdefault(stage, []).append(answer.ms[stage])
            top = self._runs.setdefault(stage, {})
            if answer.query_id in self._qrels:
                top[answer.query_id] = ids(hits[:CUTOFF])

    def qualities(self) -> list[Quality]:
        """Figures of every stage in order, the last pass last."""
        return [Quality(stage, self._values(run), fmean(self._ms[stage])) for stage, run in self._runs.items()]

    def figures(self) -> list[dict[str, Any]]:
        """Means of every stage, for JSON."""
        return [
            {"stage": quality.stage, NDCG: quality.mean(NDCG), MRR: quality.mean(MRR), "ms_per_query": quality.ms}
            for quality in self.qualities()
        ]

    @property
    def judged(self) -> int:
        """How many of the queries asked count."""
        return max(map(len, self._runs.values()), default=0)

    def _values(self, run: Mapping[str, list[str]]) -> dict[str, Mapping[str, float]]:
        if not run:
            return {name: {} for name in MEASURES}
        rankings = {query: [(document, None) for document in documents] for query, documents in run.items()}
        values = evaluate(self._qrels.only(run), Run("", rankings), MEASURES.values()).values
        return {name: values[measure] for name, measure in MEASURES.items()}


def moved(before: Quality, after: Quality, measure: str = NDCG) -> tuple[int, int]:
    """How many queries the later stage helped, and how many it hurt."""
    pairs = [(value, after.values[measure][query]) for query, value in before.values[measure].items()]
    return sum(late > early for early, late in pairs), sum(late < early for early, late in pairs)
