"""One call of the evaluator: judgements and rankings by position to ir_measures, and its values back in that order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from haystack_integrations.components.evaluators.secondpass.comparison_field import Key

from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.reports import Report
from secondpass.evaluation.runs import Run

Judgements = Sequence[Mapping[str, int] | Mapping[Key, int] | None]
Rankings = Sequence[Sequence[Key | None]]
# A judged document that no ranking holds: a query with an empty list of ground truth was judged, and has none.
NONE_RELEVANT: Mapping[str, int] = {"none": 0}


@dataclass(frozen=True, slots=True)
class Measuring:
    """Which measures, and what becomes of queries without a relevant document."""

    measures: Sequence[str]
    without_relevant: str

    def outputs(self, judgements: Judgements, rankings: Rankings) -> dict[str, Any]:
        """Measure query by query, except those whose judgements are None: nothing is known of them.

        Raises:
            InvalidInput: no query counts.
        """
        report = self._report(judgements, rankings)
        queries = [str(position) for position in range(len(rankings))]
        results = {
            name: {
                "score": report.means[name],
                "individual_scores": [report.values[name].get(query, math.nan) for query in queries],
            }
            for name in report.measures
        }
        counts = {
            "measured": report.coverage.measured,
            "unjudged": len(report.coverage.unjudged),
            "without_relevant": len(report.coverage.without_relevant),
            "nothing_retrieved": len(report.coverage.unanswered),
            "documents_without_key": sum(key is None for ranking in rankings for key in ranking),
        }
        return {"results": results, **results[report.measures[0]], "counts": counts}

    def _report(self, judgements: Judgements, rankings: Rankings) -> Report:
        # Providers of ir_measures want ids without white space, and a content is full of it; so keys are numbered.
        numbers: dict[Key, str] = {}
        qrels: dict[str, Mapping[str, int]] = {}
        runs: dict[str, list[tuple[str, None]]] = {}
        for position, (grades, ranking) in enumerate(zip(judgements, rankings, strict=True)):
            if grades is not None:
                numbered = {_number(numbers, key): grade for key, grade in grades.items()}
                qrels[str(position)] = numbered or NONE_RELEVANT
            runs[str(position)] = [
                (f"unknown-{place}" if key is None else _number(numbers, key), None)
                for place, key in enumerate(ranking)
            ]
        return evaluate(Qrels(qrels), Run("", runs), self.measures, without_relevant=self.without_relevant)


def _number(numbers: dict[Key, str], key: Key) -> str:
    return numbers.setdefault(key, str(len(numbers)))
