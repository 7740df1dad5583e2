"""The Haystack component that measures rankings. YAML names this module: its name is public API."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from haystack import Document, component, logging
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import listed
from haystack_integrations.common.secondpass.model_lifecycle import SerializedComponent, in_thread
from haystack_integrations.components.evaluators.secondpass.comparison_field import Key, comparison_field, refuse_mixed

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import DEFAULT_MEASURES, Report, evaluate, parsed
from secondpass.evaluation.qrels import Qrels, read_qrels
from secondpass.evaluation.runs import Run
from secondpass.text import choice

__all__ = ["SecondPassEvaluator"]

logger = logging.getLogger(__name__)

WITHOUT_RELEVANT = ("leave out", "zero")
Judgements = Sequence[Mapping[str, int] | Mapping[Key, int] | None]
Rankings = Sequence[Sequence[Key | None]]
# A judged document that no ranking holds: a query with an empty list of ground truth was judged, and has none.
NONE_RELEVANT: Mapping[str, int] = {"none": 0}
OUTPUTS = {
    "results": dict[str, dict[str, Any]],
    "score": float,
    "individual_scores": list[float],
    "query_ids": list[str],
    "counts": dict[str, int],
}


@component
class SecondPassEvaluator(SerializedComponent):
    """Measures how good rankings are, with graded relevance and cut-offs.

    Takes the inputs of Haystack's document evaluators and computes any list of measures, by the names that ir_measures
    gives them: "nDCG@10", "RR@10", "AP", "P(rel=2)@5", "R@100", "ERR@20", "Judged@10", "Success@1" and so on. The
    order of a list is the ranking; the scores of retrieved documents are not looked at. It connects to a ranker of a
    pipeline that answers one query: Haystack then puts the one list into a list.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.evaluators.secondpass import SecondPassEvaluator

    evaluator = SecondPassEvaluator(["nDCG@10", "RR@10"])
    result = evaluator.run(
        ground_truth_documents=[[Document(id="a", score=2), Document(id="b", score=1)]],
        retrieved_documents=[[Document(id="b"), Document(id="c"), Document(id="a")]],
    )
    print(result["results"]["nDCG@10"]["score"], result["results"]["nDCG@10"]["individual_scores"])
    ```
    """

    def __init__(
        self,
        measures: list[str] | None = None,
        *,
        document_comparison_field: str = "id",
        qrels: str | Path | None = None,
        without_relevant: Literal["leave out", "zero"] = "leave out",
        ignore_identical_ids: bool = False,
    ) -> None:
        """Check and keep the parameters; `qrels` is read by `warm_up` or the first `run`.

        :param measures: Names of measures. If `None`, nDCG@10, RR@10, AP and R@100.
        :param document_comparison_field: What makes a retrieved document one of the ground truth: "id", "content" or
            "meta." and a name with dots, such as "meta.parent_id" for chunks whose parents are judged. Of several
            retrieved documents with one value only the first counts; the others are as if they were not there.
        :param qrels: A file of judgements (BEIR, TREC or JSON Lines, gzip accepted) to use instead of ground truth
            documents; `run` then needs `query_ids`.
        :param without_relevant: "leave out" queries that have no relevant document: their individual score is NaN, and
            the mean is that of the others. "zero" lets them count, as Haystack's own evaluators do. A query that
            `qrels` does not have is always left out.
        :param ignore_identical_ids: If `True`, retrieved documents whose id is the query's (or what they are compared
            by: chunks of it) are as if they were not there, as in BEIR's evaluation (ArguAna, Quora); `run` then needs
            `query_ids`.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name, or a measure is unknown.
        :raises ImportError:
            If ir_measures is not installed.
        """
        named = DEFAULT_MEASURES if measures is None else parameters.field_names("measures", measures)
        self.measures = list(parsed(named))
        self._field = comparison_field("document_comparison_field", document_comparison_field)
        self.document_comparison_field = self._field.name
        self.qrels = parameters.optional_path("qrels", qrels)
        self.without_relevant = choice(without_relevant, WITHOUT_RELEVANT, "without_relevant")
        self.ignore_identical_ids = parameters.flag("ignore_identical_ids", ignore_identical_ids)
        self._judgements: Qrels | None = None

    def warm_up(self) -> None:
        """Read `qrels`, if there is such a file to read."""
        if self.qrels is not None and self._judgements is None:
            self._judgements = read_qrels(Path(self.qrels))
            if self._judgements.origin:
                logger.warning("{note}.", note=self._judgements.origin_note)

    @component.output_types(**OUTPUTS)
    def run(
        self,
        *,
        retrieved_documents: list[list[Document]],
        ground_truth_documents: list[list[Document]] | None = None,
        query_ids: list[str] | None = None,
    ) -> dict[str, Any]:
        """Measure one ranking a query.

        :param retrieved_documents: For each query the documents in the order of the ranking.
        :param ground_truth_documents: For each query the judged documents; `score` is the grade (1 and up is relevant),
            none at all means 1 for each. Not to be given with `qrels`.
        :param query_ids: For each query its id. Needed with `qrels` and `ignore_identical_ids`, else only passed on.
        :returns:
            A dictionary with the following keys:
            - `results`: By measure its `score` (the mean) and `individual_scores` (a value for each query, in order):
              what `EvaluationRunResult(results=...)` takes.
            - `score` and `individual_scores`: Those of the first measure.
            - `query_ids`: The ids that were given, else the positions as text.
            - `counts`: How many queries were `measured`, how many are `unjudged` or `without_relevant` documents,
              for how many of those measured there was `nothing_retrieved`, and how many retrieved and how many
              judged documents have nothing to compare by (`documents_without_key`, `judged_without_key`), and how many
              retrieved documents were left out for their `identical_ids`.

        :raises ValueError:
            If inputs are missing, have a wrong type or unequal lengths, or if no query counts.
        """
        found = parameters.by_query("retrieved_documents", retrieved_documents)
        placed = [(f"retrieved_documents[{position}]", documents) for position, documents in enumerate(found)]
        ids = parameters.query_ids(query_ids, len(placed), "retrieved_documents")
        lists = [listed(documents, place) for place, documents in placed]
        kept = self._without_query_ids(lists, ids) if self.ignore_identical_ids else lists
        rankings = [self._field.ranking(documents, place) for documents, (place, _) in zip(kept, placed, strict=True)]
        judgements, unkeyed = self._judged(ground_truth_documents, ids, len(rankings))
        judged = (key for grades in judgements for key in grades or ())
        refuse_mixed(judged, (key for keys in rankings for key in keys), self._field)
        if unkeyed and not any(judgements):
            raise InvalidInput(
                f"none of the {unkeyed} judged documents has {self.document_comparison_field} to compare by"
            )
        made = self._measured(judgements, rankings)
        counts, field = made["counts"], self.document_comparison_field
        counts["judged_without_key"] = unkeyed
        counts["identical_ids"] = sum(map(len, lists)) - sum(map(len, kept))
        for count, what in (
            (counts["documents_without_key"], f"retrieved documents have no {field}: they count as not relevant"),
            (counts["judged_without_key"], f"judged documents have no {field}: they are left out"),
        ):
            if count:
                logger.warning("{count} {what}.", count=count, what=what)
        return {**made, "query_ids": ids or [str(position) for position in range(len(rankings))]}

    run_async = in_thread(run)

    def _judged(self, ground_truth: object, ids: list[str] | None, queries: int) -> tuple[Judgements, int]:
        """Judgements by query, and how many judged documents have nothing to compare by."""
        if self.qrels is not None:
            return self._by_id(ground_truth, ids), 0
        if ground_truth is None:
            raise InvalidInput("ground_truth_documents is missing, and the component was not given qrels")
        truths = parameters.by_query("ground_truth_documents", ground_truth, queries, "retrieved_documents")
        placed = ((f"ground_truth_documents[{position}]", documents) for position, documents in enumerate(truths))
        lists = [(place, listed(documents, place)) for place, documents in placed]
        grades = [self._field.grades(documents, place) for place, documents in lists]
        return grades, sum(self._field.key(document, "") is None for _, truth in lists for document in truth)

    def _without_query_ids(self, lists: list[list[Document]], ids: list[str] | None) -> list[list[Document]]:
        if ids is None:
            raise InvalidInput("query_ids is missing: ignore_identical_ids=True compares documents' ids with them")
        pairs = zip(lists, ids, strict=True)
        key = self._field.key
        return [[each for each in documents if query not in (each.id, key(each, ""))] for documents, query in pairs]

    def _by_id(self, ground_truth: object, ids: list[str] | None) -> Judgements:
        if ground_truth is not None:
            raise InvalidInput(f"ground_truth_documents and qrels={self.qrels!r} are two sources of judgements")
        if ids is None:
            raise InvalidInput("query_ids is missing: judgements of qrels are found by it")
        self.warm_up()
        judgements = self._judgements or Qrels({})
        return [judgements.get(query) for query in ids]

    def _measured(self, judgements: Judgements, rankings: Rankings) -> dict[str, Any]:
        """Measure query by query, except those whose judgements are None: nothing is known of them."""
        report = self._report(judgements, rankings)
        queries = [str(position) for position in range(len(rankings))]
        for name, why in report.undefined.items():
            logger.warning("{measure} {why}.", measure=name, why=why)
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
