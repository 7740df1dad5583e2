"""Measures of a run against judgements, computed by ir_measures and named as it names them.

`nDCG@10`, `RR@10`, `AP`, `P(rel=2)@5`, `R@100`, `ERR@20`, `Judged@10`, `Success@1`, ...: whatever ir_measures parses
and has a provider for (MacAvaney et al. 2022, "Streamlining Evaluation with ir-measures"). A run reaches the
providers with scores that fall strictly by rank, so that all of them measure the order that the run has: left to
themselves one breaks ties by document id and another by what came first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.lazy import optional

if TYPE_CHECKING:
    from ir_measures import Measure


# Libraries of the eval extra, imported when they are first called for: they take seconds.
ir_measures = partial(optional, "ir_measures", "ir_measures", "eval")
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
        values: by measure (named as ir_measures names it) the value of each query, in the judgements' order.
        means: by measure its aggregate: the mean, for counts such as NumRet the sum.
        coverage: which queries count.
    """

    system: str
    values: Mapping[str, Mapping[str, float]]
    means: Mapping[str, float]
    coverage: Coverage

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, in the order in which they were asked for."""
        return tuple(self.values)

    @property
    def queries(self) -> tuple[str, ...]:
        """Ids of the queries that count."""
        return tuple(next(iter(self.values.values()), {}))


DEFAULT_MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")


def parsed(names: Iterable[str]) -> dict[str, Measure]:
    """Measures by their own names, in order, each once.

    Raises:
        InvalidInput: there is none, or one is unknown, incomplete or has no provider here; the message names it.
        MissingExtra: ir_measures is not installed.
    """
    library = ir_measures()
    made: dict[str, Measure] = {}
    for name in [names] if isinstance(names, str) else names:
        try:
            measure = library.parse_measure(_spelled(name, library.measures.registry))
            supported = library.DefaultPipeline.supports(measure)
        # ir_measures raises NameError, AssertionError, SyntaxError and more for what is no measure.
        except Exception as error:
            raise InvalidInput(f"measure {name!r} is unknown or incomplete: {error or 'see ir_measures'}") from None
        if not supported:
            raise InvalidInput(f"measure {name!r} needs a provider of ir_measures that is not installed")
        made[str(measure)] = measure
    if not made:
        raise InvalidInput("measures is empty")
    return made


def _spelled(name: str, registry: Iterable[str]) -> str:
    """`name` with the capitals that ir_measures wants: people write ndcg@10."""
    found = re.match(r"\w+", name)
    by_lower = {known.lower(): known for known in registry}
    if found is None or found.group() in registry or found.group().lower() not in by_lower:
        return name
    return by_lower[found.group().lower()] + name[found.end() :]


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
        InvalidInput: no query counts (none is judged, or none has a relevant document), a measure is unknown, or it
            cannot be computed for these judgements.
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
    values = _values(wanted, qrels, run, queries)
    means = {name: aggregate(measure, values[name].values()) for name, measure in wanted.items()}
    return Report(run.name, values, means, coverage)


def _values(measures: Mapping[str, Measure], qrels: Qrels, run: Run, queries: list[str]) -> dict[str, dict[str, float]]:
    # One of the providers (gdeval) takes numbers only for ids of queries.
    numbers = {str(number): query for number, query in enumerate(queries, start=1)}
    judged = {number: dict(qrels[query]) for number, query in numbers.items()}
    ranked = {number: falling(run[query]) for number, query in numbers.items() if run.get(query)}
    names = {measure: name for name, measure in measures.items()}
    # Every query has its place from the start, with what ir_measures gives for an empty ranking.
    values = {name: dict.fromkeys(queries, float(measure.DEFAULT)) for name, measure in measures.items()}
    try:
        for found in ir_measures().iter_calc(list(measures.values()), judged, ranked):
            values[names[found.measure]][numbers[found.query_id]] = float(found.value)
    # Providers have limits of their own (gdeval's ERR takes grades up to 4) and fail in their own ways.
    except Exception as error:
        raise InvalidInput(f"ir_measures cannot compute {', '.join(measures)} for this run: {error!r}") from error
    return values


def falling(ranking: Iterable[str]) -> dict[str, float]:
    """Documents with scores n, n-1, ... 1: the order and nothing else."""
    documents = list(ranking)
    return {document: float(len(documents) - place) for place, document in enumerate(documents)}


def aggregate(measure: Measure, values: Iterable[float]) -> float:
    """A measure's own aggregate of its values: the mean, for counts such as NumRet the sum."""
    aggregator = measure.aggregator()
    for value in values:
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
    """One system against the baseline on one measure, paired by query (`significance`).

    `difference` is the mean of system minus baseline with its bootstrap interval; `p_randomisation` and `p_t` are
    two-sided; `p_adjusted` is the randomisation test's after Holm's correction over all comparisons made together.
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
    """Several systems on the same judgements; the first report is the baseline (the first pass).

    `intervals` holds, by system and measure, the interval of the mean (of the sum where the measure is a count);
    `primary` is the measure that the per-query parts (changes, depth) are about; `ms` is milliseconds a query by
    system, where known, a second pass's with the first pass's in them; `notes` name the systems that are no second
    pass of the baseline.
    """

    primary: str
    reports: tuple[Report, ...]
    intervals: Mapping[str, Mapping[str, Interval]]
    comparisons: tuple[Comparison, ...]
    second_passes: tuple[SecondPass, ...] = ()
    ms: Mapping[str, float] | None = None
    settings: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()
