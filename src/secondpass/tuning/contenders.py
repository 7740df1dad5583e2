"""Labelled queries that are measured many times, and the ways to order their candidates that are compared on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate, over_subtopics, parsed, scipy_stats
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import counted
from secondpass.fusion import RERANKER, Candidates, Fusion, Tuned, features
from secondpass.lazy import optional

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

linear = partial(optional, "sklearn.linear_model", "scikit-learn", "tune")
lightgbm = partial(optional, "lightgbm", "LightGBM", "tune")

# Weights are tenths, of many inputs fifths or more: so many sums are measured at most.
MOST_SUMS = 300
STEPS = (10, 5, 4, 3, 2, 1)
# How far weights are drawn to equal ones, whose prior they have: a gain of this over the number of queries for a step
# of 1. On few labels the best weights are partly luck.
DRAWN = 1.0
# Fewer labelled queries say nothing about a model with so many degrees of freedom.
ENOUGH_FOR_LOGISTIC = 100
ENOUGH_FOR_TREES = 300
RANDOM_ORDERS = 100  # of 20, what has a probability of 1 in 10,000 comes 3 to 12 times
# Those two are slow: more fits change a mean of held-out values little, and more documents a dozen weights.
MOST_SPLITS = 20
MOST_SPLITS_OF_TREES = 10
MOST_ROWS = 30_000
# Differences of a query, and of means, that are rounding.
NIL = 1e-12


@dataclass(frozen=True, slots=True)
class Labelled:
    """Queries with a relevant document, their candidates and judgements, and the measure of an order.

    `first` names the first passes, the main one first, `fields` the documents' fields; `has_reranker` says whether all
    candidates have its logit, `most` how many documents the measure looks at. `unanswered` are the candidates of judged
    queries that have no relevant document, where the reranker read them: no measure is of those.
    """

    queries: tuple[str, ...]
    candidates: tuple[Candidates, ...]
    qrels: Qrels
    measure: str
    first: tuple[str, ...]
    fields: tuple[str, ...]
    has_reranker: bool
    most: int | None
    unanswered: Mapping[str, Candidates] = field(repr=False)
    _runs: Sequence[Run] = field(repr=False)
    _alike: tuple[npt.NDArray[np.integer], ...] = field(repr=False)
    _known: dict[tuple[object, ...], Doubles] = field(default_factory=dict, repr=False)
    _worths: dict[tuple[int, bytes], float] = field(default_factory=dict, repr=False)
    _found: dict[tuple[int, tuple[str, ...]], Rows] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        qrels: Qrels,
        runs: Sequence[Run],
        reranked: Run | None,
        measure: str,
        fields: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> Labelled:
        """Out of first passes, the main one first, and the reranker's logits of all their documents.

        Raises:
            InvalidInput: there is no run, two have one name, a candidate has no logit, no query has a relevant
                document, or none of those has a candidate; the message names it.
        """
        ((measure, wanted),) = parsed([measure]).items()
        names = [run.name for run in runs]
        taken = [*names, RERANKER, *(fields or {})]
        if not runs or len(set(taken)) < len(taken):
            raise InvalidInput(f"runs and fields must have different names, at least one run: {', '.join(taken)}")
        queries = tuple(qrels.with_relevant)
        if not queries:
            raise InvalidInput("qrels has no query with a relevant document")

        def candidates(query: str) -> Candidates:
            one = Candidates.of({run.name: run.get(query, {}).items() for run in runs}, fields)
            return one if reranked is None else one.with_logits(_logits(query, one, reranked))

        made = [candidates(query) for query in queries]
        silent = {one: candidates(one) for one in qrels if one in (reranked or ()) and one not in set(queries)}
        if not any(one.ids for one in made):
            raise InvalidInput(f"runs have no document for any query with a relevant one: {queries[0]!r} and others")
        judged = qrels.only(set(queries))
        apart = over_subtopics(wanted)
        alike = tuple(_alike(one.ids, {} if apart else qrels[query], apart)
                      for query, one in zip(queries, made, strict=True))  # fmt: skip
        given = tuple(names), tuple(fields or ()), reranked is not None
        return cls(queries, tuple(made), judged, measure, *given, counted(wanted), silent, runs, alike)

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that can be summed."""
        return (*self.first, *((RERANKER,) if self.has_reranker else ()), *self.fields)

    def measured(self, orders: Sequence[Rows], rows: Rows | None = None) -> Doubles:
        """The measure of these queries, all by default, for rows of their candidates, best first; float64 [queries].

        Documents with the same judgement are worth the same, so what was measured before is looked up.
        """
        numbers = range(len(self.queries)) if rows is None else rows.tolist()
        orders = [order[: self.most] for order in orders]
        keys = [(row, self._alike[row][order].tobytes()) for row, order in zip(numbers, orders, strict=True)]
        new = {self.queries[key[0]]: (key, order) for key, order in zip(keys, orders, strict=True)
               if key not in self._worths}  # fmt: skip
        if new:
            names = {query: self.candidates[key[0]].ids for query, (key, _) in new.items()}
            run = Run("tuned", {query: [(names[query][row], None) for row in order.tolist()]
                                for query, (_, order) in new.items()})  # fmt: skip
            for query, value in evaluate(self.qrels.only(new), run, [self.measure]).values[self.measure].items():
                if math.isnan(value):
                    raise InvalidInput(f"measure={self.measure!r} has no value for query {query!r}")
                self._worths[new[query][0]] = value
        return np.array([self._worths[key] for key in keys])

    def best(self, scores: Doubles) -> Rows:
        """Rows by their scores, as many as the measure looks at; equal ones in their order."""
        most = self.most
        if most is None or most >= len(scores):
            return np.argsort(-scores, kind="stable")
        least = np.partition(scores, len(scores) - most)[len(scores) - most]
        rows = np.flatnonzero(scores >= least)
        return rows[np.argsort(-scores[rows], kind="stable")]

    def asked(self, fusion: Fusion) -> tuple[str, ...]:
        """The first passes that a fusion needs: all where a reranker or a field may put any candidate first.

        Otherwise those with a weight: what only the others find is ordered by nothing.
        """
        own = tuple(name for name in self.first if name in fusion.inputs)
        return own if own and set(own) == set(fusion.inputs) else self.first

    def order(self, fusion: Fusion, row: int) -> Rows:
        """A query's candidates in a fusion's order, of the first passes that it needs, as if no other were asked."""
        scores, asked = fusion.scores(self.candidates[row]), self.asked(fusion)
        if asked == self.first:
            return self.best(scores)
        if (row, asked) not in self._found:
            places = {name: place for place, name in enumerate(self.candidates[row].ids)}
            lists = {run.name: run.get(self.queries[row], {}).items() for run in self._runs if run.name in asked}
            self._found[row, asked] = np.array([places[name] for name in Candidates.of(lists).ids], np.intp)
        found = self._found[row, asked]
        return found[self.best(scores[found])]

    def values(self, fusion: Fusion, rows: Rows) -> Doubles:
        """The measure of these queries in a fusion's order, float64 [rows]; computed once."""
        key = (fusion.method, *fusion.weights.items(), fusion.trees)
        known = self._known.setdefault(key, np.full(len(self.queries), np.nan))
        new = rows[np.isnan(known[rows])]
        if len(new):
            known[new] = self.measured([self.order(fusion, row) for row in new.tolist()], new)
        return known[rows]

    def ordered(self, tuned: Tuned, *, unanswered: bool = False) -> list[Rows]:
        """The candidates of each query, all first passes asked, as they are ordered; perhaps of the unanswered too."""
        made = []
        for one in (*self.candidates, *(self.unanswered.values() if unanswered else ())):
            read = tuned.to_read(one)
            made.append(tuned.ranked(one, read, one.scores[RERANKER][read])[0])
        return made

    def needed(self, tuned: Tuned) -> tuple[str, ...]:
        """The first passes that have a weight, and those that alone found something that is read or measured."""
        weighted = {*tuned.before.inputs, *(tuned.after or tuned.before).inputs} & {*self.first}
        needed, seen = weighted, None if self.most is None else max(self.most, tuned.depth)
        every = (*self.candidates, *self.unanswered.values())
        for one, order in zip(every, self.ordered(tuned, unanswered=True), strict=True):
            there = {name: ~np.isnan(one.scores[name][order[:seen]]) for name in self.first}
            alone = ~np.any([there[name] for name in weighted], axis=0)
            needed = needed | {name for name in self.first if (there[name] & alone).any()}
        return tuple(name for name in self.first if name in needed)

    def unseen(self, fusion: Fusion, folds: int) -> list[Fusion]:
        """The fusion for each query; trees, which know by heart what they were fitted on, are others that lack it."""
        every = np.arange(len(self.queries))
        made = [fusion] * len(every)
        for fold in np.array_split(np.random.default_rng(0).permutation(every), folds) if fusion.trees else ():
            others = LambdaMart(fusion.method, 2, self).fit(np.setdiff1d(every, fold))
            for row in fold.tolist():
                made[row] = others
        return made

    def by_chance(self, seed: int) -> Doubles:
        """Random orders of each query's candidates, measured; float64 [orders, queries]."""
        rng = np.random.default_rng(seed)
        orders = ([self.best(rng.random(len(one.ids))) for one in self.candidates] for _ in range(RANDOM_ORDERS))
        return np.stack([self.measured(order) for order in orders])

    def enough(self, rows: Rows) -> list[int]:
        """Some of these queries, drawn, so that they have not many more candidates than change a dozen weights."""
        drawn = np.random.default_rng(0).permutation(rows)
        before = np.cumsum([0, *(len(self.candidates[row].ids) for row in drawn.tolist())])[:-1]
        kept: list[int] = np.sort(drawn[before < MOST_ROWS]).tolist()
        return kept

    def relevant(self, row: int) -> npt.NDArray[np.int64]:
        """Grades of a query's candidates, 0 where nobody judged them; int [documents]."""
        grades = self.qrels[self.queries[row]]
        return np.array([max(0, grades.get(document, 0)) for document in self.candidates[row].ids], np.int64)


def _alike(ids: Sequence[str], grades: Mapping[str, int], apart: bool) -> npt.NDArray[np.integer]:
    """Numbers that documents with the same judgement share; its own of each where they are to be told apart."""
    if apart:
        return np.arange(len(ids))
    levels: dict[int | None, int] = {}
    made = np.array([levels.setdefault(grades.get(document), len(levels)) for document in ids], np.intp)
    return made.astype(np.uint8) if len(levels) < 256 else made


def _logits(query: str, candidates: Candidates, reranked: Run) -> Doubles:
    scores = reranked.get(query, {})
    made = np.array([np.nan if (value := scores.get(one)) is None else value for one in candidates.ids], np.float64)
    if not np.isfinite(made).all():
        document = candidates.ids[int((~np.isfinite(made)).argmax())]
        raise InvalidInput(f"{reranked.name} has no score for document {document!r} of query {query!r}, a candidate")
    return made


class Contender(Protocol):
    """A way to order candidates that may learn from labelled queries.

    `cost` is 0 for the first pass alone, 1 where other first passes are asked too, 2 where a reranker reads.
    """

    name: str
    cost: int
    splits: int | None

    def fit(self, rows: Rows) -> Fusion:
        """The fusion that these queries are best ordered by."""


@dataclass(slots=True)
class Fixed:
    """One that learns nothing."""

    name: str
    cost: int
    fusion: Fusion
    splits: int | None = None

    def fit(self, rows: Rows) -> Fusion:
        """Always the same."""
        return self.fusion


@dataclass(slots=True)
class WeightedSum:
    """The weights of `sums_of` whose mean over the queries is the highest; of equal means those nearest to equal."""

    name: str
    cost: int
    labelled: Labelled
    inputs: tuple[str, ...]
    splits: int | None = None
    _sums: list[Fusion] = field(default_factory=list, repr=False)
    _table: Doubles | None = field(default=None, repr=False)
    _far: Doubles = field(default_factory=lambda: np.zeros(0), repr=False)

    def fit(self, rows: Rows) -> Fusion:
        """See the class."""
        if self._table is None:
            self._sums = list(sums_of(self.inputs))
            every = np.arange(len(self.labelled.queries))
            self._table = np.stack([self.labelled.values(one, every) for one in self._sums])
            even = 1 / len(self.inputs)
            self._far = np.array([sum((weight - even) ** 2 for weight in one.weights.values()) for one in self._sums])
        means = self._table[:, rows].mean(axis=1) - DRAWN / len(rows) * self._far
        best = np.flatnonzero(means >= means.max() - 1e-12)
        return self._sums[int(best[np.argmin(self._far[best])])]


def sums_of(inputs: Sequence[str]) -> Iterator[Fusion]:
    """Weighted sums with all weights that make 1 in steps of a tenth, or of the next part that makes not too many."""
    many = len(inputs) - 1
    steps = next((one for one in STEPS if math.comb(one + many, many) <= MOST_SUMS), 1)

    def parts(left: int, places: int) -> Iterator[tuple[int, ...]]:
        if places == 1:
            yield (left,)
            return
        for one in range(left + 1):
            for others in parts(left - one, places - 1):
                yield (one, *others)

    for weights in parts(steps, len(inputs)):
        yield Fusion("weighted", {name: weight / steps for name, weight in zip(inputs, weights, strict=True)})


@dataclass(slots=True)
class Logistic:
    """A sum whose weights are those of a logistic regression on the candidates' labels; fields may count against."""

    name: str
    cost: int
    labelled: Labelled
    splits: int | None = MOST_SPLITS

    def fit(self, rows: Rows) -> Fusion:
        """See the class."""
        inputs, fitted = self.labelled.inputs, self.labelled.enough(rows)
        given = np.concatenate([features(self.labelled.candidates[row], inputs)[:, : len(inputs)] for row in fitted])
        labels = np.concatenate([self.labelled.relevant(row) > 0 for row in fitted])
        found = np.array(weighed(given, labels))
        # to one size, so that weights can be compared; the order is the same
        scale = float(np.abs(found).sum()) or 1.0
        return Fusion("weighted", {name: float(one) / scale for name, one in zip(inputs, found, strict=True)})


def weighed(given: Doubles, labels: npt.NDArray[np.bool_]) -> tuple[float, ...]:
    """The weights of a logistic regression, of columns [rows, columns]; equal ones where all labels are."""
    if labels.all() or not labels.any():
        return tuple(1.0 for _ in range(given.shape[1]))
    found: list[float] = linear().LogisticRegression(C=10.0, solver="liblinear").fit(given, labels).coef_[0].tolist()
    return tuple(found)


@dataclass(slots=True)
class LambdaMart:
    """Trees that learn the order (Burges 2010, "From RankNet to LambdaRank to LambdaMART"), by LightGBM."""

    name: str
    cost: int
    labelled: Labelled
    splits: int | None = MOST_SPLITS_OF_TREES

    def fit(self, rows: Rows) -> Fusion:
        """See the class."""
        labelled = self.labelled
        fitted = [row for row in labelled.enough(rows) if labelled.candidates[row].ids]
        parts = [labelled.candidates[row] for row in fitted]
        # trees depend on the order of rows within a query: by id, which says nothing
        orders = [np.argsort(np.array(one.ids)) for one in parts]
        grades = [labelled.relevant(row)[order] for row, order in zip(fitted, orders, strict=True)]
        given = [features(one, labelled.inputs)[order] for one, order in zip(parts, orders, strict=True)]
        gains, levels = np.unique(np.concatenate(grades), return_inverse=True)
        settings = {
            "objective": "lambdarank",
            "label_gain": gains.tolist(),
            "min_data_in_leaf": 20,
            "num_leaves": 7,
            "learning_rate": 0.05,
            "verbosity": -1,
            "seed": 0,
            "num_threads": 1,
        }
        data = lightgbm().Dataset(np.concatenate(given), levels, group=[len(one) for one in given], free_raw_data=True)
        trees = lightgbm().train(settings, data, num_boost_round=100).model_to_string()
        return Fusion("lambdamart", dict.fromkeys(labelled.inputs, 1.0), trees)


def contenders_of(labelled: Labelled) -> list[Contender]:
    """All that these labels can tell apart, the cheapest first; the first one is the main first pass."""
    first, count = labelled.first, len(labelled.queries)
    made: list[Contender] = [Fixed("first pass", 0, alone(first[0]))]
    made += [Fixed(name, 1, alone(name)) for name in first[1:]]
    if len(first) > 1:
        made.append(Fixed("rrf of first passes", 1, Fusion("rrf", dict.fromkeys(first, 1.0))))
        made.append(WeightedSum("sum of first passes", 1, labelled, first))
    if labelled.has_reranker:
        made.append(Fixed(RERANKER, 2, alone(RERANKER)))
        made.append(WeightedSum("sum with reranker", 2, labelled, (*first, RERANKER)))
    cost = 2 if labelled.has_reranker else 1
    if labelled.fields:
        made.append(WeightedSum("sum with fields", cost, labelled, labelled.inputs))
    if len(labelled.inputs) > 1 and count >= ENOUGH_FOR_LOGISTIC:
        made.append(Logistic("logistic", cost, labelled))
    if len(labelled.inputs) > 1 and count >= ENOUGH_FOR_TREES:
        made.append(LambdaMart("lambdamart", cost, labelled))
    return made


def alone(name: str) -> Fusion:
    """One input's own order."""
    return Fusion("weighted", {name: 1.0})


def certainty(differences: Doubles) -> float:
    """One-sided confidence of a paired t-test that their mean is above 0; 0 where none differs.

    It is no more than flipping their signs could say: 1 - 1 / 2^k where k of them differ from 0. By the t-test alone
    two queries of fifty that gained would do for nine tenths.
    """
    if len(differences) < 2 or np.abs(differences).max() <= NIL:
        return 0.0
    if np.ptp(differences) <= NIL:
        sure = float(differences[0] > 0)
    else:
        sure = float(1 - scipy_stats().ttest_1samp(differences, 0.0, alternative="greater").pvalue)
    return min(sure, 1 - 0.5 ** int((np.abs(differences) > NIL).sum()))
