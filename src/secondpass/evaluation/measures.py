"""Measures of a run against judgements, computed by ir_measures and named as it names them.

`nDCG@10`, `RR@10`, `AP`, `P(rel=2)@5`, `R@100`, `ERR@20`, `Judged@10`, `Success@1`, ...: whatever ir_measures parses
and has a provider for (MacAvaney et al. 2022, "Streamlining Evaluation with ir-measures"). A run reaches the
providers with scores that fall strictly by rank, so that all of them measure the order that the run has: left to
themselves one breaks ties by document id and another by what came first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass.evaluation.measure_names import ir_measures, over_subtopics, parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.lazy import optional

if TYPE_CHECKING:
    from ir_measures import Measure


# Libraries of the eval extra, imported when they are first called for: they take seconds.
scikit_metrics = partial(optional, "sklearn.metrics", "scikit-learn", "eval")
scipy_stats = partial(optional, "scipy.stats", "scipy", "eval")


@dataclass(frozen=True, slots=True)
class Coverage:
    """Queries by what they could contribute.

    `measured` queries make the means. Of them, `unanswered` are not in the run: they count as an empty ranking.
    `without_relevant` have judgements but no relevant document: no order of theirs is better than another, so they
    are left out unless asked for. `unjudged` queries of the run have no judgement and are left out.
    """

    measured: int
    unanswered: tuple[str, ...] = ()
    without_relevant: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One run's figures.

    Attributes:
        system: the run's name.
        values: by measure (named as ir_measures names it) the value of each query, in the judgements' order; NaN where
            the measure has none.
        means: by measure its aggregate: the mean over the queries with a value, for counts such as NumRet the sum.
        coverage: which queries count.
        sums: the measures whose aggregate is a sum.
        undefined: by measure why it has no value for some queries, or for none.
    """

    system: str
    values: Mapping[str, Mapping[str, float]]
    means: Mapping[str, float]
    coverage: Coverage
    sums: tuple[str, ...] = ()
    undefined: Mapping[str, str] = field(default_factory=dict)

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, in the order in which they were asked for."""
        return tuple(self.values)

    @property
    def queries(self) -> tuple[str, ...]:
        """Ids of the queries that count."""
        return tuple(next(iter(self.values.values()), {}))


DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")
GDEVAL_HIGHEST = 4


def evaluate(
    qrels: Qrels, run: Run, measures: Iterable[str] = DEFAULT_MEASURES, *, without_relevant: str = "leave out"
) -> Report:
    """Measure a run.

    Args:
        qrels: the judgements. They decide which queries count, so that every run is measured on the same ones.
        run: the rankings. A judged query that it lacks counts as an empty ranking.
        measures: names of measures.
        without_relevant: "leave out" the judged queries that have no relevant document, or "zero": let them
            count (nearly every measure is 0 there whatever the system does).

    Raises:
        InvalidInput: no query counts (none is judged, or none has a relevant document), a measure is unknown, or none
            of them can be computed for these judgements.
        MissingExtra: ir_measures is not installed.
    """
    if without_relevant not in ("leave out", "zero"):
        raise InvalidInput(f"without_relevant={without_relevant!r} is neither 'leave out' nor 'zero'")
    wanted = parsed(measures)
    relevant = qrels.with_relevant
    queries = relevant if without_relevant == "leave out" else list(qrels)
    if not queries:
        raise InvalidInput("no judged queries: none has a relevant document")
    empty = sorted(set(qrels) - set(relevant))
    coverage = Coverage(
        measured=len(queries),
        unanswered=tuple(query for query in queries if not run.get(query)),
        without_relevant=tuple(empty),
        unjudged=tuple(query for query in run if query not in qrels),
    )
    lists = _Lists(qrels, run, queries)
    values, undefined = lists.values(wanted)
    means = {name: aggregate(measure, values[name].values()) for name, measure in wanted.items()}
    sums = tuple(name for name, measure in wanted.items() if aggregate(measure, [1.0, 1.0]) == 2.0)
    return Report(run.name, values, means, coverage, sums, undefined)


class _Lists:
    """Judgements and rankings of the queries that count, by their numbers.

    One of the providers (gdeval) takes numbers only for ids of queries, and has columns for those of documents.
    """

    def __init__(self, qrels: Qrels, run: Run, queries: Sequence[str]) -> None:
        self._qrels, self._queries = qrels, queries
        self._numbers = {str(number): query for number, query in enumerate(queries, start=1)}
        self._judged = {number: dict(qrels[query]) for number, query in self._numbers.items()}
        self._ranked = {number: falling(run[query]) for number, query in self._numbers.items() if run.get(query)}

    def values(self, wanted: Mapping[str, Measure]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
        """By measure the value of each query, NaN where it has none, and why it has none.

        Raises:
            InvalidInput: none of the measures can be computed.
        """
        values = {name: dict.fromkeys(self._queries, math.nan) for name in wanted}
        failed: dict[str, str] = {}
        groups: dict[str, dict[str, Measure]] = {}
        for name, measure in wanted.items():
            groups.setdefault(_company(name, measure), {})[name] = measure
        for group in groups.values():
            try:
                values |= self._computed(group)
            # Providers have limits of their own and fail in their own ways; one must not take the others with it.
            except Exception:
                for name, measure in group.items():
                    try:
                        values |= self._computed({name: measure})
                    except Exception as error:
                        reason = str(error) if isinstance(error, InvalidInput) else f"ir_measures fails with {error!r}"
                        failed[name] = f"cannot be computed: {reason}"
        if len(failed) == len(wanted):
            raise InvalidInput("; ".join(f"measure {name!r} {why}" for name, why in failed.items()))
        return values, failed | _without_value({name: values[name] for name in wanted if name not in failed})

    def _computed(self, group: Mapping[str, Measure]) -> dict[str, dict[str, float]]:
        names = {measure: name for name, measure in group.items()}
        measure = next(iter(names))
        judged: Any = self._judged
        ranked: Mapping[str, Mapping[str, float]] = self._ranked
        fill = float(measure.DEFAULT)
        if measure.NAME in ("NumQ", "NumRel"):
            # They are about the judgements; providers ask for a ranking all the same.
            ranked = {number: {document: 1.0 for document in grades} for number, grades in judged.items()}
        elif measure.NAME == "Accuracy":
            # The share of pairs in order is of nothing where all documents are alike, and its provider divides by it.
            ranked, fill = {key: found for key, found in ranked.items() if self._mixed(key, measure)}, math.nan
        elif over_subtopics(measure):
            judged = self._by_subtopic()
        elif _of_gdeval(measure):
            judged, ranked = self._for_gdeval()
        # Every query has its place from the start, with what ir_measures gives for an empty ranking.
        values = {name: dict.fromkeys(self._queries, fill) for name in group}
        for found in ir_measures().iter_calc(list(group.values()), judged, ranked):
            values[names[found.measure]][self._numbers[found.query_id]] = float(found.value)
        return values

    def _mixed(self, number: str, measure: Measure) -> bool:
        grades, lowest = self._judged[number], measure["rel"]
        counted = islice(self._ranked[number], measure.params.get("cutoff"))
        return len({grades.get(document, 0) >= lowest for document in counted}) == 2

    def _by_subtopic(self) -> list[Any]:
        several = self._qrels.subtopics
        if not several.keys() & set(self._queries):
            raise InvalidInput("no query is judged by several subtopics (the second column of TREC's judgements)")
        qrel = ir_measures().Qrel
        return [
            qrel(number, document, grade, subtopic)
            for number, query in self._numbers.items()
            for document, flat in self._judged[number].items()
            for subtopic, grade in several.get(query, {}).get(document, {"0": flat}).items()
        ]

    def _for_gdeval(self) -> tuple[Any, Any]:
        ids: dict[str, str] = {}
        for number, grades in self._judged.items():
            for document, grade in grades.items():
                if grade > GDEVAL_HIGHEST:
                    where = f"{document!r} of query {self._numbers[number]!r} has {grade}"
                    raise InvalidInput(f"its grades are at most {GDEVAL_HIGHEST}, and document {where}")

        def numbered(lists: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
            return {
                number: {ids.setdefault(document, str(len(ids))): value for document, value in found.items()}
                for number, found in lists.items()
            }

        return numbered(self._judged), numbered(self._ranked)


def _company(name: str, measure: Measure) -> str:
    """Measures that may be computed in one call have the same; ir_measures 0.4 mixes the others up.

    NumRet takes over `judged_only` of what is asked with it, Accuracy gets values for lists that it has none for, and
    of several measures over subtopics only the first sees the run.
    """
    alone = over_subtopics(measure) or measure.params.get("judged_only")
    if alone or measure.NAME in ("Accuracy", "NumRet", "NumRel", "NumQ"):
        return name
    return "gdeval" if _of_gdeval(measure) else ""


def _of_gdeval(measure: Measure) -> bool:
    return measure.NAME == "ERR" or measure.params.get("dcg") == "exp-log2"


def _without_value(values: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """By measure which queries it has no value for, if there are any."""
    said = {}
    for name, found in values.items():
        if lacking := [query for query, value in found.items() if math.isnan(value)]:
            few = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
            share = f"{len(lacking):,} of {len(found):,} queries"
            said[name] = f"has no value for {share}, which its mean leaves out ({few})"
    return said


def falling(ranking: Iterable[str]) -> dict[str, float]:
    """Documents with scores n, n-1, ... 1: the order and nothing else."""
    documents = list(ranking)
    return {document: float(len(documents) - place) for place, document in enumerate(documents)}


def aggregate(measure: Measure, values: Iterable[float]) -> float:
    """A measure's own aggregate of its values but NaN: the mean, for counts such as NumRet the sum."""
    aggregator = measure.aggregator()
    for value in values:
        if not math.isnan(value):
            aggregator.add(value)
    return float(aggregator.result())


# ---- Values of an analysis: what is known about a second pass once its run is measured beside the first pass's.
#
# Nothing is computed here; the modules named in each docstring do that. Reports are written from these values alone.
@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrap confidence interval of a mean over queries (`intervals`)."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against another, here called baseline, on one measure, paired by query (`significance`).

    `difference` is the mean of system minus baseline (for a count the sum) with its bootstrap interval;
    `p_randomisation` and `p_t` are two-sided; `p_adjusted` is the randomisation test's after Holm's correction over
    all comparisons made together.
    """

    measure: str
    baseline: str
    system: str
    difference: float
    interval: Interval
    p_randomisation: float
    p_t: float
    p_adjusted: float
    helped: int
    hurt: int
    unchanged: int


@dataclass(frozen=True, slots=True)
class Ties:
    """One measure's mean over the orders that equal scores allow (`ties`); all three are equal without ties.

    `tied_queries` counts the queries in which documents of different grades have equal scores.
    """

    measure: str
    worst: float
    expected: float
    best: float
    tied_queries: int


@dataclass(frozen=True, slots=True)
class Headroom:
    """Where one measure's mean is lost (`second_pass`), on the candidates of the first pass.

    `ceiling` is a perfect order of these candidates, `ideal` one of all judged documents: 1 for nDCG, but not for
    P@10 of a query with two relevant documents. So ideal - ceiling was lost by the first pass (it did not find them),
    ceiling - second by the second pass (it did not put them first). `share` is (second - first) / (ceiling - first),
    None where there was nothing to gain.
    """

    measure: str
    first: float
    second: float
    ceiling: float
    ideal: float
    share: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """One query whose value the second pass changed (`changes`); `text` is "" where it is not known.

    `first_rank` and `second_rank` are the ranks of its best-placed relevant document, None where it has none.
    """

    query: str
    text: str
    first: float
    second: float
    first_rank: int | None
    second_rank: int | None

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class DepthPoint:
    """The measure's mean when only the first `depth` candidates are re-ranked, and milliseconds a query if known."""

    depth: int
    value: float
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class DepthCurve:
    """Quality against depth (`depths`); depth 0 is the first pass itself."""

    measure: str
    points: tuple[DepthPoint, ...]


@dataclass(frozen=True, slots=True)
class ScoreDistribution:
    """Histograms of the second pass's scores (`scores`): `edges` has one number more than each list of counts."""

    edges: tuple[float, ...]
    relevant: tuple[int, ...]
    judged_other: tuple[int, ...]
    unjudged: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ThresholdPoint:
    """What a score threshold keeps (score >= threshold): precision and recall over all query-document pairs."""

    threshold: float
    precision: float
    recall: float
    kept: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """Scores as probabilities (`calibration`): per non-empty bin the mean score, the share relevant and the size.

    `error` is the expected calibration error, `brier` the mean squared error; unjudged documents count as other.
    """

    mean_scores: tuple[float, ...]
    shares_relevant: tuple[float, ...]
    sizes: tuple[int, ...]
    error: float
    brier: float


@dataclass(frozen=True, slots=True)
class SecondPass:
    """All that one re-ranked run shows beside the first pass it re-ranked."""

    system: str
    headroom: tuple[Headroom, ...]
    helped: tuple[Change, ...]
    hurt: tuple[Change, ...]
    differences: Mapping[str, float]
    depth: DepthCurve | None = None
    distribution: ScoreDistribution | None = None
    thresholds: tuple[ThresholdPoint, ...] = ()
    reliability: Reliability | None = None
    ties: tuple[Ties, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """Several systems on the same judgements; the first report is the baseline.

    `intervals` holds, by system and measure, the interval of the mean (of the sum where the measure is a count);
    `primary` is the measure that the per-query parts (changes, depth) are about; `ms` is milliseconds a query by
    system, where known, a second pass's with the first pass's in them; `notes` name the systems that are no second
    pass of the first; `first_pass` is the name of the run that found the candidates, None if none of them did.
    """

    primary: str
    reports: tuple[Report, ...]
    intervals: Mapping[str, Mapping[str, Interval]]
    comparisons: tuple[Comparison, ...]
    second_passes: tuple[SecondPass, ...] = ()
    ms: Mapping[str, float] | None = None
    settings: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
    first_pass: str | None = ""
