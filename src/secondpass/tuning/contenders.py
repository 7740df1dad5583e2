"""Labelled queries that are measured many times, and the ways to order their candidates that are compared on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate, parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import counted
from secondpass.fusion import RERANKER, Candidates, Fusion, features
from secondpass.lazy import optional

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.intp]

linear = partial(optional, "sklearn.linear_model", "scikit-learn", "tune")
lightgbm = partial(optional, "lightgbm", "LightGBM", "tune")

# Weights are tenths, of many inputs fifths: so many sums are measured at most.
MOST_SUMS = 300
MOST_INPUTS = 6
# How far weights are drawn to equal ones, whose prior they have: a gain of this over the number of queries for a step
# of 1. On few labels the best weights are partly luck.
DRAWN = 1.0
# Fewer labelled queries say nothing about a model with so many degrees of freedom.
ENOUGH_FOR_LOGISTIC = 100
ENOUGH_FOR_TREES = 300
RANDOM_ORDERS = 20
# Those two are slow, and more fits change a mean of held-out values little.
MOST_SPLITS = 20


@dataclass(frozen=True, slots=True)
class Labelled:
    """Queries with a relevant document, their candidates and judgements, and the measure of an order.

    `first` names the first passes, the main one first, `fields` the documents' fields; `has_reranker` says whether all
    candidates have its logit.
    """

    queries: tuple[str, ...]
    candidates: tuple[Candidates, ...]
    qrels: Qrels
    measure: str
    first: tuple[str, ...]
    fields: tuple[str, ...]
    has_reranker: bool
    _known: dict[tuple[object, ...], Doubles] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        qrels: Qrels,
        runs: Sequence[Run],
        reranked: Run | None,
        measure: str,
        fields: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Labelled:
        """Out of first passes, the main one first, and the reranker's logits of all their documents.

        Raises:
            InvalidInput: there is no run, two have one name, a candidate has no logit, or no query has a relevant
                document; the message names it.
        """
        names = [run.name for run in runs]
        taken = [*names, RERANKER, *(fields or {})]
        if not runs or len(set(taken)) < len(taken):
            raise InvalidInput(f"runs and fields must have different names, at least one run: {', '.join(taken)}")
        queries = tuple(qrels.with_relevant)
        if not queries:
            raise InvalidInput("qrels has no query with a relevant document")
        made = []
        for query in queries:
            one = Candidates.of({run.name: run.get(query, {}).items() for run in runs}, fields)
            made.append(one if reranked is None else one.with_logits(_logits(query, one, reranked)))
        judged = qrels.only(set(queries))
        return cls(queries, tuple(made), judged, measure, tuple(names), tuple(fields or ()), reranked is not None)

    @property
    def inputs(self) -> tuple[str, ...]:
        """All that can be summed."""
        return (*self.first, *((RERANKER,) if self.has_reranker else ()), *self.fields)

    def measured(self, scores: Sequence[Doubles]) -> Doubles:
        """The measure of each query's candidates in the order of their scores, float64 [queries]."""
        return self.measured_orders([np.argsort(-one, kind="stable") for one in scores])

    def measured_orders(self, orders: Sequence[Rows]) -> Doubles:
        """The same of rows, best first."""
        ((name, wanted),) = parsed([self.measure]).items()
        most = counted(wanted)
        run = {
            query: [(one.ids[row], None) for row in order[:most].tolist()]
            for query, one, order in zip(self.queries, self.candidates, orders, strict=True)
        }
        values = evaluate(self.qrels, Run("tuned", run), [name]).values[name]
        made = np.array([values[query] for query in self.queries])
        if np.isnan(made).any():
            query = self.queries[int(np.isnan(made).argmax())]
            raise InvalidInput(f"measure={self.measure!r} has no value for query {query!r}")
        return made

    def values(self, fusion: Fusion) -> Doubles:
        """The measure of each query in a fusion's order, float64 [queries]; computed once."""
        key = (fusion.method, *fusion.weights.items(), fusion.trees)
        if key not in self._known:
            self._known[key] = self.measured([fusion.scores(one) for one in self.candidates])
        return self._known[key]

    def by_chance(self, seed: int) -> Doubles:
        """The mean of each query over random orders of its candidates, float64 [queries]."""
        rng = np.random.default_rng(seed)
        drawn = [self.measured([rng.random(len(one.ids)) for one in self.candidates]) for _ in range(RANDOM_ORDERS)]
        made: Doubles = np.mean(drawn, axis=0)
        return made

    def relevant(self, row: int) -> npt.NDArray[np.int64]:
        """Grades of a query's candidates, 0 where nobody judged them; int [documents]."""
        grades = self.qrels[self.queries[row]]
        return np.array([max(0, grades.get(document, 0)) for document in self.candidates[row].ids], np.int64)


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
    """The weights in tenths whose mean over the queries is the highest; of equal means those nearest to equal ones."""

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
            self._table = np.stack([self.labelled.values(one) for one in self._sums])
            even = 1 / len(self.inputs)
            self._far = np.array([sum((weight - even) ** 2 for weight in one.weights.values()) for one in self._sums])
        means = self._table[:, rows].mean(axis=1) - DRAWN / len(rows) * self._far
        best = np.flatnonzero(means >= means.max() - 1e-12)
        return self._sums[int(best[np.argmin(self._far[best])])]


def sums_of(inputs: Sequence[str]) -> Iterator[Fusion]:
    """Weighted sums with all weights in steps of a tenth, or of a fifth where they would be too many, that make 1."""
    steps = 10 if len(inputs) < 5 else 5

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
        inputs = self.labelled.inputs
        given = np.concatenate([_stretched(self.labelled.candidates[row], inputs) for row in rows.tolist()])
        labels = np.concatenate([self.labelled.relevant(row) > 0 for row in rows.tolist()])
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


def _stretched(candidates: Candidates, inputs: Sequence[str]) -> Doubles:
    return features(candidates, inputs)[:, : len(inputs)]


@dataclass(slots=True)
class LambdaMart:
    """Trees that learn the order (Burges 2010, "From RankNet to LambdaRank to LambdaMART"), by LightGBM."""

    name: str
    cost: int
    labelled: Labelled
    splits: int | None = MOST_SPLITS

    def fit(self, rows: Rows) -> Fusion:
        """See the class."""
        labelled = self.labelled
        parts = [labelled.candidates[row] for row in rows.tolist()]
        # trees depend on the order of rows within a query: by id, which says nothing
        orders = [np.argsort(np.array(one.ids)) for one in parts]
        grades = [labelled.relevant(row)[order] for row, order in zip(rows.tolist(), orders, strict=True)]
        given = [features(one, labelled.inputs)[order] for one, order in zip(parts, orders, strict=True)]
        highest = int(max((one.max(initial=0) for one in grades), default=0))
        settings = {
            "objective": "lambdarank",
            "label_gain": list(range(highest + 1)),
            "min_data_in_leaf": 20,
            "num_leaves": 7,
            "learning_rate": 0.05,
            "verbosity": -1,
            "seed": 0,
            "num_threads": 1,
        }
        data = lightgbm().Dataset(
            np.concatenate(given), np.concatenate(grades), group=[len(one) for one in given], free_raw_data=True
        )
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
    if labelled.fields and len(labelled.inputs) <= MOST_INPUTS:
        made.append(WeightedSum("sum with fields", cost, labelled, labelled.inputs))
    if len(labelled.inputs) > 1 and count >= ENOUGH_FOR_LOGISTIC:
        made.append(Logistic("logistic", cost, labelled))
    if len(labelled.inputs) > 1 and count >= ENOUGH_FOR_TREES:
        made.append(LambdaMart("lambdamart", cost, labelled))
    return made


def alone(name: str) -> Fusion:
    """One input's own order."""
    return Fusion("weighted", {name: 1.0})
