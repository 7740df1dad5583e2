"""Which way to order candidates wins on queries that it was not fitted on, at which depth, and what it costs.

Every figure is of held-out queries: the labelled ones are cut into random halves again and again, each way is fitted
on one half and measured on the other, and so is the choice between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from secondpass.display import Kind, html_table
from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import Interval
from secondpass.evaluation.measures import scipy_stats
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import ladder
from secondpass.evaluation.statistics import effect_size, mean_interval, queries_needed
from secondpass.fusion import RERANKER, SkipRule, Tuned, overlap
from secondpass.text import positive_int, share, whole_number
from secondpass.tuning.contenders import NIL, Contender, Labelled, Rows, WeightedSum, certainty, contenders_of, weighed
from secondpass.tuning.probabilities import Doubles, fitted, halves

SPLITS = 200
FOLDS = 5
# How sure it must be, one-sided, that a dearer way is better than a cheaper one before it is recommended. At 0.9 a
# reranker that is better went unused on halves of 17 to 100 queries, and one that guesses is seldom taken at either.
SURE = 0.6
# The same, at least, between equally dear ways, and that a shallower depth or a query that is skipped loses little.
STRICT = 0.9
# With probability below this no order here has anything to do with the labels, were they drawn at random.
CHANCE = 1e-4
# What a shallower depth, or queries that are not reranked, may lose of a measure between 0 and 1: with that certainty
# it is no more.
MOST_LOST = 0.01
LEAST_SAVED = 0.1
FEWEST = 8
# A lead of a mean that is rounding.
LEAST_LEAD = 1e-6

ByName = Mapping[str, Doubles]


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
        splits: how often the queries were halved for it.
    """

    name: str
    fusion: str
    mean: float
    interval: Interval
    gain: float
    gain_interval: Interval
    certainty: float
    ms: float | None
    splits: int


@dataclass(frozen=True, slots=True)
class DepthChoice:
    """The mean measure by depth, and what the chosen depth loses on held-out halves against the deepest.

    The depth is held out; the weights are those that all labelled queries fit, so that means are a little high.
    """

    values: tuple[tuple[int, float], ...]
    chosen: int
    lost: float


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was found, and what is recommended.

    Attributes:
        measure, queries, splits, seed: of what, on how many labelled queries, how often halved; logistic regression
            only in the first 20 splits and trees in 10, and the choice where they are among the ways likewise.
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

    def _repr_html_(self) -> str:
        """A table of the ways for notebooks, with the verdicts below."""
        rows = [
            (one.name, one.fusion, f"{one.mean:.3f}", f"{one.interval.low:.3f} to {one.interval.high:.3f}",
             f"{one.gain:+.3f}", f"{math.floor(1000 * one.certainty) / 10:g}%")
            for one in (*self.outcomes, self.choice)
        ]  # fmt: skip
        names: list[tuple[str, Kind]] = [("way", "name"), ("fitted on all", "text"), (self.measure, "number")]
        names += [("interval", "number"), ("over the first pass", "number"), ("sure", "number")]
        note = " ".join((f"Recommended: {self.recommended}.", *self.verdicts))
        return html_table(names, rows, caption=f"Held out, over {self.queries} queries", note=note)


def tune(
    qrels: Qrels,
    runs: Sequence[Run],
    reranked: Run | None = None,
    *,
    measure: str = "nDCG@10",
    fields: Mapping[str, Mapping[str, float | None]] | None = None,
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
    be, with the certainty `sure`, and no cheaper one has a higher mean. Labels that no order has anything to do with
    recommend the first pass. Of equally dear ways, and of what depth or skipped queries lose, 0.9 is asked at least.

    Args:
        qrels: labels. Queries without a relevant document are out of every measure; where `reranked` has them, they
            count for the probabilities and the rule that says when nothing answers, with no candidate relevant.
        runs: first passes with their scores, the main one first.
        reranked: the reranker's logits of all their documents; None compares first passes alone.
        measure: as ir_measures names it; higher is better.
        fields: numbers by document of further inputs, by their names (recency, popularity).
        splits: how often the queries are halved, half of them each way.
        seed: same seed, same result.
        sure: see above; from 0.5 on.
        level: of the intervals.
        ms_a_document: what reranking one costs.
        model: the reranker's name.
        marks: its logits for sample pairs (`models.identity.marks_of`), by which it is known where this is applied.
        origin: where the labels come from; what `qrels` says of that where it is empty.

    Raises:
        InvalidInput: an argument is refused, there are fewer than eight labelled queries, or a candidate has no logit.
        MissingExtra: a package of the extra tune is not installed.
    """
    if share(sure, "sure") < 0.5:
        raise InvalidInput(f"sure={sure!r} is below 0.5, where a worse way would do")
    if positive_int(splits, "splits") < 2:
        raise InvalidInput(f"splits={splits!r} is below 2, which hold every query out")
    share(level, "level")
    labelled, origin = Labelled.of(qrels, runs, reranked, measure, fields), origin or qrels.origin
    count = len(labelled.queries)
    if count < FEWEST:
        raise InvalidInput(f"qrels has {count} queries with a relevant document; {FEWEST} are the fewest to halve")
    contest = _Contest(labelled, sure, whole_number(seed, "seed"), splits, level)
    tuned, depth = _tuned(contest, model)
    tuned, untold = _with_probabilities(labelled, replace(tuned, marks=None if marks is None else tuple(marks)), origin)
    found = Tuning(
        labelled.measure,
        count,
        splits,
        seed,
        tuple(_outcome(contest, one, ms_a_document) for one in contest.contenders),
        _outcome(contest, None, ms_a_document),
        contest.best.name,
        tuned,
        depth,
        _needed(contest),
        (*_verdicts(contest), *untold),
        origin,
        {name: dict(zip(labelled.queries, values.tolist(), strict=True)) for name, values in contest.held_out.items()},
    )
    return replace(found, tuned=replace(tuned, figures=figures_of(found)))


class _Contest:
    """Contenders on the same labelled queries.

    `held_out` is by name each query's mean over the splits in which it was held out, float64 [queries], with "choice"
    among them; `best` is what all queries together recommend, and `whole` each way as they fit it.
    """

    def __init__(self, labelled: Labelled, sure: float, seed: int, splits: int, level: float) -> None:
        self.labelled, self.contenders = labelled, contenders_of(labelled)
        self.sure, self.strict = sure, max(sure, STRICT)
        self.seed, self.splits, self.level = seed, splits, level
        self.fewest = min((one.splits for one in self.contenders if one.splits), default=splits)
        self.rows = np.arange(len(labelled.queries))
        self.chance = labelled.by_chance(seed)
        self.held_out = self._held_out()
        self.best = self.decided(self.held_out, self.rows)
        self.whole = {one.name: one.fit(self.rows) for one in self.contenders}

    def _held_out(self) -> dict[str, Doubles]:
        names = [*(one.name for one in self.contenders), "choice"]
        sums, times = ({name: np.zeros(len(self.rows)) for name in names} for _ in range(2))
        for number, (half, other) in enumerate(halves(len(self.rows), self.splits, self.seed)):
            ways = {one.name: one for one in self.contenders if one.splits is None or number < one.splits}
            if number < self.fewest:
                ways["choice"] = self.choice(half, number)
            for name, one in ways.items():
                sums[name][other] += self.labelled.values(one.fit(half), other)
                times[name][other] += 1
        return {name: sums[name] / times[name] for name in names}

    def choice(self, rows: Rows, seed: int) -> Contender:
        """What would be recommended had only these queries labels."""
        folds = np.array_split(np.random.default_rng([self.seed, seed]).permutation(rows), min(FOLDS, len(rows)))
        found = {one.name: np.zeros(len(self.rows)) for one in self.contenders}
        for fold, others in [(fold, np.setdiff1d(rows, fold)) for fold in folds]:
            for one in self.contenders:
                found[one.name][fold] = self.labelled.values(one.fit(others), fold)
        return self.decided(found, rows)

    def decided(self, held_out: ByName, rows: Rows) -> Contender:
        """The cheapest way, unless a dearer one is better by `sure`, and has at least the mean of every cheaper one.

        Which of equally dear ones that is, `of_cost` says. One that is better than the cheapest for sure may still be
        worse than a cheaper one in between whose gain was larger, but varied more.
        """
        best = self.contenders[0]
        if not self.has_signal(held_out, rows):
            return best
        for cost in sorted({one.cost for one in self.contenders} - {best.cost}):
            dearer = self.of_cost(cost, held_out, rows)
            if self.is_better(dearer, best, held_out, rows, self.sure) and self.above(dearer, held_out, rows) is None:
                best = dearer
        return best

    def above(self, one: Contender, held_out: ByName, rows: Rows) -> Contender | None:
        """The best of the cheaper ways, where its mean is higher."""
        cheaper = [other for other in self.contenders if other.cost < one.cost]
        best = max(cheaper, key=lambda other: float(held_out[other.name][rows].mean()), default=one)
        return best if float((held_out[best.name] - held_out[one.name])[rows].mean()) > LEAST_LEAD else None

    def of_cost(self, cost: int, held_out: ByName, rows: Rows) -> Contender:
        """Of equally dear ways the sum of scores, or the reranker alone, unless another is better for sure.

        On few labels the best of several is partly luck, as weights are: the sum must be better than the reranker, too.
        """
        level = [one for one in self.contenders if one.cost == cost]
        usual = [one for one in level if one.name == RERANKER or isinstance(one, WeightedSum)]
        best = [*usual, *level][0]
        for other in level:
            sure = self.sure if best.name == RERANKER and other in usual else self.strict
            if self.is_better(other, best, held_out, rows, sure):
                best = other
        return best

    def is_better(self, one: Contender, other: Contender, held_out: ByName, rows: Rows, by: float) -> bool:
        """Whether it is, as certain as that."""
        return certainty(held_out[one.name][rows] - held_out[other.name][rows]) >= by

    def has_signal(self, held_out: ByName, rows: Rows) -> bool:
        """Whether some way is better than random orders of the same candidates (Pearson's type III), beyond chance."""
        drawn = self.chance[:, rows]
        deviation = max(NIL, math.sqrt(float(drawn.var(axis=0, ddof=1).sum())))
        skewness = float(((drawn - drawn.mean(axis=0)) ** 3).mean(axis=0).sum()) / deviation**3
        most = max(float((held_out[one.name][rows] - drawn).sum()) for one in self.contenders) / len(drawn)
        return bool(scipy_stats().pearson3.sf(most / deviation, skewness) < CHANCE / len(self.contenders))


def _outcome(contest: _Contest, one: Contender | None, ms: float | None) -> HeldOut:
    name = "choice" if one is None else one.name
    values = contest.held_out[name]
    gains = values - contest.held_out[contest.contenders[0].name]
    sizes = np.mean([len(each.ids) for each in contest.labelled.candidates])
    read = name in contest.whole and RERANKER in contest.whole[name].inputs
    return HeldOut(
        name,
        "" if one is None else contest.whole[name].label,
        float(values.mean()),
        mean_interval(values, contest.level),
        float(gains.mean()),
        mean_interval(gains, contest.level),
        certainty(gains),
        None if ms is None or one is None else float(ms * sizes) if read else 0.0,
        min(contest.splits, (contest.fewest if one is None else one.splits) or contest.splits),
    )


def _tuned(contest: _Contest, model: str | None) -> tuple[Tuned, DepthChoice | None]:
    """What orders candidates, with depth and rule as the fusions that all labelled queries fit want them.

    Both together lose at most half of what is gained over the best way without a reranker.
    """
    labelled, after = contest.labelled, contest.whole[contest.best.name]
    if RERANKER not in after.inputs:
        return Tuned(labelled.asked(after), after, fields=labelled.fields), None
    cheap = _best_without(contest)
    gain = float((contest.held_out[contest.best.name] - contest.held_out[cheap.name]).mean())
    most = min(MOST_LOST, max(0.0, gain / 4))
    deepest = max(len(one.ids) for one in labelled.candidates)
    whole = Tuned(labelled.first, contest.whole[cheap.name], after, deepest, model=model, fields=labelled.fields)
    depth = _depth(contest, whole, most)
    chosen = replace(whole, depth=depth.chosen)
    chosen = replace(chosen, first=labelled.needed(chosen))
    return replace(chosen, skip=_skip(contest, chosen, most)), depth


def _best_without(contest: _Contest) -> Contender:
    """The way without a reranker of the highest mean, of equal ones the cheapest."""
    cheap = [one for one in contest.contenders if one.cost < 2]
    return max(cheap, key=lambda one: round(float(contest.held_out[one.name].mean()), 9))


def _with_probabilities(labelled: Labelled, tuned: Tuned, origin: str) -> tuple[Tuned, tuple[str, ...]]:
    """With probabilities of the documents that are reranked, or a sentence that says why there are none.

    They are those of a sum of fused score and logit, as a logistic regression weighs the two. Fused scores are those
    of `Labelled.unseen`: in practice no tree has seen the query.
    """
    if tuned.after is None:
        return tuned, ()
    fused, labels, owners = [], [], []
    fusions = dict(zip(labelled.queries, labelled.unseen(tuned.after, FOLDS), strict=True))
    every = dict(zip(labelled.queries, labelled.candidates, strict=True)) | {**labelled.unanswered}
    for query, one in every.items():
        own = replace(tuned, after=fusions.get(query, tuned.after), skip=None)
        read = own.to_read(one)
        best = own.order(one, read, one.scores[RERANKER][read])[: len(read)]
        fused += [(each.score, each.logit) for each in best]
        # whoever judges that a query has no answer says so of all its candidates
        labels += [labelled.qrels[query].get(each.id) if query in fusions else 0 for each in best]
        owners += [query] * len(best)
    columns = np.array(fused, np.float64).reshape(-1, 2)
    try:
        score, logit = weighed(columns, np.array([bool(grade and grade > 0) for grade in labels], np.bool_))
        sums = columns @ np.array([score, logit])
        made = fitted(sums.tolist(), labels, owners, origin=origin, model=tuned.model or "")
    except InvalidInput as error:
        return tuned, (f"No probabilities: {error}.",)
    silent = len({*owners} & labelled.unanswered.keys())
    told = f"{silent} queries without a relevant document are not measured; they count for probabilities."
    return replace(tuned, calibration=made, calibrated_by=(score, logit)), (told,) * (silent > 0)


def loss(differences: Doubles, sure: float) -> float:
    """What their mean is no more than, one-sided with that certainty (t-interval)."""
    count = len(differences)
    width = float(scipy_stats().t.ppf(sure, count - 1)) * float(differences.std(ddof=1)) / math.sqrt(count)
    return float(differences.mean()) + width


def _depth(contest: _Contest, whole: Tuned, most: float) -> DepthChoice:
    """The shallowest depth that loses no more, nor any that is deeper."""
    labelled, depths = contest.labelled, ladder(whole.depth)
    table = np.stack([labelled.measured(labelled.ordered(replace(whole, depth=depth))) for depth in depths])

    def shallowest(rows: Rows) -> int:
        found = len(depths) - 1
        while found and loss((table[-1] - table[found - 1])[rows], contest.strict) <= most:
            found -= 1
        return found

    lost = [
        float((table[-1] - table[shallowest(half)])[other].mean())
        for half, other in halves(len(contest.rows), contest.splits, contest.seed)
    ]
    means = tuple(zip(depths, table.mean(axis=1).tolist(), strict=True))
    return DepthChoice(means, depths[shallowest(contest.rows)], float(np.mean(lost)))


def _skip(contest: _Contest, tuned: Tuned, most: float) -> SkipRule | None:
    """The rule that leaves most queries to the first passes and loses no more; None where none does."""
    labelled = contest.labelled
    agreed = np.array([overlap(one, tuned.first) for one in labelled.candidates])
    unread = labelled.ordered(replace(tuned, depth=0))
    gains = labelled.measured(labelled.ordered(tuned)) - labelled.measured(unread)

    def least(rows: Rows) -> float:
        """The lowest threshold whose queries lose no more than that, over all of these rows, nor any above it."""
        order = rows[np.argsort(-agreed[rows], kind="stable")]
        count, steps = len(order), agreed[order]
        means, squares = np.cumsum(gains[order]) / count, np.cumsum(gains[order] ** 2) / count
        spread = np.sqrt(np.maximum(squares - means**2, 0.0) / (count - 1))
        fits = means + float(scipy_stats().t.ppf(contest.strict, count - 1)) * spread <= most
        ends = np.flatnonzero(np.append(np.diff(steps) != 0, True))
        kept = int(np.append(fits[ends], False).argmin())
        return float(steps[ends[kept - 1]]) if kept else math.inf

    saved, lost = [], []
    for half, other in halves(len(agreed), contest.splits, contest.seed):
        left = agreed[other] >= least(half)
        saved.append(float(left.mean()))
        lost.append(float(gains[other][left].sum()) / len(other))
    threshold = least(contest.rows)
    rule = SkipRule(threshold, float(np.mean(saved)), float(np.mean(lost))) if math.isfinite(threshold) else None
    return rule if rule and rule.saved >= LEAST_SAVED and rule.lost <= most else None


def _needed(contest: _Contest) -> int | None:
    """Queries at which the best way's lead would be certain with a power of four in five; None where it is chosen.

    They are what the paired t-test, one-sided, needs at `strict`.
    """
    best = contest.best
    top = max(contest.contenders, key=lambda one: float(contest.held_out[one.name].mean()))
    leads = contest.held_out[top.name] - contest.held_out[best.name]
    if leads.mean() <= LEAST_LEAD or contest.is_better(top, best, contest.held_out, contest.rows, contest.strict):
        return None
    effect = effect_size(leads)
    needed = None if effect is None else queries_needed(effect, 2 * (1 - contest.strict))
    return max(len(leads) + 1, needed or 0)


def _verdicts(contest: _Contest) -> Iterator[str]:
    labelled, held_out, best = contest.labelled, contest.held_out, contest.best
    first, sure = contest.contenders[0], f"with a certainty of {100 * contest.sure:g}%"
    if not contest.has_signal(held_out, contest.rows):
        yield (
            f"No order of the candidates is better than a random one beyond chance: these {len(contest.rows)} labelled "
            f"queries are too few, or say nothing about {labelled.measure}, and the first pass stays."
        )
        return
    costs = sorted({one.cost for one in contest.contenders})
    dearer = [contest.of_cost(cost, held_out, contest.rows) for cost in costs]
    if best is not first:
        own = f"{best.name} ({contest.whole[best.name].label}): {held_out[best.name].mean():.3f}"
        yield f"{own}, {_against(contest, best, first)} over the first pass on held-out halves."
    elif len(dearer) > 1:
        told = "; ".join(_why_not(contest, one, first) for one in dearer[1:])
        yield f"{first.name} stays: what would take its place must be better {sure}. {told}."
    if RERANKER in contest.whole[best.name].inputs:
        cheap = _best_without(contest)
        certain = contest.is_better(best, cheap, held_out, contest.rows, contest.strict)
        untold = "" if certain else f", which is not certain by {100 * contest.strict:g}%"
        yield f"The reranker adds {_against(contest, best, cheap)} to the best way without it, {cheap.name}{untold}."
    elif best.cost == 2:
        yield f"The reranker is not recommended: {best.name} gives it no weight."
    elif labelled.has_reranker and best is not first:
        yield f"The reranker is not recommended: {_why_not(contest, dearer[-1], best, f' better {sure}')}."
    if (needed := _needed(contest)) is not None:
        top = max(contest.contenders, key=lambda one: float(held_out[one.name].mean()))
        yield (
            f"Too few labels to tell {top.name} ({held_out[top.name].mean():.3f}) from {best.name}: "
            f"about {needed:,} queries would, were the difference what it seems."
        )


def _why_not(contest: _Contest, one: Contender, best: Contender, told: str = "") -> str:
    """What keeps a dearer way from taking the place of the best."""
    above = contest.above(one, contest.held_out, contest.rows)
    if above is not None and contest.is_better(one, best, contest.held_out, contest.rows, contest.sure):
        return f"{one.name}, {_against(contest, one, above)}, is below {above.name}, which is cheaper"
    return f"{one.name}, {_against(contest, one, best)}, is not{told}"


def _against(contest: _Contest, one: Contender, other: Contender) -> str:
    """How much better it is: "+0.023 (+0.005 to +0.043)"."""
    leads = contest.held_out[one.name] - contest.held_out[other.name]
    interval = mean_interval(leads, contest.level)
    return f"{leads.mean():+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


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
