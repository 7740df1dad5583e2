"""Everything at once: several runs on the same judgements, and what each re-ranked one adds to the first pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secondpass.errors import InvalidInput
from secondpass.evaluation.calibration import reliability
from secondpass.evaluation.changes import changes
from secondpass.evaluation.depths import depth_curve
from secondpass.evaluation.findings import Analysis, DepthCurve, Interval, SecondPass, Ties
from secondpass.evaluation.intervals import RESAMPLES, mean_interval
from secondpass.evaluation.measures import DEFAULT_MEASURES, evaluate, parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.reports import Report
from secondpass.evaluation.runs import Run
from secondpass.evaluation.scores import distribution, thresholds
from secondpass.evaluation.second_pass import (
    ceiling_run,
    extended,
    headroom_of,
    ideal_run,
    is_second_pass,
    outside,
)
from secondpass.evaluation.significance import compare
from secondpass.evaluation.ties import over_ties

if TYPE_CHECKING:
    from ir_measures import Measure


def analyse(
    qrels: Qrels,
    runs: Sequence[Run],
    measures: Iterable[str] = DEFAULT_MEASURES,
    *,
    texts: Mapping[str, str] | None = None,
    ms: Mapping[str, float] | None = None,
    level: float = 0.95,
    seed: int = 0,
    examples: int = 10,
) -> Analysis:
    """Measure runs, compare them with the first of them, and look into those that re-rank its candidates.

    A run is a second pass if most of its documents, in the queries that both answer, are candidates of the first run.
    It is then measured on all of these candidates: those that it does not return follow in the first pass's order
    (`second_pass.extended`). Any other run is measured as it is, and a note says so.

    Args:
        qrels: the judgements.
        runs: the first pass, then any others; their names must differ.
        measures: names of measures; the per-query parts are about the first of them.
        texts: the queries' texts by id.
        ms: milliseconds a query by name of run, whatever happens before included: a second pass's hold the first's.
        level: of the intervals.
        seed: same seed, same analysis.
        examples: queries to show that were helped, and that were hurt.

    Raises:
        InvalidInput: there is no run, two have one name, ms names none of them, no query has a relevant document, or
            a measure is unknown.
        MissingExtra: ir_measures, scipy or scikit-learn is not installed.
    """
    _check_names([run.name for run in runs], ms or {})
    names = parsed(measures)
    first, others = runs[0], runs[1:]
    whole = {run.name: extended(first, run) for run in others if is_second_pass(first, run)}
    reports = tuple(evaluate(qrels, whole.get(run.name, run), names) for run in runs)
    # the same for every second pass: it depends on the judgements alone
    ideal = evaluate(qrels, ideal_run(qrels), names) if whole else reports[0]
    found = _Findings(qrels, first, reports[0], ideal, texts, ms or {}, seed, examples)
    return Analysis(
        primary=next(iter(names)),
        reports=reports,
        intervals={report.system: _intervals(names, report, level, seed) for report in reports},
        comparisons=compare(reports[0], reports[1:], level=level, seed=seed),
        second_passes=tuple(
            found.second_pass(run, whole[run.name], report)
            for run, report in zip(others, reports[1:], strict=True)
            if run.name in whole
        ),
        ms=ms,
        settings={
            "intervals": f"{level:.0%} bootstrap of the mean, {RESAMPLES} resamples",
            "tests": "paired by query: sign flips and t; Holm over all comparisons",
            "seed": str(seed),
        },
        notes=(
            *(_left_out(first, run) for run in others if run.name not in whole),
            *(["one query alone: its intervals and tests say nothing"] if reports[0].coverage.measured == 1 else []),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Findings:
    """What all second passes are looked at with."""

    qrels: Qrels
    first: Run
    report: Report
    ideal: Report
    texts: Mapping[str, str] | None
    ms: Mapping[str, float]
    seed: int
    examples: int

    def second_pass(self, run: Run, whole: Run, report: Report) -> SecondPass:
        """Look into one run: as it came, extended by the other candidates, and measured so."""
        primary = report.measures[0]
        before, after = self.report.values[primary], report.values[primary]
        helped, hurt = changes(self.qrels, self.first, whole, before, after, texts=self.texts, count=self.examples)
        ceiling = evaluate(self.qrels, ceiling_run(self.qrels, self.first, whole), report.measures)
        return SecondPass(
            system=run.name,
            headroom=headroom_of(self.report, report, ceiling, self.ideal),
            helped=helped,
            hurt=hurt,
            differences={query: after[query] - value for query, value in before.items()},
            depth=self._depth(run, primary),
            distribution=distribution(self.qrels, run),
            thresholds=thresholds(self.qrels, run),
            reliability=reliability(self.qrels, run),
            ties=self._ties(whole, report),
            notes=tuple(self._notes(run, report)),
        )

    def _ties(self, whole: Run, report: Report) -> tuple[Ties, ...]:
        found = over_ties(self.qrels, whole, report.measures, seed=self.seed, report=report)
        return found if any(ties.tied_queries for ties in found) else ()

    def _depth(self, run: Run, measure: str) -> DepthCurve:
        alone, both = self.ms.get(self.first.name), self.ms.get(run.name)
        known = None
        if alone is not None and both is not None and alone <= both:
            deepest = max(len(self.first.get(query, {})) for query in self.report.queries)
            known = {0: alone, deepest: both} if deepest else None
        return depth_curve(self.qrels, self.first, run, measure, ms_at=known)

    def _notes(self, run: Run, report: Report) -> Iterable[str]:
        answered = [query for query in self.report.queries if run.get(query)]
        missing = sum(len(self.first.get(query, {}).keys() - run[query].keys()) for query in answered)
        if missing:
            yield f"{missing} candidates that it did not return follow the others in the first pass's order"
        if strange := outside(self.first, run):
            yield f"{strange} of its documents the first pass lacks; they keep their ranks, and the ceiling has them"
        silent = sum(1 for query in report.coverage.unanswered if self.first.get(query))
        if silent:
            yield f"{silent} queries that the first pass answers have no ranking here and count as empty"
        if self.ms.get(run.name, 0.0) < self.ms.get(self.first.name, 0.0) and run.name in self.ms:
            yield "its milliseconds are fewer than the first pass's alone, so none are given by depth"


def _check_names(names: list[str], ms: Mapping[str, float]) -> None:
    if not names:
        raise InvalidInput("runs is empty")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(f"runs[{index}] has the name {name!r}, as runs[{names.index(name)}] has")
    for name in ms:
        if name not in names:
            raise InvalidInput(f"ms names {name!r}, which is none of the runs {', '.join(names)}")


def _intervals(measures: Mapping[str, Measure], report: Report, level: float, seed: int) -> dict[str, Interval]:
    """Intervals of what the report calls its means; that of a count such as NumRet is a sum."""
    found = {}
    for name, measure in measures.items():
        interval = mean_interval(report.values[name].values(), level, seed=seed)
        times = len(report.values[name]) if _sums(measure) else 1
        found[name] = Interval(interval.low * times, interval.high * times, level)
    return found


def _sums(measure: Measure) -> bool:
    aggregator = measure.aggregator()
    aggregator.add(1.0)
    aggregator.add(1.0)
    return bool(aggregator.result() == 2.0)


def _left_out(first: Run, run: Run) -> str:
    return f"{run.name} is no second pass of {first.name}: half of its documents or more are not among its candidates"
