"""The tables of a report as values: the terminal and the page show the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from secondpass.display import Kind
from secondpass.evaluation.comparison import (
    Analysis,
    Change,
    DepthCurve,
    Grouping,
    Reliability,
    ScoreBin,
    SecondPass,
    ThresholdPoint,
)
from secondpass.evaluation.reporting.wording import (
    NOTHING,
    confidence,
    counted,
    grouping_sentence,
    milliseconds,
    needed,
    number,
    p_cell,
    percent,
    range_of,
    signed,
    signed_span,
    span,
)

THRESHOLDS = 9
# A share of fewer documents is no precision: three of three would be 1.000, and anything from 0.29 on is likely.
LEAST_KEPT = 10
# By how many columns tell of unjudged documents.
UNJUDGED = (
    "",
    " Unjudged documents count as not relevant; no judgement names one that is not, so nothing tells how many are.",
    " Unjudged documents count as not relevant; judged only leaves them out, and the truth is likely to lie between.",
)


@dataclass(frozen=True, slots=True)
class Table:
    """A title, columns with what they hold, rows of cells; a cell's second line is of less weight."""

    title: str
    columns: tuple[tuple[str, Kind], ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def means(analysis: Analysis) -> Table:
    """A row per measure and system: narrow, whatever the number of measures."""
    known = analysis.ms or {}
    rows = [
        (
            _named(analysis, measure),
            report.system,
            number(report.means.get(measure)),
            span(analysis.intervals.get(report.system, {}).get(measure)),
            *([milliseconds(known.get(report.system))] if known else []),
        )
        for measure in all_measures(analysis)
        for report in analysis.reports
    ]
    timed = ("ms a query",) if known else ()
    columns = _columns(("measure", "system"), ("mean", interval_name(analysis), *timed))
    return Table(f"Means over {_queries(analysis)}", columns, tuple(rows))


def means_side_by_side(analysis: Analysis) -> Table:
    """A row per system, a column per measure, the interval as the cell's second line."""
    known = analysis.ms or {}
    measures = all_measures(analysis)
    rows = [
        (
            report.system,
            *(
                f"{number(report.means.get(measure))}\n{span(intervals.get(measure))}".removesuffix(f"\n{NOTHING}")
                for measure in measures
            ),
            *([milliseconds(known.get(report.system))] if known else []),
        )
        for report in analysis.reports
        for intervals in (analysis.intervals.get(report.system, {}),)
    ]
    columns = _columns(("system",), (*(_named(analysis, m) for m in measures), *(("ms a query",) if known else ())))
    note = f"Second lines: {interval_name(analysis)} of the mean." if any(analysis.intervals.values()) else ""
    return Table(f"Means over {_queries(analysis)}", columns, tuple(rows), note)


def differences(analysis: Analysis, system: str | None = None, baseline: str | None = None) -> Table | None:
    """A row per comparison, of one pair or of all (columns then say which); None where there is none."""
    chosen = [
        each for each in analysis.comparisons if system in (None, each.system) and baseline in (None, each.baseline)
    ]
    if not chosen:
        return None
    names = {each.baseline: None for each in chosen}
    rows = [
        (
            *([each.system] if system is None else []),
            *([each.baseline] if len(names) > 1 else []),
            _named(analysis, each.measure),
            signed(each.difference),
            signed_span(each.interval),
            p_cell(each.p_adjusted),
            *(f"{queries:,}" for queries in (each.helped, each.hurt, each.unchanged)),
        )
        for each in chosen
    ]
    columns = (*(["system"] if system is None else []), *(["against"] if len(names) > 1 else []), "measure")
    level = confidence(chosen[0].interval.level)
    numbers = ("difference", f"{level} interval", "adjusted p", "helped", "hurt", "same")
    together = counted(len(analysis.comparisons), "comparison", "comparisons")
    note = f"p: paired randomisation test, adjusted for {together} (Holm). helped, hurt, same: queries."
    title = system or "Differences"
    title += f" against {chosen[0].baseline}" if len(names) == 1 else ""
    return Table(title, _columns(columns, numbers), tuple(rows), note)


def effects(analysis: Analysis, system: str | None = None, baseline: str | None = None) -> Table | None:
    """A row per comparison: how large it is beside its spread, and how many queries would tell such a one."""
    chosen = [
        each for each in analysis.comparisons if system in (None, each.system) and baseline in (None, each.baseline)
    ]
    if not any(each.effect is not None for each in chosen):
        return None
    names = () if system else ("system", "against")
    rows = [
        (
            *(() if system else (each.system, each.baseline)),
            _named(analysis, each.measure),
            signed(each.effect),
            f"{each.helped + each.hurt + each.unchanged:,}",
            needed(each.queries_needed, each.effect),
        )
        for each in chosen
    ]
    together = counted(len(analysis.comparisons), "comparison", "comparisons")
    note = (
        "effect: difference in standard deviations of the queries' own (0.2 is small, 0.8 large). needed: queries for "
        f"80 % power, corrected for {together}, if mean and spread are as seen here: a guess, no promise."
    )
    title = f"Effect size of {system} against {baseline}" if system else "Effect sizes"
    return Table(title, _columns((*names, "measure"), ("effect", "queries", "needed")), tuple(rows), note)


def groups(groupings: Sequence[Grouping], measure: str) -> Table | None:
    """A row per group of queries, for each property that they are grouped by; None where there are none."""
    rows = [
        (
            f"{grouping.by} {range_of(group)}",
            f"{group.queries:,}",
            signed(group.difference),
            signed_span(group.interval),
            p_cell(group.p_adjusted),
        )
        for grouping in groupings
        for group in grouping.groups
    ]
    if not rows:
        return None
    joint = 1 - (1 - groupings[0].groups[0].interval.level) * len(rows)
    columns = _columns(("group",), ("queries", measure, "interval", "p"))
    note = (
        f"{grouping_sentence(groupings)} Intervals hold together at {confidence(joint)}; p: this group against the "
        "others (Holm). Lengths in characters; the margin is the first pass's first score less its second."
    )
    return Table("When it hurts", columns, tuple(rows), note)


def moves(changed: Sequence[Change], baseline: str, system: str, limit: int) -> Table | None:
    """The documents by which the first `limit` changes are seen, with both ranks."""
    rows = [
        (
            change.query,
            each.document,
            NOTHING if each.grade is None else str(each.grade),
            *(NOTHING if rank is None else f"{rank:,}" for rank in (each.first_rank, each.second_rank)),
        )
        for change in changed[:limit]
        for each in change.moved
    ]
    columns = _columns(("query", "document"), ("grade", "rank before", "after"))
    return Table(f"Documents that moved, {baseline} to {system}", columns, tuple(rows)) if rows else None


def headroom(second_pass: SecondPass) -> Table:
    """A row per measure: both passes, the ceiling, the share reached, what each pass loses."""
    rows = [
        (
            each.measure,
            number(each.first),
            number(each.second),
            number(each.ceiling),
            percent(each.share),
            number(each.ideal - each.ceiling),
            number(each.ceiling - each.second),
        )
        for each in second_pass.headroom
    ]
    numbers = ("first", "second", "ceiling", "reached", "lost by first", "lost by second")
    note = "ceiling: a perfect order of the same candidates. reached: (second - first) / (ceiling - first)."
    return Table("Headroom", _columns(("measure",), numbers), tuple(rows), note)


def ties(second_pass: SecondPass) -> Table | None:
    """A row per measure that equal scores leave open, None where there is none."""
    rows = [
        (each.measure, number(each.worst), number(each.expected), number(each.best), f"{each.tied_queries:,}")
        for each in second_pass.ties
        if each.tied_queries
    ]
    columns = _columns(("measure",), ("worst", "expected", "best", "queries with ties"))
    note = "Means over the orders that equal scores allow."
    return Table("Equal scores", columns, tuple(rows), note) if rows else None


def changes(title: str, changed: Sequence[Change], limit: int) -> Table | None:
    """The first `limit` queries with both values, the rank of the best relevant document, and the text."""
    rows = [
        (each.query, signed(each.difference), f"{number(each.first)} → {number(each.second)}", _ranks(each), each.text)
        for each in changed[:limit]
    ]
    columns: tuple[tuple[str, Kind], ...] = (*_columns(("query",), ("change", "value", "rank")), ("text", "text"))
    note = "rank: of the best-placed relevant document."
    note += f" {len(changed) - limit:,} more queries are not shown." if len(changed) > limit else ""
    return Table(title, columns, tuple(rows), note) if rows else None


def depths(curve: DepthCurve) -> Table:
    """A row per depth."""
    timed = any(point.ms is not None for point in curve.points)
    rows = [
        (f"{point.depth:,}", number(point.value), *([milliseconds(point.ms)] if timed else []))
        for point in curve.points
    ]
    columns = _columns((), ("depth", curve.measure, *(("ms a query",) if timed else ())))
    return Table("Quality by depth", columns, tuple(rows))


def thresholds(points: Sequence[ThresholdPoint]) -> Table:
    """A few thresholds from the lowest to the highest; of a handful of documents only the interval is told."""
    unjudged = _unjudged_columns(points)
    rows = [
        (
            number(point.threshold),
            number(point.precision) if point.kept >= LEAST_KEPT else NOTHING,
            span(point.interval),
            number(point.recall),
            f"{point.kept:,}",
            *_judged(point, LEAST_KEPT)[: len(unjudged)],
        )
        for point in _spread(points, THRESHOLDS)
    ]
    interval = f"{confidence(points[0].interval.level)} interval" if points else "interval"
    columns = _columns((), ("score from", "precision", interval, "recall", "kept", *unjudged))
    note = f"kept: documents. precision: from {LEAST_KEPT} documents on; its interval is the exact binomial one."
    return Table("What a threshold keeps", columns, tuple(rows), note + UNJUDGED[len(unjudged)])


def reliability(found: Reliability) -> Table:
    """A row per bin of scores, the highest first: what they promise, and what came of it."""
    bins = found.finest[::-1]
    unjudged = _unjudged_columns(bins)
    rows = [
        (
            number(each.low),
            number(each.every.mean_score),
            number(each.every.share),
            span(each.every.interval),
            signed(each.error),
            f"{each.every.size:,}",
            *_judged(each)[: len(unjudged)],
        )
        for each in bins
    ]
    interval = f"{confidence(bins[0].every.interval.level)} interval"
    columns = _columns((), ("from", "mean", "relevant", interval, "error", "pairs", *unjudged))
    note = "from, mean: of the bin's scores. relevant: share, with the exact binomial interval. error: mean - relevant."
    return Table("Scores as probabilities", columns, tuple(rows), note + UNJUDGED[len(unjudged)])


def _unjudged_columns(found: Sequence[ThresholdPoint] | Sequence[ScoreBin]) -> tuple[str, ...]:
    """Two, one or none: what is unjudged, and what the judged documents alone say."""
    unjudged, judged = any(each.unjudged for each in found), any(each.judged for each in found)
    return ("unjudged", "judged only")[: unjudged + (unjudged and judged)]


def _judged(found: ThresholdPoint | ScoreBin, least: int = 0) -> tuple[str, str]:
    judged = found.judged
    return f"{found.unjudged:,}", number(judged.share) if judged is not None and judged.size >= least else NOTHING


def all_measures(analysis: Analysis) -> list[str]:
    """Measures of all reports, in order."""
    return list(dict.fromkeys(measure for report in analysis.reports for measure in report.measures))


def _named(analysis: Analysis, measure: str) -> str:
    """A measure with what its number is, where that is not a mean."""
    return f"{measure} (sum)" if any(measure in report.sums for report in analysis.reports) else measure


def _columns(names: Iterable[str], numbers: Iterable[str]) -> tuple[tuple[str, Kind], ...]:
    return (*((name, "name") for name in names), *((name, "number") for name in numbers))


def _queries(analysis: Analysis) -> str:
    sizes = {report.coverage.measured for report in analysis.reports}
    return counted(sizes.pop(), "query", "queries") if len(sizes) == 1 else "the judged queries"


def interval_name(analysis: Analysis) -> str:
    """What the intervals of the means are called: by their level, if it is one."""
    levels = {interval.level for by_measure in analysis.intervals.values() for interval in by_measure.values()}
    return f"{confidence(levels.pop())} interval" if len(levels) == 1 else "interval"


def _ranks(change: Change) -> str:
    first, second = (NOTHING if rank is None else str(rank) for rank in (change.first_rank, change.second_rank))
    return f"{first} → {second}"


def _spread(points: Sequence[ThresholdPoint], most: int) -> list[ThresholdPoint]:
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]
