"""Labelled scores to a `Calibration`: P(relevant | score), its intervals, thresholds that hold, and when nothing is.

What is relevant is judged by query, so what is chosen here is chosen on queries that it was not fitted on: halves are
of queries, never of rows.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from secondpass.calibration import METHODS, AnswerRule, Calibration, Method, Step, sigmoid
from secondpass.errors import InvalidInput
from secondpass.evaluation.scores import calibration_error
from secondpass.lazy import optional
from secondpass.models.identity import marks_of
from secondpass.ranking import Relevance
from secondpass.text import checked_documents, choice, finite_number, is_blank, materialised, share

if TYPE_CHECKING:
    from secondpass.reranker import Reranker

logger = logging.getLogger(__name__)

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.intp]
Unjudged = Literal["other", "absent"]
Label = float | bool | None
"""A grade, above 0 is relevant; None where nobody judged."""


@dataclass(frozen=True, slots=True)
class LabelledScores:
    """Rows [rows], highest score first: scores, whether they are relevant, whether judged, the number of the query."""

    scores: Doubles
    relevant: Flags
    judged: Flags
    queries: Numbers

    def only(self, kept: Flags) -> LabelledScores:
        """Some of the rows."""
        return LabelledScores(self.scores[kept], self.relevant[kept], self.judged[kept], self.queries[kept])

    @property
    def asked(self) -> int:
        """How many queries there are."""
        return len(np.unique(self.queries))


def labelled(scores: Iterable[float], labels: Iterable[Label], queries: Iterable[Hashable]) -> LabelledScores:
    """Rows out of three columns of one length.

    Raises:
        InvalidInput: a column is shorter, a score is no finite number, or a label is none; the message has the index.
    """
    given, grades, owners = list(scores), list(labels), list(queries)
    if not len(given) == len(grades) == len(owners):
        raise InvalidInput(f"scores, labels and queries have {len(given)}, {len(grades)} and {len(owners)} rows")
    numbers = np.array([finite_number(one, f"scores[{row}]") for row, one in enumerate(given)], np.float64)
    known = [None if one is None else _grade(one, f"labels[{row}]") for row, one in enumerate(grades)]
    codes = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    made = LabelledScores(
        numbers,
        np.array([one is not None and one > 0 for one in known], np.bool_),
        np.array([one is not None for one in known], np.bool_),
        np.array([codes[owner] for owner in owners], np.intp),
    )
    order = np.argsort(-numbers, kind="stable")
    return LabelledScores(made.scores[order], made.relevant[order], made.judged[order], made.queries[order])


def _grade(label: float | bool, name: str) -> float:
    return float(label) if isinstance(label, bool | np.bool_) else finite_number(label, name)


def labelled_run(
    qrels: Mapping[str, Mapping[str, float]], run: Mapping[str, Mapping[str, float | None]]
) -> LabelledScores:
    """The scored documents of the judged queries of a run; those that `qrels` does not name are unjudged."""
    rows = [
        (score, grades.get(document), query)
        for query, grades in qrels.items()
        for document, score in run.get(query, {}).items()
        if score is not None
    ]
    scores, labels, queries = zip(*rows, strict=True) if rows else ((), (), ())
    return labelled(scores, labels, queries)


# ---- Shapes of P(relevant | score), each by maximum likelihood.
FEWEST_QUERIES = 10
FEWEST_RELEVANT = 10
# What isotonic regression takes not to follow the noise of single rows.
ISOTONIC_ROWS, ISOTONIC_RELEVANT = 2_000, 200
SPLITS = 10


def logistic(rows: LabelledScores) -> dict[str, Any]:
    """Slope and intercept by Newton's method, towards Platt's targets, which keep them finite where classes part.

    Platt 1999, "Probabilistic Outputs for Support Vector Machines"; a slope below 0 becomes 0.
    """
    centre, spread = float(rows.scores.mean()), float(rows.scores.std()) or 1.0
    positive = int(rows.relevant.sum())
    target = _targets(rows)
    columns = np.stack([(rows.scores - centre) / spread, np.ones(len(rows.scores))])
    weights = np.array([0.0, math.log((positive + 1) / (len(rows.relevant) - positive + 1))])
    weights = _newton(columns, target, weights)
    if weights[0] < 0:
        weights = np.array([0.0, math.log(target.mean()) - math.log1p(-target.mean())])
    slope = float(weights[0]) / spread
    return {"slope": slope, "intercept": float(weights[1]) - slope * centre}


def _targets(rows: LabelledScores) -> Doubles:
    """Platt's, float64 [rows]: nearer to 1 and 0 the more rows there are of the kind."""
    positive = int(rows.relevant.sum())
    return np.where(rows.relevant, (positive + 1) / (positive + 2), 1 / (len(rows.relevant) - positive + 2))


def _loss(columns: Doubles, target: Doubles, weights: Doubles) -> float:
    odds = weights @ columns
    return float((np.logaddexp(0.0, odds) - target * odds).sum())


def _newton(columns: Doubles, target: Doubles, weights: Doubles) -> Doubles:
    """Weights of the least log loss; a step that does not lower it is halved."""
    loss = _loss(columns, target, weights)
    for _ in range(100):
        values = sigmoid(weights @ columns)
        curve = (columns * (values * (1.0 - values))) @ columns.T + 1e-12 * np.eye(len(weights))
        step = np.linalg.solve(curve, columns @ (values - target))
        while _loss(columns, target, weights - step) > loss and np.abs(step).max() > 1e-12:
            step = step / 2
        weights = weights - step
        before, loss = loss, _loss(columns, target, weights)
        if before - loss <= 1e-10 * max(1.0, abs(loss)):
            break
    return weights


def beta(rows: LabelledScores) -> dict[str, Any]:
    """Beta calibration of the logistic probability, towards the same targets: as `Calibration.beta`.

    Neither slope may fall: where the likeliest would, one of them is 0, the one that is likelier so.
    """
    line = logistic(rows)
    odds = line["slope"] * rows.scores + line["intercept"]
    columns = np.stack([-np.logaddexp(0.0, -odds), np.logaddexp(0.0, odds), np.ones(len(odds))])
    target = _targets(rows)

    def fit(*kept: int) -> Doubles:
        weights = np.zeros(3)
        weights[[*kept]] = _newton(columns[[*kept]], target, np.where(np.array(kept) < 2, 1.0, 0.0))
        return weights

    fits = [fit(0, 1, 2)]
    if fits[0][:2].min() < 0:
        fits = [one for one in (fit(0, 2), fit(1, 2)) if one[:2].min() >= 0]
    if not fits:
        return line
    best = min(fits, key=lambda weights: _loss(columns, target, weights))
    return {**line, "beta": tuple(best.tolist())}


def isotonic(rows: LabelledScores) -> dict[str, Any]:
    """Knots of the rising steps that fit best; Zadrozny and Elkan 2002.

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    library = optional("sklearn.isotonic", "scikit-learn, which fits isotonic steps,", "tune")
    made = library.IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(rows.scores, rows.relevant)
    knots = zip(made.X_thresholds_.tolist(), made.y_thresholds_.tolist(), strict=True)
    return {"knots": tuple(knots)}


Fit = Callable[[LabelledScores], dict[str, Any]]
SHAPES: dict[Method, Fit] = {"logistic": logistic, "beta": beta, "isotonic": isotonic}


def halves(count: int, splits: int, seed: int, *, each_way: bool = True) -> Iterator[tuple[Numbers, Numbers]]:
    """Random halves of so many queries, each way or each anew: int64 (fitted on, measured on), both rising."""
    rng = np.random.default_rng(seed)
    for number in range(splits):
        if number % 2 == 0 or not each_way:
            order = rng.permutation(count)
            one, other = np.sort(order[: count // 2]), np.sort(order[count // 2 :])
        else:
            one, other = other, one
        yield one, other


def halved(rows: LabelledScores, splits: int, seed: int) -> Iterator[tuple[LabelledScores, LabelledScores]]:
    """The rows of a random half of the queries, and those of the other half, each anew."""
    names = np.unique(rows.queries)
    for half, _ in halves(len(names), splits, seed, each_way=False):
        first = np.isin(rows.queries, names[half])
        yield rows.only(first), rows.only(~first)


def _chosen(rows: LabelledScores, methods: Sequence[Method], seed: int) -> tuple[Method, float | None]:
    """The method of the least log loss on held-out halves, and its error there."""
    losses: dict[Method, list[float]] = {method: [] for method in methods}
    errors: dict[Method, list[float]] = {method: [] for method in methods}
    for own, other in halved(rows, SPLITS, seed):
        if not own.relevant.any() or own.relevant.all():
            continue
        for method in methods:
            values = Calibration(method, **SHAPES[method](own)).probabilities(other.scores)
            kept = np.clip(np.where(other.relevant, values, 1 - values), 1e-6, 1.0)
            losses[method].append(-float(np.log(kept).mean()))
            errors[method].append(calibration_error(values, other.relevant))
    if not losses[methods[0]]:
        return methods[0], None
    best = min(methods, key=lambda method: float(np.mean(losses[method])))
    return best, float(np.mean(errors[best]))


# ---- What stands around the probabilities.
def venn_abers(rows: LabelledScores) -> dict[str, Any]:
    """Venn-Abers' two probabilities of a document at any score, as steps.

    Raises:
        MissingExtra: venn-abers is not installed.
    """
    made = optional("venn_abers", "venn-abers, which makes intervals,", "tune").VennAbers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a mean over nothing, which it takes for "no change"
        made.fit(np.stack([-rows.scores, rows.scores], axis=1), rows.relevant.astype(np.float64))
    # at a score that was seen the upper one is that of the scores below, the lower one that of those above
    places = np.stack([made.c, np.nextafter(made.c, np.inf)], axis=1).reshape(-1)
    cells = np.concatenate([[np.nextafter(made.c[0], -np.inf)], places])
    _, both = made.predict_proba(np.stack([-cells, cells], axis=1))
    low, high = np.clip(both.T, 0.0, 1.0)
    new = np.flatnonzero((np.diff(low) != 0) | (np.diff(high) != 0))
    kept = np.concatenate([[0], new + 1])
    return {
        "edges": tuple(places[new].tolist()),
        "low": tuple((low[kept] + 0.0).tolist()),
        "high": tuple(high[kept].tolist()),
    }


GROWTH = 1.15


def sequence(rows: LabelledScores) -> tuple[Step, ...]:
    """Thresholds at the best 2 rows, and each 15 % more: their places are told by counts, before any label is seen."""
    steps: dict[float, Step] = {}
    many = 2.0
    while many <= len(rows.scores):
        threshold = float(rows.scores[int(many) - 1])
        kept = int(np.searchsorted(-rows.scores, -threshold, side="right"))
        sizes = np.unique(rows.queries[:kept], return_counts=True)[1].astype(np.float64)
        relevant, trials = int(rows.relevant[:kept].sum()), kept**2 / float((sizes**2).sum())
        steps.setdefault(threshold, Step(threshold, kept, relevant, len(sizes), trials))
        many = max(many + 1, many * GROWTH)
    return tuple(steps.values())


def best_scores(rows: LabelledScores) -> tuple[Doubles, Doubles]:
    """Of each query that has relevant documents the best score, and the best of its others where it has such."""
    known = [
        own for own in (rows.only(rows.queries == query) for query in np.unique(rows.queries)) if own.relevant.any()
    ]
    without = [own.scores[~own.relevant][0] for own in known if not own.relevant.all()]
    return np.array([own.scores[0] for own in known], np.float64), np.array(without, np.float64)


def answer_rule(rows: LabelledScores, answered: float | None = None) -> AnswerRule | None:
    """The best score below which a query is said to have no answer.

    Fitted on the best score of each query that has relevant documents, against those of the labelled queries that have
    none; with fewer than ten of these, against what is left of the others without their relevant documents. By default
    where a logistic model gives either the same likelihood; or the highest score that keeps the share `answered` of the
    queries. None where there are no ten queries of either kind, or scores do not tell.
    """
    whole, without = best_scores(rows)
    silent = [rows.only(rows.queries == query) for query in np.unique(rows.queries)]
    none = [float(own.scores.max()) for own in silent if own.judged.any() and not own.relevant.any()]
    known = len(none) if len(none) >= FEWEST_QUERIES else 0
    if known:
        without = np.array(none)
    if min(len(whole), len(without)) < FEWEST_QUERIES:
        return None
    if answered is None:
        both = np.concatenate([whole, without])
        flags = np.arange(len(both)) < len(whole)
        line = logistic(LabelledScores(both, flags, flags | True, np.arange(len(both))))
        if line["slope"] <= 0:
            return None
        threshold = (math.log(len(whole) / len(without)) - line["intercept"]) / line["slope"]
    else:
        threshold = float(np.sort(whole)[math.floor((1 - share(answered, "answered")) * len(whole) + 1e-9)])
    kept, refused = float((whole >= threshold).mean()), float((without < threshold).mean())
    return AnswerRule(threshold, len(whole), kept, refused, known)


def fit_rows(
    rows: LabelledScores,
    *,
    unjudged: Unjudged = "other",
    methods: Sequence[Method] | None = None,
    answered: float | None = None,
    seed: int = 0,
    **about: Any,
) -> Calibration:
    """As `fitted`, of rows that are one value; `about` are further fields of the calibration."""
    if unjudged not in ("other", "absent"):
        raise InvalidInput(f"unjudged={unjudged!r} is neither 'other' nor 'absent'")
    open_, every, known = int((~rows.judged).sum()), rows, rows.only(rows.judged)
    if unjudged == "absent":
        rows = known
    relevant = int(rows.relevant.sum())
    if rows.asked < FEWEST_QUERIES or relevant < FEWEST_RELEVANT or relevant == len(rows.relevant):
        raise InvalidInput(
            f"labels are too few for probabilities: {rows.asked} queries with {relevant} relevant and "
            f"{len(rows.relevant) - relevant} other documents; it takes {FEWEST_QUERIES} queries, {FEWEST_RELEVANT} "
            "relevant documents and others"
        )
    many = len(rows.relevant) >= ISOTONIC_ROWS and relevant >= ISOTONIC_RELEVANT
    usual = METHODS if many else METHODS[:2]
    shapes = usual if methods is None else [choice(one, METHODS, "methods") for one in methods]
    if not shapes:
        raise InvalidInput(f"methods is empty: name at least one of {', '.join(METHODS)}")
    if "isotonic" in shapes and not many:
        raise InvalidInput(
            f"methods: isotonic takes {ISOTONIC_ROWS:,} documents with {ISOTONIC_RELEVANT} relevant ones"
        )
    against = logistic(known if unjudged == "other" else every) if open_ and not known.relevant.all() else None
    method, error = _chosen(rows, shapes, seed)
    return Calibration(
        method,
        **SHAPES[method](rows),
        **venn_abers(rows),
        sequence=sequence(rows),
        answers=answer_rule(rows, answered),
        queries=rows.asked,
        rows=len(rows.relevant),
        relevant=relevant,
        unjudged=open_,
        unjudged_as=unjudged,
        otherwise=None if against is None else (against["slope"], against["intercept"]),
        error=error,
        **about,
    )


def fitted(
    scores: Iterable[float],
    labels: Iterable[Label],
    queries: Iterable[Hashable],
    *,
    unjudged: Unjudged = "other",
    methods: Sequence[Method] | None = None,
    answered: float | None = None,
    seed: int = 0,
    **about: Any,
) -> Calibration:
    """What a score means, out of labelled ones; of a reranker's logits, a fusion's scores or any other.

    Args:
        scores: of each document, higher is better.
        labels: its grade, above 0 is relevant; None where nobody judged.
        queries: whose it is, any hashable name.
        unjudged: count documents that nobody judged as "other", or leave them out ("absent").
        methods: shapes to choose from, by likelihood on held-out halves of the queries; None: "logistic" and "beta",
            and "isotonic" too from 2,000 rows with 200 relevant ones on.
        answered: the share of answerable queries that the rule for "nothing relevant" keeps; None takes both errors for
            equally bad.
        seed: of the halves.
        about: `relevance`, `origin`, `model` and other fields of `Calibration` that say what was calibrated.

    Raises:
        InvalidInput: an argument is refused, or the labels are too few; the message says how many it takes.
        MissingExtra: venn-abers or scikit-learn is not installed.
    """
    rows = labelled(scores, labels, queries)
    return fit_rows(rows, unjudged=unjudged, methods=methods, answered=answered, seed=seed, **about)


def calibrate(
    reranker: Reranker,
    queries: Iterable[str],
    documents_per_query: Iterable[Iterable[str]],
    grades: Iterable[Iterable[Label]],
    *,
    relevance: Relevance | None = None,
    unjudged: Unjudged = "other",
    methods: Sequence[Method] | None = None,
    answered: float | None = None,
    origin: str = "",
    seed: int = 0,
    **options: Any,
) -> Calibration:
    """Score labelled candidates and fit what the logits mean; the reranker gives probabilities by it from then on.

    Args:
        reranker: a `CrossEncoder`.
        queries: such as will be asked.
        documents_per_query: the candidates of each, found as they will be found: probabilities hold for candidates of
            that kind, and for that share of relevant ones. Blank ones are left out: no model reads them.
        grades: of each candidate, above 0 is relevant; None where nobody judged.
        relevance: for models with several labels, as in `rank_many`.
        origin: where labels come from that people did not give, to be read after "judgements".
        unjudged: as in `fitted`.
        methods: likewise.
        answered: likewise.
        seed: likewise.
        options: how pairs are read, as in `rank_many`: prompt, instruction, truncation, template.

    Raises:
        InvalidInput: as `fitted` and `rank_many`.
        MissingExtra: as `fitted`.
    """
    asked = checked_documents(queries, "queries")
    every = materialised(documents_per_query, "documents_per_query", "a sequence of sequences of str")
    lists = [checked_documents(texts, f"documents_per_query[{number}]") for number, texts in enumerate(every)]
    owned = materialised(grades, "grades", "a sequence of sequences of numbers")
    given: list[list[Label]] = []
    for number, own in enumerate(owned):
        labels: list[Any] = materialised(own, f"grades[{number}]", "a sequence of numbers")
        names = (f"grades[{number}][{place}]" for place in range(len(labels)))
        given.append([None if one is None else _grade(one, name) for one, name in zip(labels, names, strict=True)])
    if [*map(len, lists)] != [*map(len, given)]:
        raise InvalidInput("grades must have one for each document of each query")
    rankings = reranker.rank_many(asked, lists, relevance=relevance, **options)
    rows = [
        (one.logit, own[one.index], number)
        for number, (ranking, own) in enumerate(zip(rankings, given, strict=True))
        for one in ranking.documents
        if not is_blank(lists[number][one.index])
    ]
    made = fit_rows(
        labelled(*zip(*rows, strict=True)) if rows else labelled((), (), ()),
        unjudged=unjudged,
        methods=methods,
        answered=answered,
        seed=seed,
        relevance=None if reranker.num_labels == 1 else relevance,
        origin=origin,
        model=reranker.name,
        marks=marks_of(reranker),
        conditions=reranker.conditions(**_reading(options)),
    )
    reranker.use_calibration(made)
    return made


def _reading(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("template", "prompt", "prompt_name", "instruction", "truncation")
    return {name: options[name] for name in names if name in options}
