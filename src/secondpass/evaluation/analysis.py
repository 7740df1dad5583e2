"""Everything at once: several runs on the same judgements, and what each re-ranked one adds to the first pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite, isnan
from statistics import fmean

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import (
    Analysis,
    Change,
    Contrast,
    DepthCurve,
    Grouping,
    Interval,
    Moved,
    Placed,
    QueryRanks,
    SecondPass,
)
from secondpass.evaluation.measures import DEFAULT_MEASURES, Report, evaluate, parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Ranking, Run
from secondpass.evaluation.scores import distribution, reliability, thresholds
from secondpass.evaluation.second_pass import (
    ceiling_run,
    depth_curve,
    extended,
    headroom_of,
    ideal_run,
    is_second_pass,
    outside,
    over_ties,
)
from secondpass.evaluation.statistics import RESAMPLES, compare, groupings, mean_interval

# Of each run's documents so many are among those that a query shows, relevant or not.
FIRST_SHOWN = 3


def changes(
    qrels: Qrels,
    first: Run,
    second: Run,
    first_values: Mapping[str, float],
    second_values: Mapping[str, float],
    *,
    texts: Mapping[str, str] | None = None,
    count: int = 10,
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Find the queries whose value rose and fell most, at most `count` of each kind.

    The values are one measure's in each pass, by query; `texts` are the queries' by id.

    Returns:
        The helped, greatest rise first, and the hurt, greatest fall first; equal changes in the order of the values.

    Raises:
        InvalidInput: count is negative, or a query has a value in one pass only; the message names it.
    """
    if count < 0:
        raise InvalidInput(f"count={count!r} is negative")
    if single := sorted(first_values.keys() ^ second_values.keys()):
        raise InvalidInput(f"query {single[0]!r} has a value in one pass only")
    differences = {query: second_values[query] - value for query, value in first_values.items()}
    order = sorted((query for query, rise in differences.items() if not isnan(rise)), key=lambda q: -differences[q])
    helped = [query for query in order[:count] if differences[query] > 0]
    order.sort(key=lambda query: differences[query])
    hurt = [query for query in order[:count] if differences[query] < 0]

    def change(query: str) -> Change:
        grades = qrels.get(query, {})
        rankings = first.get(query, {}), second.get(query, {})
        return Change(
            query=query,
            text=(texts or {}).get(query, ""),
            first=first_values[query],
            second=second_values[query],
            first_rank=_first_relevant(rankings[0], grades),
            second_rank=_first_relevant(rankings[1], grades),
            moved=tuple(moved(*rankings, grades, rose=differences[query] > 0)),
        )

    return tuple(map(change, helped)), tuple(map(change, hurt))


def differences_of(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """By query what one measure gained; those without a value in one of both are left out."""
    return {query: rise for query, value in before.items() if not isnan(rise := after[query] - value)}


def _first_relevant(ranking: Ranking, grades: Mapping[str, int]) -> int | None:
    """Rank of the best-placed relevant document, from 1."""
    return next((rank for rank, document in enumerate(ranking, start=1) if grades.get(document, 0) > 0), None)


def moved(first: Ranking, second: Ranking, grades: Mapping[str, int], *, rose: bool) -> Iterator[Moved]:
    """The documents that a query's change is seen by: one or two.

    Of the relevant documents that moved up in the better ranking, `second` if the value `rose`, the first one there; of
    the others that moved down in it, the first one of the worse ranking.
    """
    first_ranks, second_ranks = ({name: rank for rank, name in enumerate(run, start=1)} for run in (first, second))
    better, worse = (second_ranks, first_ranks) if rose else (first_ranks, second_ranks)
    last = len(better) + len(worse) + 1

    def chosen(ranks: Mapping[str, int], others: Mapping[str, int], relevant: bool) -> Iterator[str]:
        for name, rank in ranks.items():
            if (grades.get(name, 0) > 0) is relevant and rank < others.get(name, last):
                yield name

    for name in (*islice(chosen(better, worse, True), 1), *islice(chosen(worse, better, False), 1)):
        yield Moved(name, grades.get(name), first_ranks.get(name), second_ranks.get(name))


def query_ranks(
    qrels: Qrels, runs: Sequence[Run], queries: Iterable[str], *, texts: Mapping[str, str] | None = None
) -> tuple[QueryRanks, ...]:
    """Where each query's relevant documents and the first `FIRST_SHOWN` of each run stand in every run."""
    return tuple(_ranks_of(query, (texts or {}).get(query, ""), qrels.get(query, {}), runs) for query in queries)


def _ranks_of(query: str, text: str, grades: Mapping[str, int], runs: Sequence[Run]) -> QueryRanks:
    rankings = [run.get(query, {}) for run in runs]
    relevant = {document for document, grade in grades.items() if grade > 0}
    shown = {document for ranking in rankings for document in islice(ranking, FIRST_SHOWN)}
    shown |= {document for document in relevant if any(document in ranking for ranking in rankings)}
    places = [{name: rank for rank, name in enumerate(ranking, start=1) if name in shown} for ranking in rankings]
    documents = [Placed(name, grades.get(name), tuple(ranks.get(name) for ranks in places)) for name in shown]
    # best rank in any run, then the ranks one by one: no two documents have all of them in common
    last = 1 + max(map(len, rankings), default=0)
    documents.sort(key=lambda one: (sorted(rank or last for rank in one.ranks), one.document))
    return QueryRanks(query, text, tuple(documents), len(relevant - shown))


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
    first_pass: str | None = "",
    lengths: Mapping[str, int] | None = None,
) -> Analysis:
    """Measure runs, compare each with every other, and look into those that re-rank the first pass's candidates.

    A run is a second pass if most of its documents, in the queries that both answer, are candidates of the first pass.
    It is then measured on all of these candidates: those that it does not return follow in the first pass's order
    (`second_pass.extended`). Any other run is measured as it is, and a note says so.

    Args:
        qrels: the judgements.
        runs: the baseline, then any others; their names must differ.
        measures: names of measures; the per-query parts are about the first of them.
        texts: the queries' texts by id.
        ms: milliseconds a query by name of run, whatever happens before included: a second pass's hold the first's.
        level: of the intervals.
        seed: same seed, same analysis.
        examples: queries to show that were helped, and that were hurt.
        first_pass: name of the run that found the candidates, which is then the baseline; "" for the first run, None
            if none of them did: two second passes are compared as equals.
        lengths: of documents, in characters by id, to say for which queries it hurts; any may be missing.

    Raises:
        InvalidInput: there is no run, two have one name, ms or first_pass names none of them, no query has a relevant
            document, or a measure is unknown.
        MissingExtra: ir_measures, scipy or scikit-learn is not installed.
    """
    _check_names([run.name for run in runs], ms or {}, first_pass)
    names = list(parsed(measures))
    if first_pass:
        runs = sorted(runs, key=lambda run: run.name != first_pass)
    first, others = runs[0], runs[1:]
    whole = {run.name: extended(first, run) for run in others if first_pass is not None and is_second_pass(first, run)}
    reports = tuple(evaluate(qrels, whole.get(run.name, run), names) for run in runs)
    # the same for every second pass: it depends on the judgements alone
    ideal = evaluate(qrels, ideal_run(qrels), names) if whole else reports[0]
    left_out = f"is no second pass of {first.name}: half of its documents or more are not among its candidates"
    primary = next((name for name in names if not any(isnan(report.means[name]) for report in reports)), names[0])
    properties = query_properties(first, reports[0].queries, texts, lengths, margins=first_pass is not None)
    found = _Findings(qrels, first, reports[0], ideal, primary, texts, ms or {}, seed, examples, level, properties)
    return Analysis(
        primary=primary,
        reports=reports,
        intervals={report.system: _intervals(report, level, seed) for report in reports},
        comparisons=compare(reports[0], reports[1:], level=level, seed=seed, all_pairs=True),
        second_passes=tuple(
            found.second_pass(run, whole[run.name], report)
            for run, report in zip(others, reports[1:], strict=True)
            if run.name in whole
        ),
        ms=ms,
        settings={
            "intervals": f"{level * 100:.6g}% bootstrap of the mean, {RESAMPLES} resamples",
            "tests": "paired by query: sign flips and t; Holm over all comparisons",
            "seed": str(seed),
            **({"first pass": _said_first(first.name, first_pass)} if others else {}),
            **({"judgements": qrels.origin} if qrels.origin else {}),
        },
        notes=(
            *filter(None, [qrels.origin_note]),
            *(f"{run.name} {left_out}" for run in others if run.name not in whole and first_pass is not None),
            *(["one query alone: its intervals and tests say nothing"] if reports[0].coverage.measured == 1 else []),
            *(["documents judged by several subtopics have the highest of their grades, except in measures over "
               "subtopics"] if qrels.subtopics else []),
        ),
        first_pass=None if first_pass is None else first.name,
        contrasts=tuple(found.contrasts(runs, whole, reports)),
        queries=query_ranks(qrels, [whole.get(run.name, run) for run in runs], reports[0].queries, texts=texts),
    )  # fmt: skip


def query_properties(
    first: Run,
    queries: Iterable[str],
    texts: Mapping[str, str] | None = None,
    lengths: Mapping[str, int] | None = None,
    *,
    margins: bool = True,
) -> dict[str, dict[str, float]]:
    """What queries are grouped by, by query where it is known: none of it looks at judgements.

    Length of the query in characters, mean length of its documents in `first`, and by how much the first of them has
    the higher score than the second, if `margins` are of interest.
    """
    found: dict[str, dict[str, float]] = {"query length": {}, "document length": {}, "score margin": {}}
    for query in queries:
        ranking = first.get(query, {})
        if texts and query in texts:
            found["query length"][query] = len(texts[query])
        if known := [lengths[document] for document in ranking if document in lengths] if lengths else []:
            found["document length"][query] = fmean(known)
        scores = [score for score in islice(ranking.values(), 2) if score is not None and isfinite(score)]
        if margins and len(scores) == 2:
            found["score margin"][query] = scores[0] - scores[1]
    return {name: values for name, values in found.items() if values}


def _said_first(name: str, given: str | None) -> str:
    if given is None:
        return "none of the runs"
    return name if given else f"{name}, as the first run given"


@dataclass(frozen=True, slots=True)
class _Findings:
    """What all second passes are looked at with."""

    qrels: Qrels
    first: Run
    report: Report
    ideal: Report
    primary: str
    texts: Mapping[str, str] | None
    ms: Mapping[str, float]
    seed: int
    examples: int
    level: float
    properties: Mapping[str, Mapping[str, float]]

    def second_pass(self, run: Run, whole: Run, report: Report) -> SecondPass:
        """Look into one run: as it came, extended by the other candidates, and measured so."""
        primary = self.primary
        before, after = self.report.values[primary], report.values[primary]
        helped, hurt = changes(self.qrels, self.first, whole, before, after, texts=self.texts, count=self.examples)
        ceiling = evaluate(self.qrels, ceiling_run(self.qrels, self.first, whole), report.measures)
        ties = over_ties(self.qrels, whole, report.measures, seed=self.seed, report=report)
        return SecondPass(
            system=run.name,
            headroom=headroom_of(self.report, report, ceiling, self.ideal),
            helped=helped,
            hurt=hurt,
            differences=differences_of(before, after),
            depth=self._depth(run, primary),
            distribution=distribution(self.qrels, run),
            thresholds=thresholds(self.qrels, run, level=self.level),
            reliability=reliability(self.qrels, run, level=self.level),
            ties=ties if any(each.tied_queries for each in ties) else (),
            notes=tuple(self._notes(run, report)),
            groupings=self._groupings(differences_of(before, after)),
        )

    def contrasts(self, runs: Sequence[Run], whole: Mapping[str, Run], reports: Sequence[Report]) -> Iterator[Contrast]:
        """Each run against each before it, but for second passes against the first."""
        measured = [whole.get(run.name, run) for run in runs]
        for later, (run, report) in enumerate(zip(measured, reports, strict=True)):
            for earlier, (other, before) in enumerate(zip(measured[:later], reports, strict=False)):
                if earlier or run.name not in whole:
                    values = before.values[self.primary], report.values[self.primary]
                    changed = changes(self.qrels, other, run, *values, texts=self.texts, count=self.examples)
                    yield Contrast(run.name, other.name, *changed, self._groupings(differences_of(*values)))

    def _groupings(self, differences: Mapping[str, float]) -> tuple[Grouping, ...]:
        return groupings(differences, self.properties, level=self.level, seed=self.seed)

    def _depth(self, run: Run, measure: str) -> DepthCurve:
        alone, both = self.ms.get(self.first.name), self.ms.get(run.name)
        known = None
        if alone is not None and both is not None and alone <= both:
            deepest = max(len(self.first.get(query, {})) for query in self.report.queries)
            known = {0: alone, deepest: both} if deepest else None
        return depth_curve(self.qrels, self.first, run, measure, ms_at=known)

    def _notes(self, run: Run, report: Report) -> Iterable[str]:
        answered = [query for query in self.report.queries if run.get(query)]
        if missing := sum(len(self.first.get(query, {}).keys() - run[query].keys()) for query in answered):
            yield f"{missing} candidates that it did not return follow the others in the first pass's order"
        if strange := outside(self.first, run):
            yield f"{strange} of its documents the first pass lacks; they keep their ranks, and the ceiling has them"
        if silent := sum(1 for query in report.coverage.unanswered if self.first.get(query)):
            yield f"{silent} queries that the first pass answers have no ranking here and count as empty"
        if self.ms.get(run.name, 0.0) < self.ms.get(self.first.name, 0.0) and run.name in self.ms:
            yield "its milliseconds are fewer than the first pass's alone, so none are given by depth"


def _check_names(names: list[str], ms: Mapping[str, float], first_pass: str | None) -> None:
    if not names:
        raise InvalidInput("runs is empty")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidInput(f"runs[{index}] has the name {name!r}, as runs[{names.index(name)}] has")
    for name in ms:
        if name not in names:
            raise InvalidInput(f"ms names {name!r}, which is none of the runs {', '.join(names)}")
    if first_pass and first_pass not in names:
        raise InvalidInput(f"first_pass={first_pass!r} is none of the runs {', '.join(names)}")


def _intervals(report: Report, level: float, seed: int) -> dict[str, Interval]:
    """Intervals of what the report calls its means; that of a count such as NumRet is a sum."""
    found = {}
    for name, by_query in report.values.items():
        if values := [value for value in by_query.values() if not isnan(value)]:
            interval = mean_interval(values, level, seed=seed)
            times = len(values) if name in report.sums else 1
            found[name] = Interval(interval.low * times, interval.high * times, level)
    return found
