"""First and second pass on the same candidates: what each of them lost, and what was left to gain.

The ceiling is the best that any second pass can reach with the candidates that it was given, measured with the ideal
of all judged documents, so that what the first pass did not find stays lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secondpass.calibration import Conditions
from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import DepthCurve, DepthPoint, Headroom, Ties
from secondpass.evaluation.measures import DEFAULT_MEASURES, Report, aggregate, evaluate, over_subtopics, parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Ranking, Run

if TYPE_CHECKING:
    from ir_measures import Measure

    from secondpass.ranking import Relevance


def headroom(qrels: Qrels, first: Run, second: Run, measures: Iterable[str] = DEFAULT_MEASURES) -> tuple[Headroom, ...]:
    """Where each measure's mean is lost: by the first pass, or by the second.

    The second pass is measured `extended`, so that both passes rank the same candidates. Documents that the first
    pass lacks stay where the second has them, and the ceiling is over the candidates of both. Arguments as in
    `depth_curve`, with several measures.

    Raises:
        InvalidInput: no query has a relevant document, or a measure is unknown.
        MissingExtra: ir_measures is not installed.
    """
    names = list(measures)
    whole = extended(first, second)
    runs = (first, whole, ceiling_run(qrels, first, second), ideal_run(qrels))
    return headroom_of(*(evaluate(qrels, run, names) for run in runs))


def headroom_of(first: Report, second: Report, ceiling: Report, ideal: Report) -> tuple[Headroom, ...]:
    """The same out of four reports on the same queries, for the measures that all of them have a mean of.

    Counts such as NumRet have no ceiling: of whatever order, the ideal of all judged documents may have fewer.
    """
    found = []
    ordered = [measure for measure in first.measures if measure not in first.sums]
    for measure in _by_grades(ordered, first, second, ceiling, ideal) if ordered else ():
        before = first.means[measure]
        after, best = second.means[measure], ceiling.means[measure]
        share = (after - before) / (best - before) if best > before else None
        found.append(Headroom(measure, before, after, ceiling=best, ideal=ideal.means[measure], share=share))
    return tuple(found)


def _by_grades(measures: Iterable[str], *reports: Report) -> list[str]:
    """Measures for which grades say which order is best: none over subtopics, and none that a report has no mean of."""
    return [
        name
        for name, measure in parsed(measures).items()
        if not over_subtopics(measure) and not any(math.isnan(report.means[name]) for report in reports)
    ]


def ceiling_run(qrels: Qrels, first: Run, second: Run | None = None) -> Run:
    """A perfect order of the first pass's candidates, with what the second pass adds to them if it is given.

    Documents of one grade keep their order; judged documents that are not relevant go before unjudged ones, which
    matters to `Judged@k` alone.
    """
    more: Mapping[str, Ranking] = {} if second is None else second
    found = {query: dict.fromkeys((*first.get(query, {}), *more.get(query, {}))) for query in (*first, *more)}
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


def _unscored(documents: Iterable[str]) -> list[tuple[str, None]]:
    return [(document, None) for document in documents]


# ---- A labelled dataset through a pipeline: what is asked for, and the runs of both passes that come back.
@dataclass(frozen=True, slots=True)
class DatasetRequest:
    """A pipeline (file or packaged name) and a BEIR folder.

    `depth` is the first pass's top_k instead of the pipeline's own. `top_k` is the second pass's: by default it returns
    all that it was given, so that deep measures are taken on the same candidates. `model` (several are a cascade),
    `instruction` and further parameters (`ranker`) take the place of the ranker's own. `output` is the TREC run of the
    second pass; answers are kept beside it as they come, and a broken run goes on with them. `indexed` says that the
    pipeline's stores hold the documents already, `index` takes the place of the index of stores that live in a server,
    and `add` allows to index into one that holds documents. With `tuning` the ranker gives the logits of all documents
    that any retriever found, which may have none of the names that are `taken`; `corpus` has the documents where the
    folder does not.
    """

    pipeline: str
    dataset: Path
    split: str = "test"
    limit: int | None = None
    depth: int | None = None
    top_k: int | None = None
    model: str | list[str] | None = None
    output: Path | None = None
    indexed: bool = False
    index: str | None = None
    add: bool = False
    instruction: str | None = None
    ranker: Mapping[str, Any] = field(default_factory=dict)
    tuning: bool = False
    corpus: Path | None = None
    taken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetRuns:
    """Both passes over the queries that have a relevant document.

    Attributes:
        qrels: the judgements; with a limit only those of the queries that were asked.
        first: the first pass, a run for each component that gives documents, in the order of the pipeline. The last
            one holds the candidates: what the second pass was given.
        second: the second pass.
        texts: text by query id, in the order in which they were asked.
        ms: milliseconds a query by the name of the run.
        cut: how many documents were too long for the model to be read wholly.
        not_reranked: how many queries kept the order of the first pass because the ranker failed.
        textless: how many documents were ranked without any text, over all queries.
        shortened: how many queries a server was asked with their beginning only, because they are very long.
        absent: how many relevant documents no store has, if they were indexed before.
        unasked: judged queries that have no text.
        measures: names of the measures that the pipeline's own evaluators state; empty if it has none.
        model, relevance: of the second pass, where a SecondPassRanker names them.
        documents: with `tuning`, those of all rankings, with the text that the ranker reads.
        marks, conditions: with `tuning`, the model's logits for sample pairs, and how it read all others.
        known: with `tuning`, how many of the second pass's pairs had their score in its cache of scores.
    """

    qrels: Qrels
    first: tuple[Run, ...]
    second: Run
    texts: Mapping[str, str]
    ms: Mapping[str, float]
    cut: int
    not_reranked: int
    measures: tuple[str, ...] = ()
    textless: int = 0
    shortened: int = 0
    absent: int = 0
    unasked: tuple[str, ...] = ()
    model: str | None = None
    relevance: Relevance | None = None
    documents: Mapping[str, CorpusDocument] = field(default_factory=dict)
    marks: tuple[float, ...] | None = None
    conditions: Conditions | None = None
    known: int = 0


# ---- Quality against depth: how many candidates are worth re-ranking, and how many a latency budget allows.
LADDER = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000)
MOST_STEPS = 11


def depth_curve(
    qrels: Qrels,
    first: Run,
    second: Run,
    measure: str,
    depths: Iterable[int] | None = None,
    ms_at: Mapping[int, float] | None = None,
) -> DepthCurve:
    """Measure the first pass with only its first d candidates in the second pass's order, the others after them.

    Candidates that the second pass did not return follow those that it did; documents that the first pass lacks, and
    queries that the second pass did not answer, change nothing. The milliseconds are a straight line, fitted by least
    squares, over the documents re-ranked for a query (d, or all its candidates if it has fewer, averaged).

    Args:
        qrels: the judgements.
        first: the candidates, as the first pass ranked them.
        second: the same candidates, re-ranked.
        measure: name of the measure.
        depths: the depths to try, in any order; by default 0, 1, 2, 3, 5, 10, 20, 30, 50, 75, 100, ... and the
            greatest number of candidates, twelve at most.
        ms_at: known milliseconds a query at two depths or more; 0 is the first pass alone.

    Raises:
        InvalidInput: a depth is negative, there is none, the measure is unknown, or the milliseconds are too few, no
            positive numbers or fall with depth.
        MissingExtra: ir_measures is not installed.
    """
    relevant = qrels.with_relevant
    sizes = np.array([len(first.get(query, {})) for query in relevant])
    chosen = ladder(int(sizes.max(initial=0))) if depths is None else sorted(set(depths))
    if not chosen or chosen[0] < 0:
        raise InvalidInput(f"depths has {chosen[0]}, which is negative" if chosen else "depths is empty")
    ((name, wanted),) = parsed([measure]).items()
    most = counted(wanted)
    judged, line = qrels.only(set(relevant)), _line(sizes, ms_at)
    candidates = {query: _places(first[query], second.get(query, {})) for query in relevant if query in first}
    points = []
    for depth in chosen:
        run = Run(second.name, {query: islice(_reordered(ranking, depth), most)
                                for query, ranking in candidates.items()})  # fmt: skip
        ms = None if line is None else line[0] + line[1] * _work(sizes, depth)
        points.append(DepthPoint(depth, evaluate(judged, run, [name]).means[name], ms))
    return DepthCurve(name, tuple(points))


def depth_for(curve: DepthCurve, budget_ms: float) -> DepthPoint:
    """The best point of a curve within a budget; of equal ones the shallowest.

    Raises:
        InvalidInput: the curve has no milliseconds, or none of its points is within the budget.
    """
    timed = [(point.ms, point) for point in curve.points if point.ms is not None]
    if not timed:
        raise InvalidInput("the milliseconds of this curve are not known: give depth_curve ms_at=...")
    within = [point for ms, point in timed if ms <= budget_ms]
    if not within:
        least = min(ms for ms, _ in timed)
        raise InvalidInput(f"budget_ms={budget_ms!r} is less than any depth takes: {least:.3g} ms at the least")
    return max(within, key=lambda point: (point.value, -point.depth))


def ladder(most: int) -> list[int]:
    """Depths to try for so many candidates, from 0 to all of them; twelve at most."""
    steps = [step for step in LADDER if step < most] + [most] * (most > 0)
    return [0, *steps[-MOST_STEPS:]]


def counted(measure: Measure) -> int | None:
    """How many documents a measure looks at: ten times less work for nDCG@10 of a hundred candidates."""
    cutoff = measure.params.get("cutoff")
    return cutoff if isinstance(cutoff, int) and not measure.params.get("judged_only") else None


def _places(candidates: Ranking, ranking: Ranking) -> list[tuple[int, str]]:
    """Candidates in the first pass's order, with their places in the second's; those that it lacks come last."""
    places = dict(zip(ranking, range(len(ranking)), strict=True))
    return [(places.get(document, len(places)), document) for document in candidates]


def _reordered(candidates: list[tuple[int, str]], depth: int) -> Iterator[tuple[str, None]]:
    for _, document in sorted(candidates[:depth], key=itemgetter(0)):
        yield document, None
    for _, document in candidates[depth:]:
        yield document, None


def _work(sizes: NDArray[np.int_], depth: int) -> float:
    """Documents that a query has re-ranked at a depth, on average."""
    return float(np.minimum(sizes, depth).mean())


def _line(sizes: NDArray[np.int_], ms_at: Mapping[int, float] | None) -> tuple[float, float] | None:
    """Milliseconds of the first pass and of each document."""
    if ms_at is None:
        return None
    if any(depth < 0 or not 0 <= ms < np.inf for depth, ms in ms_at.items()):
        raise InvalidInput(f"ms_at={dict(ms_at)!r} has a negative depth, or milliseconds that are no positive number")
    work = [_work(sizes, depth) for depth in ms_at]
    if len(set(work)) < 2:
        raise InvalidInput(f"ms_at={dict(ms_at)!r} has one amount of work; a line needs two")
    slope, start = np.polyfit(work, list(ms_at.values()), 1)
    if slope < 0:
        raise InvalidInput(f"ms_at={dict(ms_at)!r} falls with depth")
    return float(start), float(slope)


# ---- What equal scores leave open: the worst, the expected and the best value of a measure over the orders they allow.
#
# Tools break ties by document id, by input order or by luck, and call the result the system's (McSherry and Najork
# 2008, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied Scores").
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
    asked = list(parsed(measures))
    before = report if report is not None else evaluate(qrels, run, asked)
    wanted = parsed(names) if (names := _by_grades(asked, before)) else {}
    tied = {query: found for query in before.queries if (found := _tied(run.get(query, {}), qrels[query])) is not None}
    if not tied or not wanted:
        return tuple(Ties(name, mean, mean, mean, 0) for name in wanted for mean in [before.means[name]])

    judged = qrels.only(tied)

    def means(key: Callable[[_Tied], NDArray[Any]]) -> dict[str, float]:
        changed = Run(run.name, {query: found.ordered(key(found)) for query, found in tied.items()})
        values = evaluate(judged, changed, wanted, without_relevant="zero").values
        return {
            name: aggregate(each, {**before.values[name], **values[name]}.values()) for name, each in wanted.items()
        }

    worst, best = means(lambda found: found.worth), means(lambda found: -found.worth)
    generator = np.random.default_rng(seed)
    count = max(min(samples, FEWEST_SAMPLES), min(samples, MOST_DOCUMENTS // sum(len(t.worth) for t in tied.values())))
    drawn = [means(lambda found: generator.random(len(found.block))) for _ in range(count)]
    expected = {name: float(np.mean([sample[name] for sample in drawn])) for name in wanted}
    # A mean of equal numbers may differ from them in its last digit.
    return tuple(
        Ties(name, worst[name], min(max(expected[name], worst[name]), best[name]), best[name], len(tied))
        for name in wanted
    )


@dataclass(frozen=True, slots=True)
class _Tied:
    """One query's ranking: documents, the number of the block of equal scores that each is in, and their worth."""

    documents: tuple[str, ...]
    block: NDArray[np.intp]
    worth: NDArray[np.intp]

    def ordered(self, key: NDArray[Any]) -> list[tuple[str, None]]:
        """The ranking with the documents of each block by a key, the lowest first."""
        return [(self.documents[index], None) for index in np.lexsort((key, self.block)).tolist()]


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
