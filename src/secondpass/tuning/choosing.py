"""Which way to order candidates wins on queries that it was not fitted on, at which depth, and what it costs.

Every figure is of held-out queries: the labelled ones are cut into random halves again and again, each way is fitted
on one half and measured on the other, and so is the choice between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import Interval
from secondpass.evaluation.measures import scipy_stats
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import ladder
from secondpass.evaluation.statistics import mean_interval
from secondpass.fusion import RERANKER, SkipRule, Tuned, overlap
from secondpass.text import positive_int, share
from secondpass.tuning.contenders import Contender, Doubles, Labelled, Rows, WeightedSum, contenders_of, weighed
from secondpass.tuning.probabilities import fitted

SPLITS = 200
FOLDS = 5
# How sure it must be, one-sided, that a dearer way is better than a cheaper one before it is recommended.
SURE = 0.9
# With probability below this no order here has anything to do with the labels, were they drawn at random.
CHANCE = 1e-4
# What a shallower depth, or queries that are not reranked, may lose of a measure between 0 and 1: with that certainty
# it is no more.
MOST_LOST = 0.01
LEAST_SAVED = 0.1
# Of the queries that differences would be told apart in, as `evaluation` plans them.
POWER = 0.8
FEWEST = 8


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How one way did on held-out halves.

    Attributes:
        name: of the way.
        fusion: its weights, fitted on all labelled queries, in words.
        mean, interval: of the measure.
        gain, gain_interval: over the first pass, paired by query.
        certainty: that the gain is above 0, one-sided (paired t-test).
        ms: milliseconds a query that the reranker takes; None where that is not known.
    """

    name: str
    fusion: str
    mean: float
    interval: Interval
    gain: float
    gain_interval: Interval
    certainty: float
    ms: float | None


@dataclass(frozen=True, slots=True)
class DepthChoice:
    """The mean measure by depth, and what the chosen depth loses on held-out halves against the deepest."""

    values: tuple[tuple[int, float], ...]
    chosen: int
    lost: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found, and what is recommended.

    Attributes:
        measure, queries, splits, seed: of what, on how many labelled queries, how often halved.
        outcomes: the ways that were compared, the cheapest first.
        choice: the choice between them, itself made on one half and measured on the other.
        recommended: name of the way.
        tuned: the same as what orders candidates.
        depth: None where nothing is reranked.
        needed: about how many labelled queries would tell the best way from the recommended one; None where it is that.
        verdicts: what was decided and why, a sentence each.
        origin: where the labels come from; people where it is empty.
        held_out: the measure of each query when it was held out, by the name of the way, "choice" among them.
    """

    measure: str
    queries: int
    splits: int
    seed: int
    outcomes: tuple[HeldOut, ...]
    choice: HeldOut
    recommended: str
    tuned: Tuned
    depth: DepthChoice | None
    needed: int | None
    verdicts: tuple[str, ...]
    origin: str
    held_out: Mapping[str, Mapping[str, float]]


def tune(
    qrels: Qrels,
    runs: Sequence[Run],
    reranked: Run | None = None,
    *,
    measure: str = "nDCG@10",
    fields: Mapping[str, Mapping[str, float]] | None = None,
    splits: int = SPLITS,
    seed: int = 0,
    sure: float = SURE,
    level: float = 0.95,
    ms_a_document: float | None = None,
    model: str | None = None,
    marks: Sequence[float] | None = None,
    origin: str = "",
) -> Tuning:
    """Choose how to order candidates.

    A dearer way (other first passes; a reranker) is recommended only where it is better than the cheaper one that would
    be, with the certainty `sure`. Labels that no order has anything to do with recommend the first pass.

    Args:
        qrels: labels; queries without a relevant document say nothing here.
        runs: first passes with their scores, the main one first.
        reranked: the reranker's logits of all their documents; None compares first passes alone.
        measure: as ir_measures names it; higher is better.
        fields: numbers by document of further inputs, by their names (recency, popularity).
        splits: how often the queries are halved, half of them each way.
        seed: same seed, same result.
        sure: see above.
        level: of the intervals.
        ms_a_document: what reranking one costs.
        model: the reranker's name.
        marks: its logits for sample pairs (`models.identity.marks_of`), by which it is known where this is applied.
        origin: where the labels come from.

    Raises:
        InvalidInput: an argument is refused, there are fewer than eight labelled queries, or a candidate has no logit.
        MissingExtra: a package of the extra tune is not installed.
    """
    share(sure, "sure")
    positive_int(splits, "splits")
    labelled = Labelled.of(qrels, runs, reranked, measure, fields)
    count = len(labelled.queries)
    if count < FEWEST:
        raise InvalidInput(f"qrels has {count} queries with a relevant document; {FEWEST} are the fewest to halve")
    contest = _Contest(labelled, sure, seed)
    held_out = contest.held_out(splits)
    best = contest.decided(held_out, np.arange(count))
    outcomes = tuple(_held_out(contest, one, held_out, level, ms_a_document) for one in contest.contenders)
    choice = _held_out(contest, None, held_out, level, ms_a_document)
    tuned, depth = _tuned(contest, best, held_out, splits, model)
    tuned, untold = _with_probabilities(labelled, replace(tuned, marks=None if marks is None else tuple(marks)), origin)
    names = {query: row for row, query in enumerate(labelled.queries)}
    found = Tuning(
        measure,
        count,
        splits,
        seed,
        outcomes,
        choice,
        best.name,
        tuned,
        depth,
        _needed(held_out, best, contest),
        (),
        origin,
        {name: {query: float(values[row]) for query, row in names.items()} for name, values in held_out.items()},
    )
    found = replace(found, verdicts=(*_verdicts(found, contest, held_out, best), *untold))
    return replace(found, tuned=replace(tuned, figures=figures_of(found)))


def halves(count: int, splits: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Random halves of so many rows, each way: (fitted on, measured on)."""
    rng = np.random.default_rng(seed)
    for number in range(splits):
        if number % 2 == 0:
            order = rng.permutation(count)
            one, other = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
        else:
            one, other = other, one
        yield one, other


class _Contest:
    """Contenders on the same labelled queries."""

    def __init__(self, labelled: Labelled, sure: float, seed: int) -> None:
        self.labelled = labelled
        self.contenders = contenders_of(labelled)
        self.sure = sure
        self.seed = seed
        self.chance = labelled.by_chance(seed)

    def held_out(self, splits: int) -> dict[str, Doubles]:
        """By name each query's mean over the splits in which it was held out, float64 [queries]; "choice" too."""
        count = len(self.labelled.queries)
        names = [*(one.name for one in self.contenders), "choice"]
        sums, times = ({name: np.zeros(count) for name in names} for _ in range(2))
        fewest = min((one.splits for one in self.contenders if one.splits), default=splits)
        for number, (half, other) in enumerate(halves(count, splits, self.seed)):
            open_ = [one for one in self.contenders if one.splits is None or number < one.splits]
            rows = {one.name: self.labelled.values(one.fit(half))[other] for one in open_}
            if number < fewest:
                rows["choice"] = self.labelled.values(self.choice(half, number).fit(half))[other]
            for name, values in rows.items():
                sums[name][other] += values
                times[name][other] += 1
        return {name: sums[name] / np.maximum(times[name], 1) for name in names}

    def choice(self, rows: Rows, seed: int) -> Contender:
        """What would be recommended had only these queries labels."""
        folds = np.array_split(np.random.default_rng([self.seed, seed]).permutation(rows), min(FOLDS, len(rows)))
        found = {one.name: np.zeros(len(self.chance)) for one in self.contenders}
        for fold in folds:
            others = np.setdiff1d(rows, fold)
            for one in self.contenders:
                found[one.name][fold] = self.labelled.values(one.fit(others))[fold]
        return self.decided(found, rows)

    def decided(self, held_out: Mapping[str, Doubles], rows: Rows) -> Contender:
        """The cheapest way, unless a dearer one is better for sure.

        Of equally dear ones it is the sum, which the others are cases of, unless another is better than it for sure: on
        few labels the best of several is partly luck.
        """
        best = self.contenders[0]
        if not self.has_signal(held_out, rows):
            return best
        for cost in sorted({one.cost for one in self.contenders} - {best.cost}):
            level = [one for one in self.contenders if one.cost == cost]
            dearer = next((one for one in reversed(level) if isinstance(one, WeightedSum)), level[0])
            for other in level:
                if self.is_better(other, dearer, held_out, rows):
                    dearer = other
            if self.is_better(dearer, best, held_out, rows):
                best = dearer
        return best

    def is_better(self, one: Contender, other: Contender, held_out: Mapping[str, Doubles], rows: Rows) -> bool:
        """Whether it is, as certain as is asked for."""
        return certainty(held_out[one.name][rows] - held_out[other.name][rows]) >= self.sure

    def has_signal(self, held_out: Mapping[str, Doubles], rows: Rows) -> bool:
        """Whether some way is better than random orders of the same candidates, beyond chance."""
        sure = 1 - CHANCE / len(self.contenders)
        return any(certainty((held_out[one.name] - self.chance)[rows]) >= sure for one in self.contenders)


def certainty(differences: Doubles) -> float:
    """One-sided confidence of a paired t-test that their mean is above 0; 0 where none differs."""
    if len(differences) < 2 or not differences.any():
        return 0.0
    if np.ptp(differences) < 1e-12:
        return float(differences[0] > 0)
    return float(1 - scipy_stats().ttest_1samp(differences, 0.0, alternative="greater").pvalue)


def loss(differences: Doubles, sure: float) -> float:
    """What their mean is no more than, one-sided with that certainty (t-interval)."""
    count = len(differences)
    if np.ptp(differences) < 1e-12:
        return float(differences[0])
    width = float(scipy_stats().t.ppf(sure, count - 1)) * float(differences.std(ddof=1)) / math.sqrt(count)
    return float(differences.mean()) + width


def _held_out(
    contest: _Contest, one: Contender | None, held_out: Mapping[str, Doubles], level: float, ms: float | None
) -> HeldOut:
    values = held_out["choice" if one is None else one.name]
    gains = values - held_out[contest.contenders[0].name]
    rows = np.arange(len(values))
    sizes = np.mean([len(each.ids) for each in contest.labelled.candidates])
    read = one is not None and one.cost == 2
    return HeldOut(
        "choice" if one is None else one.name,
        "" if one is None else one.fit(rows).label,
        float(values.mean()),
        mean_interval(values, level),
        float(gains.mean()),
        mean_interval(gains, level),
        certainty(gains),
        (float(ms * sizes) if read else 0.0) if ms is not None and one is not None else None,
    )


def _tuned(
    contest: _Contest, best: Contender, held_out: Mapping[str, Doubles], splits: int, model: str | None
) -> tuple[Tuned, DepthChoice | None]:
    labelled = contest.labelled
    rows = np.arange(len(labelled.queries))
    if best.cost < 2 and best.fit(rows).inputs and RERANKER not in best.fit(rows).inputs:
        return Tuned(labelled.first, best.fit(rows), fields=labelled.fields), None
    cheap = [one for one in contest.contenders if one.cost < 2]
    before = max(cheap, key=lambda one: round(float(held_out[one.name].mean()), 9)).fit(rows)
    deepest = max(len(one.ids) for one in labelled.candidates)
    whole = Tuned(labelled.first, before, best.fit(rows), deepest, model=model, fields=labelled.fields)
    depth = _depth(labelled, whole, splits, contest.seed, contest.sure)
    chosen = replace(whole, depth=depth.chosen)
    return replace(chosen, skip=_skip(labelled, chosen, splits, contest.seed, contest.sure)), depth


def _ordered(labelled: Labelled, tuned: Tuned) -> list[Rows]:
    made = []
    for one in labelled.candidates:
        read = tuned.to_read(one)
        made.append(np.array([fused.index for fused in tuned.order(one, read, one.scores[RERANKER][read])], np.intp))
    return made


def _with_probabilities(labelled: Labelled, tuned: Tuned, origin: str) -> tuple[Tuned, tuple[str, ...]]:
    """With probabilities of the documents that are reranked, or a sentence that says why there are none.

    They are those of a sum of fused score and logit, as a logistic regression weighs the two.
    """
    if tuned.after is None:
        return tuned, ()
    fused, labels, owners = [], [], []
    for query, one in zip(labelled.queries, labelled.candidates, strict=True):
        read = replace(tuned, skip=None).to_read(one)
        best = tuned.order(one, read, one.scores[RERANKER][read])[: len(read)]
        fused += [(each.score, each.logit) for each in best]
        labels += [labelled.qrels[query].get(each.id) for each in best]
        owners += [query] * len(best)
    columns = np.array(fused, np.float64).reshape(-1, 2)
    try:
        score, logit = weighed(columns, np.array([bool(grade and grade > 0) for grade in labels], np.bool_))
        sums = columns @ np.array([score, logit])
        made = fitted(sums.tolist(), labels, owners, origin=origin, model=tuned.model or "")
    except InvalidInput as error:
        return tuned, (f"No probabilities: {error}.",)
    return replace(tuned, calibration=made, calibrated_by=(score, logit)), ()


def _depth(labelled: Labelled, whole: Tuned, splits: int, seed: int, sure: float) -> DepthChoice:
    """The shallowest depth that loses nothing to speak of."""
    depths = ladder(whole.depth)
    table = np.stack([labelled.measured_orders(_ordered(labelled, replace(whole, depth=depth))) for depth in depths])

    def shallowest(rows: npt.NDArray[np.intp]) -> int:
        return next(place for place, row in enumerate(table) if loss((table[-1] - row)[rows], sure) <= MOST_LOST)

    lost = [
        float((table[-1] - table[shallowest(half)])[other].mean())
        for half, other in halves(table.shape[1], splits, seed)
    ]
    chosen = depths[shallowest(np.arange(table.shape[1]))]
    return DepthChoice(tuple(zip(depths, map(float, table.mean(axis=1)), strict=True)), chosen, float(np.mean(lost)))


def _skip(labelled: Labelled, tuned: Tuned, splits: int, seed: int, sure: float) -> SkipRule | None:
    """The rule that leaves most queries to the first passes and loses nothing to speak of; None where none does."""
    agreed = np.array([overlap(one, labelled.first) for one in labelled.candidates])
    gains = labelled.measured_orders(_ordered(labelled, tuned)) - labelled.values(tuned.before)
    steps = np.unique(agreed)[::-1]

    def least(rows: Rows) -> float:
        """The lowest threshold whose queries lose no more than that, over all of these rows."""
        found = math.inf
        for step in steps:
            if loss(np.where(agreed[rows] >= step, gains[rows], 0.0), sure) > MOST_LOST:
                break
            found = float(step)
        return found

    saved, lost = [], []
    for half, other in halves(len(agreed), splits, seed):
        left = agreed[other] >= least(half)
        saved.append(float(left.mean()))
        lost.append(float(gains[other][left].sum()) / len(other))
    threshold = least(np.arange(len(agreed)))
    rule = SkipRule(threshold, float(np.mean(saved)), float(np.mean(lost)))
    return rule if math.isfinite(threshold) and rule.saved >= LEAST_SAVED and rule.lost <= MOST_LOST else None


def _needed(held_out: Mapping[str, Doubles], best: Contender, contest: _Contest) -> int | None:
    """Queries at which the best way's lead would be certain with a power of four in five; None where it is chosen."""
    top = max(contest.contenders, key=lambda one: float(held_out[one.name].mean()))
    leads = held_out[top.name] - held_out[best.name]
    if top.name == best.name or leads.mean() <= 0:
        return None
    normal = NormalDist()
    size = (normal.inv_cdf(contest.sure) + normal.inv_cdf(POWER)) * float(leads.std(ddof=1)) / float(leads.mean())
    return max(len(leads) + 1, math.ceil(size**2))


def _verdicts(found: Tuning, contest: _Contest, held_out: Mapping[str, Doubles], best: Contender) -> Iterator[str]:
    first = contest.contenders[0]
    rows = np.arange(found.queries)
    if not contest.has_signal(held_out, rows):
        yield (
            f"No order of the candidates is better than a random one beyond chance: these labels say nothing about "
            f"{found.measure}, and the first pass stays."
        )
        return
    top = max(found.outcomes, key=lambda one: one.mean)
    if best is first:
        yield f"{first.name} stays: no other way is better with a certainty of {contest.sure:.0%}."
    else:
        own = next(one for one in found.outcomes if one.name == best.name)
        yield (
            f"{best.name} ({own.fusion}): {own.mean:.3f}, {own.gain:+.3f} over the first pass "
            f"({own.gain_interval.low:+.3f} to {own.gain_interval.high:+.3f}) on held-out halves."
        )
    if best.cost == 2:
        cheap = max((one for one in contest.contenders if one.cost < 2), key=lambda one: held_out[one.name].mean())
        lead = mean_interval(held_out[best.name] - held_out[cheap.name])
        mean = float((held_out[best.name] - held_out[cheap.name]).mean())
        within = f"({lead.low:+.3f} to {lead.high:+.3f})"
        yield f"The reranker adds {mean:+.3f} {within} to the best way without it, {cheap.name}."
    elif found.outcomes[-1].ms is not None or contest.labelled.has_reranker:
        yield "The reranker is not recommended: what it adds was not told from chance."
    if found.needed is not None:
        yield (
            f"Too few labels to tell {top.name} ({top.mean:.3f}) from {best.name}: "
            f"about {found.needed:,} queries would, were the difference what it seems."
        )


def figures_of(found: Tuning) -> dict[str, object]:
    """What a file or a card tells of it."""
    return {
        "measure": found.measure,
        "queries": found.queries,
        "splits": found.splits,
        "seed": found.seed,
        "origin": found.origin,
        "recommended": found.recommended,
        "outcomes": [asdict(one) for one in (*found.outcomes, found.choice)],
        "depth": None if found.depth is None else asdict(found.depth),
        "verdicts": list(found.verdicts),
    }
