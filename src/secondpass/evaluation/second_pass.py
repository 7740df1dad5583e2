"""First and second pass on the same candidates: what each of them lost, and what was left to gain.

The ceiling is the best that any second pass can reach with the candidates that it was given, measured with the ideal
of all judged documents, so that what the first pass did not find stays lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from secondpass.evaluation.findings import Headroom
from secondpass.evaluation.measures import DEFAULT_MEASURES, evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.reports import Report
from secondpass.evaluation.runs import Ranking, Run


def headroom(qrels: Qrels, first: Run, second: Run, measures: Iterable[str] = DEFAULT_MEASURES) -> tuple[Headroom, ...]:
    """Where each measure's mean is lost: by the first pass, or by the second.

    The second pass is measured `extended`, so that both passes rank the same candidates. Documents that the first
    pass lacks stay where the second has them, and the ceiling is over the candidates of both.

    Args:
        qrels: the judgements.
        first: the candidates, as the first pass ranked them.
        second: the same candidates or the best of them, re-ranked.
        measures: names of measures.

    Raises:
        InvalidInput: no query has a relevant document, or a measure is unknown.
        MissingExtra: ir_measures is not installed.
    """
    names = list(measures)
    whole = extended(first, second)
    runs = (first, whole, ceiling_run(qrels, first, second), ideal_run(qrels))
    return headroom_of(*(evaluate(qrels, run, names) for run in runs))


def headroom_of(first: Report, second: Report, ceiling: Report, ideal: Report) -> tuple[Headroom, ...]:
    """The same out of four reports on the same queries."""
    return tuple(
        Headroom(
            measure=measure,
            first=before,
            second=second.means[measure],
            ceiling=ceiling.means[measure],
            ideal=ideal.means[measure],
            share=_share(before, second.means[measure], ceiling.means[measure]),
        )
        for measure, before in first.means.items()
    )


def ceiling_run(qrels: Qrels, first: Run, second: Run | None = None) -> Run:
    """A perfect order of the first pass's candidates, with what the second pass adds to them if it is given.

    Documents of one grade keep their order; judged documents that are not relevant go before unjudged ones, which
    matters to `Judged@k` alone.
    """
    found = {query: _joined(first.get(query, {}), second.get(query, {}) if second else {})
             for query in (*first, *(query for query in second or () if query not in first))}  # fmt: skip
    return Run("ceiling", {query: _unscored(best_first(qrels.get(query, {}), documents))
                           for query, documents in found.items()})  # fmt: skip


def ideal_run(qrels: Qrels) -> Run:
    """All judged documents in a perfect order: what a first pass that finds everything could become."""
    return Run("ideal", {query: _unscored(best_first(grades, grades)) for query, grades in qrels.items()})


def extended(first: Run, second: Run) -> Run:
    """The second pass's rankings, each followed by the candidates that it lacks in the first pass's order, unscored.

    A ranker that returns the best ten of a hundred says nothing about the order of the other ninety, but they are
    candidates all the same. A query with no ranking in `second` stays without: no answer is no answer.
    """
    if all(first.get(query, {}).keys() <= ranking.keys() for query, ranking in second.items() if ranking):
        return second
    return Run(
        second.name,
        {
            query: [
                *ranking.items(),
                *((document, None) for document in first.get(query, {}) if ranking and document not in ranking),
            ]
            for query, ranking in second.items()
        },
    )


def is_second_pass(first: Run, second: Run) -> bool:
    """Whether `second` re-ranks candidates of `first`: in the queries that both answer, most of its documents are."""
    ranked = sum(len(ranking) for query, ranking in second.items() if first.get(query))
    return ranked > 2 * outside(first, second)


def outside(first: Run, second: Run) -> int:
    """How many documents of `second` the first pass does not have, in the queries that both answer."""
    answered = (query for query in second if first.get(query))
    return sum(len(second[query].keys() - first[query].keys()) for query in answered)


def best_first(grades: Mapping[str, int], documents: Iterable[str]) -> list[str]:
    """Documents by worth, descending; equal ones keep their order."""
    return sorted(documents, key=lambda document: worth(grades, document), reverse=True)


def worth(grades: Mapping[str, int], document: str) -> int:
    """A number that orders documents as a perfect ranking does: by grade, then judged before unjudged.

    All grades below 1 gain nothing, so they are worth the same.
    """
    grade = grades.get(document)
    return 0 if grade is None else 2 * max(grade, 0) + 1


def _share(first: float, second: float, ceiling: float) -> float | None:
    return (second - first) / (ceiling - first) if ceiling > first else None


def _joined(ranking: Ranking, more: Ranking) -> list[str]:
    return [*ranking, *(document for document in more if document not in ranking)]


def _unscored(documents: Iterable[str]) -> list[tuple[str, None]]:
    return [(document, None) for document in documents]
