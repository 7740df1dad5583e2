"""What equal scores leave open: the worst, the expected and the best value of a measure over the orders they allow.

Tools break ties by document id, by input order or by luck, and call the result the system's (McSherry and Najork 2008,
"Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import Ties
from secondpass.evaluation.measures import DEFAULT_MEASURES, evaluate, parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.reports import Report
from secondpass.evaluation.runs import Ranking, Run
from secondpass.evaluation.second_pass import worth

FEWEST_SAMPLES = 4
MOST_DOCUMENTS = 2_000_000


def over_ties(
    qrels: Qrels,
    run: Run,
    measures: Iterable[str] = DEFAULT_MEASURES,
    samples: int = 64,
    seed: int = 0,
    *,
    report: Report | None = None,
) -> tuple[Ties, ...]:
    """Each measure's mean over the orders that equal scores allow.

    Scores are equal if they are as float32, as trec_eval and most models hold them. Neighbours without a score are
    not tied: their order is the run's. The expected value is the mean over random orders; its error falls with
    queries times samples, so that beyond 2 million documents fewer samples are drawn, but never less than four.

    Args:
        qrels: the judgements.
        run: the rankings with their scores.
        measures: names of measures.
        samples: random orders to draw.
        seed: same seed, same orders.
        report: what `evaluate` gives for this run and these measures, if it was asked before.

    Raises:
        InvalidInput: samples is less than 1, no query has a relevant document, or a measure is unknown.
        MissingExtra: ir_measures is not installed.
    """
    if samples < 1:
        raise InvalidInput(f"samples={samples!r} is less than 1")
    names = list(parsed(measures))
    before = report if report is not None else evaluate(qrels, run, names)
    tied = {query: found for query in before.queries if (found := _tied(run.get(query, {}), qrels[query])) is not None}
    if not tied:
        return tuple(Ties(name, mean, mean, mean, 0) for name in names for mean in [before.means[name]])

    judged = qrels.only(tied)

    def means(order: Callable[[_Tied], NDArray[np.intp]]) -> dict[str, float]:
        changed = Run(run.name, {query: found.ranking(order(found)) for query, found in tied.items()})
        values = evaluate(judged, changed, names, without_relevant="zero").values
        return {name: _aggregate(name, {**before.values[name], **values[name]}) for name in names}

    worst, best = means(_Tied.worst), means(_Tied.best)
    generator = np.random.default_rng(seed)
    count = max(min(samples, FEWEST_SAMPLES), min(samples, MOST_DOCUMENTS // sum(len(t.worth) for t in tied.values())))
    drawn = [means(lambda found: found.shuffled(generator)) for _ in range(count)]
    expected = {name: float(np.mean([sample[name] for sample in drawn])) for name in names}
    # A mean of equal numbers may differ from them in its last digit.
    return tuple(
        Ties(name, worst[name], min(max(expected[name], worst[name]), best[name]), best[name], len(tied))
        for name in names
    )


@dataclass(frozen=True, slots=True)
class _Tied:
    """One query's ranking: documents, the number of the block of equal scores that each is in, and their worth."""

    documents: tuple[str, ...]
    block: NDArray[np.intp]
    worth: NDArray[np.intp]

    def best(self) -> NDArray[np.intp]:
        return np.lexsort((-self.worth, self.block))

    def worst(self) -> NDArray[np.intp]:
        return np.lexsort((self.worth, self.block))

    def shuffled(self, generator: np.random.Generator) -> NDArray[np.intp]:
        return np.lexsort((generator.random(len(self.block)), self.block))

    def ranking(self, order: NDArray[np.intp]) -> list[tuple[str, None]]:
        return [(self.documents[index], None) for index in order.tolist()]


def _tied(ranking: Ranking, grades: Mapping[str, int]) -> _Tied | None:
    """The ranking with its blocks, or None where no two documents of different worth have equal scores."""
    with np.errstate(over="ignore"):
        scores = np.array([np.nan if score is None else score for score in ranking.values()]).astype(np.float32)
    equal = scores[1:] == scores[:-1]
    if not equal.any():
        return None
    values = np.array([worth(grades, document) for document in ranking], np.intp)
    if (values[1:][equal] == values[:-1][equal]).all():
        return None
    return _Tied(tuple(ranking), np.concatenate([[0], np.cumsum(~equal)]), values)


def _aggregate(name: str, values: Mapping[str, float]) -> float:
    aggregator = parsed([name])[name].aggregator()
    for value in values.values():
        aggregator.add(value)
    return float(aggregator.result())
