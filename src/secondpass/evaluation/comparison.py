"""Values of an analysis: what is known about a second pass once its run is measured beside the first pass's.

Nothing is computed here; the modules named in each docstring do that. Reports are written from these values alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secondpass.display import Kind, html_table
from secondpass.evaluation.measures import Report

if TYPE_CHECKING:
    from secondpass.explanation import Explanation


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval: of a mean over queries by bootstrap, of a share by the binomial (`statistics`)."""

    low: float
    high: float
    level: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One system against another, here called baseline, on one measure, paired by query (`statistics.compare`).

    `difference` is the mean of system minus baseline (for a count the sum) with its bootstrap interval;
    `p_randomisation` and `p_t` are two-sided; `p_adjusted` is the randomisation test's after Holm's correction over
    all comparisons made together. `effect` is the difference in standard deviations of the queries' differences
    (`statistics.effect_size`), None where these are all the same; `queries_needed` are those with which a test of such
    a difference, corrected for as many comparisons, has a power of 80 %, None where there is no difference.
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
    effect: float | None = None
    queries_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Ties:
    """One measure's mean over the orders that equal scores allow (`second_pass.over_ties`); the same without ties.

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
class Moved:
    """A document of a changed query (`moved`): its grade, None if unjudged, and its ranks, None where it has none."""

    document: str
    grade: int | None
    first_rank: int | None
    second_rank: int | None
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One query whose value the second pass changed (`changes`); `text` is "" where it is not known.

    `first_rank` and `second_rank` are the ranks of its best-placed relevant document, None where it has none.
    `moved` are a relevant document that changed its rank and another one that did.
    """

    query: str
    text: str
    first: float
    second: float
    first_rank: int | None
    second_rank: int | None
    moved: tuple[Moved, ...] = ()

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first


@dataclass(frozen=True, slots=True)
class QueryGroup:
    """Queries with a property from `low` to `high`, and the mean difference between two runs in them.

    `interval` is Student's, of equal differences an exact one, at a level at which those of all groups hold together;
    `p_adjusted` is of a permutation test of this group against the other queries that have the property, after Holm's
    correction over all groups, and `apart` whether that tells it apart from them.
    """

    low: float
    high: float
    queries: int
    difference: float
    interval: Interval
    p_adjusted: float
    apart: bool


@dataclass(frozen=True, slots=True)
class Grouping:
    """Queries by one property, in about three groups of equal size, lowest first (`statistics.groupings`)."""

    by: str
    groups: tuple[QueryGroup, ...]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Two runs query by query where the later one is no second pass of the other: as `SecondPass` has it."""

    system: str
    baseline: str
    helped: tuple[Change, ...]
    hurt: tuple[Change, ...]
    groupings: tuple[Grouping, ...] = ()


@dataclass(frozen=True, slots=True)
class DepthPoint:
    """The measure's mean when only the first `depth` candidates are re-ranked, and milliseconds a query if known."""

    depth: int
    value: float
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class DepthCurve:
    """Quality against depth (`second_pass.depth_curve`); depth 0 is the first pass itself."""

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
class RelevantShare:
    """Of `size` pairs `relevant` are (`scores`): their share, its exact binomial interval, and the pairs' mean score.

    The interval takes the pairs of one query for strangers to each other.
    """

    size: int
    relevant: int
    share: float
    interval: Interval
    mean_score: float


@dataclass(frozen=True, slots=True)
class ThresholdPoint:
    """What a score threshold keeps (score >= threshold): precision and recall over all query-document pairs.

    Of the `kept` pairs `relevant` are, and `unjudged` were judged by nobody: `precision` with its `interval` takes
    these as not relevant, `judged` leaves them out (None as in a `ScoreBin`).
    """

    threshold: float
    precision: float
    recall: float
    kept: int
    relevant: int
    unjudged: int
    interval: Interval
    judged: RelevantShare | None = None


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """Pairs of neighbouring scores, `low` to `high` (`scores`): what they score and how many of them are relevant.

    `every` takes the `unjudged` as not relevant, `judged` leaves them out. It is None where all are unjudged, or no
    judgement of the run's documents is "not relevant": who notes relevant ones only says nothing of the others.
    `error` is every's mean_score - share, above 0 where scores promise too much; `clear_error` is the smaller of both
    readings' where neither interval holds its mean score, else 0.
    """

    low: float
    high: float
    every: RelevantShare
    judged: RelevantShare | None
    unjudged: int
    error: float
    clear_error: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Scores as probabilities (`scores`): `bins` of as many pairs each, and the highest of them cut again as `top`.

    Most candidates score near 0, so that the highest bin alone mixes all scores that a reader sees: `top` parts them.
    `error` is the expected calibration error over `bins`, `brier` the mean squared error; unjudged documents count as
    not relevant there and are left out of `judged_error` and `judged_brier` (None as in a bin).
    """

    bins: tuple[ScoreBin, ...]
    top: tuple[ScoreBin, ...]
    error: float
    brier: float
    judged_error: float | None
    judged_brier: float | None

    @property
    def finest(self) -> tuple[ScoreBin, ...]:
        """All pairs once: the bins, the highest of them as it was cut again."""
        return (*self.bins[:-1], *self.top) if self.top else self.bins


@dataclass(frozen=True, slots=True)
class Placed:
    """A document of a query: its grade, None if unjudged, and its rank in each run, None where that lacks it."""

    document: str
    grade: int | None
    ranks: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class QueryRanks:
    """Where one query's documents stand in each run, in the order of the reports (`analysis.query_ranks`).

    `documents` are the relevant ones that a run has and the first three of each run, best rank first; `unfound`
    counts the relevant ones that no run has. `text` is "" where it is not known.
    """

    query: str
    text: str
    documents: tuple[Placed, ...]
    unfound: int


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
    groupings: tuple[Grouping, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """Several systems on the same judgements; the first report is the baseline.

    `intervals` holds, by system and measure, the interval of the mean (of the sum where the measure is a count);
    `primary` is the measure that the per-query parts (changes, depth) are about; `ms` is milliseconds a query by
    system, where known, a second pass's with the first pass's in them; `notes` name the systems that are no second
    pass of the first; `first_pass` is the name of the run that found the candidates, None if none of them did;
    `contrasts` are the pairs of runs that no second pass tells about;
    `queries` say of each measured query where its documents stand.
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
    contrasts: tuple[Contrast, ...] = ()
    queries: tuple[QueryRanks, ...] = ()

    def _repr_html_(self) -> str:
        """Two tables for notebooks: means with intervals, and what each system adds to another; the page has more."""
        means = [
            (report.system, measure, _shown(value), _span(self.intervals.get(report.system, {}).get(measure)))
            for measure in self.reports[0].means
            for report in self.reports
            for value in [report.means.get(measure)]
        ]
        names: tuple[tuple[str, Kind], ...] = (("system", "name"), ("measure", "name"))
        figures: tuple[tuple[str, Kind], ...] = (("mean", "number"), ("interval", "number"))
        first = html_table((*names, *figures), means, caption="Means")
        if not self.comparisons:
            return first
        pairs = [
            (each.system, each.measure, each.baseline, f"{each.difference:+.4f}", _span(each.interval, "+"),
             f"{each.p_adjusted:.3f}" if math.isfinite(each.p_adjusted) else "-")
            for each in self.comparisons
        ]  # fmt: skip
        figures = (("against", "name"), ("difference", "number"), ("interval", "number"), ("p", "number"))
        note = "p: paired randomisation test, adjusted for all comparisons (Holm)."
        return first + html_table((*names, *figures), pairs, caption="Differences", note=note)


def _shown(value: float | None, sign: str = "") -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:{sign}.4f}"


def _span(interval: Interval | None, sign: str = "") -> str:
    return "-" if interval is None else f"{_shown(interval.low, sign)} to {_shown(interval.high, sign)}"
