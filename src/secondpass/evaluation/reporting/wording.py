"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from secondpass.evaluation.comparison import (
    Analysis,
    Comparison,
    DepthCurve,
    Grouping,
    Headroom,
    Interval,
    Moved,
    QueryGroup,
    RelevantShare,
    Reliability,
    ScoreBin,
)
from secondpass.evaluation.measures import Report

NOTHING = "\u2013"
SHOWN = 5


def number(value: float | None) -> str:
    """Three decimals; one from ten up, where measures are counts."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}".removesuffix(".0")
    return text.removeprefix("-") if not text.strip("-0.") else text


def signed(value: float | None) -> str:
    """The same with a plus before a gain."""
    text = number(value)
    return text if text == NOTHING or text.startswith("-") or not text.strip("0.") else f"+{text}"


def span(interval: Interval | None) -> str:
    """Both ends of an interval."""
    return NOTHING if interval is None else f"{number(interval.low)} to {number(interval.high)}"


def signed_span(interval: Interval) -> str:
    """Both ends of a difference's interval."""
    return f"{signed(interval.low)} to {signed(interval.high)}"


def percent(share: float | None) -> str:
    """A share of one in percent, without decimals."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{share * 100:.0f} %".replace("-0 %", "0 %")


def confidence(level: float) -> str:
    """The level of an interval in percent, with the decimals that it has: 99.9 % is not 100 %."""
    return f"{level * 100:.6g} %"


def p_value(p: float) -> str:
    """What follows "p": a sign and a number."""
    if not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def p_cell(p: float) -> str:
    """The same for a table's cell."""
    return p_value(p).removeprefix("= ")


def milliseconds(ms: float | None) -> str:
    """Two or three digits that matter."""
    if ms is None or not math.isfinite(ms):
        return NOTHING
    return f"{ms:,.0f}" if ms >= 10 or ms == 0 else f"{ms:.1f}"


def listed(names: Sequence[str]) -> str:
    """The first of many, and that there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def shortened(text: str, longest: int) -> str:
    """A text cut to so many characters, the last of them an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def counted(number_of: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number_of:,} {one if number_of == 1 else many}"


# ---- What an analysis says in plain words: whether a second pass helps and how sure that is, what is lost where.
Direction = Literal["better", "worse", "unclear", "same", "alone"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One system against the baseline on the primary measure: a headline, and the sentence with the figures."""

    system: str
    direction: Direction
    headline: str
    detail: str


def verdicts(analysis: Analysis) -> list[Verdict]:
    """One verdict for each system but the baseline, then for each other pair; without any, what each system reaches."""
    systems = {report.system for report in analysis.reports}
    primary = [
        each
        for each in analysis.comparisons
        if each.measure == analysis.primary and {each.system, each.baseline} <= systems
    ]
    baseline = analysis.reports[0].system
    # A comparison with the baseline stands first: sorting keeps the order otherwise.
    primary.sort(key=lambda comparison: comparison.baseline != baseline)
    if not primary:
        return [_alone(analysis, report) for report in analysis.reports]
    return [_verdict(analysis, comparison) for comparison in primary]


def headroom_sentence(system: str, headroom: Headroom) -> str:
    """What was there to gain, how much of it came, and which pass lost the rest."""
    gain = headroom.second - headroom.first
    if headroom.share is None:
        reached = f"No order of these candidates beats the first pass in {headroom.measure}: there was nothing to gain."
    else:
        came = f"loses {number(-gain)} instead" if gain < 0 else f"reaches {percent(headroom.share)} of that"
        possible = f"{signed(headroom.ceiling - headroom.first)} {headroom.measure}"
        reached = f"A perfect order of the candidates would bring {possible}; {system} {came}."
    return f"{reached} {_losses(headroom)}"


def grouping_sentence(groupings: Sequence[Grouping]) -> str:
    """Where it hurts, which groups are unlike the others, or that nothing is told apart."""
    groups = [(grouping.by, group) for grouping in groupings for group in grouping.groups]
    corrected = f"corrected for {counted(len(groups), 'group', 'groups')}"
    hurt = [_group_said(*each) for each in groups if each[1].interval.high < 0]
    apart = [_group_said(*each) for each in groups if each[1].apart]
    everywhere = len(hurt) == len(groups)
    where = "in every group" if everywhere else f"where {', '.join(hurt)}"
    said = [f"It hurts {where}."] if hurt else []
    if apart:
        said.append(f"Told apart from the other queries: {', '.join(apart)}.")
    elif hurt:
        said.append("No group is unlike the other queries.")
    if not said:
        return f"Nothing is told apart: no group is hurt for sure, and none is unlike the other queries ({corrected})."
    return f"{' '.join(said)} ({corrected.capitalize()}.)"


def _group_said(by: str, group: QueryGroup) -> str:
    return f"{by} is {range_of(group)} ({signed(group.difference)})"


def range_of(group: QueryGroup) -> str:
    """From where to where a group's property goes, in three digits that matter or as a whole number."""
    low, high = (f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}" for value in (group.low, group.high))
    return low if low == high else f"{low} to {high}"


def needed(queries: int | None, effect: float | None) -> str:
    """How many queries a test needs for a power of 80 %, and that no number is enough where nothing differs."""
    if queries is None:
        return NOTHING if effect is None else "no number"
    return f"{queries:,}"


def moved_line(moved: Moved) -> str:
    """What a document that moved is worth, and from where to where it went."""
    worth = "unjudged" if moved.grade is None else f"{'' if moved.grade > 0 else 'not '}relevant (grade {moved.grade})"
    first, second = (NOTHING if rank is None else f"{rank:,}" for rank in (moved.first_rank, moved.second_rank))
    return f"{worth}, rank {first} → {second}"


def depth_sentence(curve: DepthCurve) -> str:
    """The best depth, and the first depth that brings nearly as much."""
    start = curve.points[0]
    best = max(curve.points, key=lambda point: point.value)
    if best.depth == 0 or best.value <= start.value:
        return "No depth is better than the first pass."
    said = f"Best at depth {best.depth}: {number(best.value)}{_cost(best.ms)}."
    enough = start.value + 0.95 * (best.value - start.value)
    near = next(point for point in curve.points if point.value >= enough)
    if near.depth < best.depth:
        said += f" Depth {near.depth} brings at least 95 % of the gain{_cost(near.ms)}."
    return said


def reliability_sentence(reliability: Reliability) -> str:
    """How far scores are from probabilities: bin by bin first, since the mean over all pairs hides the high scores."""
    bins = reliability.finest
    errors = [each.clear_error for each in bins]
    level = bins[0].every.interval.level
    over, under = sum(error > 0 for error in errors), sum(error < 0 for error in errors)
    highest, worst = bins[-1], max(bins, key=lambda each: abs(each.clear_error))
    said = f"Of {_bin_line(highest)}. "
    said += f"Scores promise too much in {over} and too little in {under} of {counted(len(bins), 'bin', 'bins')}, "
    said += f"beyond {confidence(level)} intervals (by chance: {confidence(1 - level)} of bins)"
    unsure = sum(not each.clear_error and _beyond(each.every) for each in bins)
    said += f"; in {unsure} more their unjudged pairs decide. " if unsure else ". "
    if worst is not highest and worst.clear_error:
        said += f"Largest clear error: of {_bin_line(worst)}. "
    return said + _means_over_all(reliability)


def _means_over_all(reliability: Reliability) -> str:
    bins, unjudged = reliability.bins, sum(each.unjudged for each in reliability.bins)
    pairs, middle = sum(each.every.size for each in bins), bins[(len(bins) - 1) // 2].high
    said = f"Expected calibration error over {counted(len(bins), 'bin', 'bins')} of equal count "
    said += f"{number(reliability.error)}, Brier score {number(reliability.brier)}, "
    said += f"over {counted(pairs, 'pair', 'pairs')}"
    low = f", half of which score {number(middle)} or less: the two say little of high scores."
    said += low if len(bins) > 1 and middle < MOSTLY_LOW else "."
    if not unjudged:
        return said
    said += f" {unjudged:,} of the pairs are unjudged and count as not relevant"
    if reliability.judged_error is None:
        return f"{said}; no judgement names one that is not, so that nothing tells how many of them are."
    errors_of = f"{number(reliability.judged_error)}, a Brier score of {number(reliability.judged_brier)}"
    return f"{said}; the judged alone have an expected calibration error of {errors_of}."


def _beyond(share: RelevantShare) -> bool:
    """Whether the interval does not hold the mean score."""
    return not share.interval.low <= share.mean_score <= share.interval.high


# Where half of all scores are below this, a mean over all pairs is one over those that nobody is shown.
MOSTLY_LOW = 0.1


def _bin_line(found: ScoreBin) -> str:
    every, judged = found.every, found.judged
    pairs = counted(every.size, "pair that scores", "pairs that score")
    said = f"the {pairs} {number(found.low)} to {number(found.high)} (mean {number(every.mean_score)}), "
    said += f"{percent(every.share)} are relevant ({_percents(every.interval)})"
    if judged is None or not found.unjudged:
        return said
    return f"{said}, of the {judged.size:,} judged ones {percent(judged.share)} ({_percents(judged.interval)})"


def _percents(interval: Interval) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}"


def notes(analysis: Analysis) -> list[str]:
    """What limits the means: the analysis's own notes, then each system's coverage, what fits all of them once."""
    noted: dict[str, list[str]] = {}
    for report in analysis.reports:
        for note in (*_coverage(report), *(f"{measure} {why}" for measure, why in report.undefined.items())):
            noted.setdefault(note, []).append(report.system)
    everywhere = len(analysis.reports)
    covered = [note if len(systems) == everywhere else f"{listed(systems)}: {note}" for note, systems in noted.items()]
    return [*analysis.notes, *covered]


def _coverage(report: Report) -> Iterator[str]:
    coverage = report.coverage
    if coverage.unanswered:
        yield (
            f"{len(coverage.unanswered):,} of {counted(coverage.measured, 'measured query', 'measured queries')} "
            f"without an answer in the run, counted as an empty ranking ({listed(coverage.unanswered)})"
        )
    if coverage.without_relevant:
        kept = coverage.without_relevant[0] in report.queries
        yield (
            f"{counted(len(coverage.without_relevant), 'judged query', 'judged queries')} without a relevant document, "
            f"{'counted all the same' if kept else 'left out'} ({listed(coverage.without_relevant)})"
        )
    if coverage.unjudged:
        yield (
            f"{counted(len(coverage.unjudged), 'query', 'queries')} of the run without judgements, left out "
            f"({listed(coverage.unjudged)})"
        )


def _alone(analysis: Analysis, report: Report) -> Verdict:
    measure = analysis.primary
    interval = analysis.intervals.get(report.system, {}).get(measure)
    sure = f" ({confidence(interval.level)} interval {span(interval)})" if interval else ""
    queries = counted(report.coverage.measured, "query", "queries")
    detail = f"{measure} is {number(report.means.get(measure))}{sure} over {queries}."
    return Verdict(report.system, "alone", report.system, detail)


def _verdict(analysis: Analysis, comparison: Comparison) -> Verdict:
    system, baseline, direction = comparison.system, comparison.baseline, _direction(comparison)
    reports = {report.system: report for report in analysis.reports}
    for name in (system, baseline):
        if len(reports[name].coverage.unanswered) == (measured := reports[name].coverage.measured):
            detail = f"Its {measured:,} rankings count as empty ones: are its ids those of the judgements?"
            return Verdict(system, "unclear", f"{name} answers none of the measured queries", detail)
    before, after = (number(reports[name].means.get(analysis.primary)) for name in (baseline, system))
    equals = baseline != analysis.reports[0].system or analysis.first_pass is None
    if direction == "same":
        detail = f"{analysis.primary} is {before} before and after; no query's value changes."
        headline = f"{system} is no different from {baseline}" if equals else f"{system} changes nothing"
        return Verdict(system, direction, headline, detail)
    verb = "rises" if comparison.difference > 0 else "falls" if comparison.difference < 0 else "goes"
    detail = f"{analysis.primary} {verb} from {before} to {after} ({_certainty(analysis, comparison)})"
    detail += f"{_reached(analysis, system)}." if direction == "better" and not equals else "."
    if direction == "unclear":
        # Of the measured queries those with a value in both.
        compared = comparison.helped + comparison.hurt + comparison.unchanged
        queries = counted(compared, "query", "queries")
        detail += f" On {queries}, that may be chance.{_more_queries(comparison, compared)}"
    headlines = {"better": "helps", "worse": "does harm", "unclear": "shows no clear difference"}
    if equals:
        clear = f"is {direction} than" if direction in ("better", "worse") else "shows no clear difference from"
        return Verdict(system, direction, f"{system} {clear} {baseline}", detail)
    return Verdict(system, direction, f"{system} {headlines[direction]}", detail)


def _direction(comparison: Comparison) -> Direction:
    if comparison.helped == comparison.hurt == 0:
        return "same"
    # The interval and the test must agree: they are two views of the same doubt.
    sure = comparison.p_adjusted < 1 - comparison.interval.level + 1e-12
    if sure and comparison.interval.low > 0:
        return "better"
    return "worse" if sure and comparison.interval.high < 0 else "unclear"


def _certainty(analysis: Analysis, comparison: Comparison) -> str:
    together = len(analysis.comparisons)
    adjusted = f" adjusted for {together} comparisons" if together > 1 else ""
    return (
        f"{signed(comparison.difference)}, {confidence(comparison.interval.level)} interval "
        f"{signed_span(comparison.interval)}, p {p_value(comparison.p_adjusted)}{adjusted}"
    )


def _more_queries(comparison: Comparison, compared: int) -> str:
    """How many more queries would decide, if the truth were what was seen; "" where nobody can say."""
    if comparison.effect is None:
        return ""
    if comparison.queries_needed is None:
        return " No number of queries tells nothing apart."
    more = comparison.queries_needed - compared
    if more <= 0:
        return ""
    seen = "if mean and spread of the differences are those seen here, which is not sure"
    return f" About {more:,} more would decide in 8 of 10 cases, {seen}."


def _reached(analysis: Analysis, system: str) -> str:
    shares = (
        headroom.share
        for second_pass in analysis.second_passes
        if second_pass.system == system
        for headroom in second_pass.headroom
        if headroom.measure == analysis.primary
    )
    share = next(shares, None)
    return "" if share is None else f"; of the possible gain {percent(share)} is reached"


def _losses(headroom: Headroom) -> str:
    unfound, misplaced = headroom.ideal - headroom.ceiling, headroom.ceiling - headroom.second
    if unfound < 0.0005 and misplaced < 0.0005:
        return "Nothing is lost."
    what = "more or better candidates have" if unfound > misplaced else "a better order has"
    return (
        f"The first pass loses {number(unfound)} by not finding relevant documents, "
        f"the second pass {number(misplaced)} by not putting them first: {what} the most to give."
    )


def _cost(ms: float | None) -> str:
    return "" if ms is None else f", {milliseconds(ms)} ms a query"
