"""Rules of `secondpass.tuning.probabilities`: labelled scores to a calibration."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from venn_abers import VennAbers

from secondpass import CrossEncoder
from secondpass.calibration import METHODS, Calibration, Step, at_least
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.tuning import calibrate, calibration_error, fitted, labelled_run
from secondpass.tuning.probabilities import LabelledScores, beta, halved, halves, labelled, logistic, sequence
from tests.tiny_models import WORDS


def drawn(
    queries: int = 60, documents: int = 20, *, effect: float = 0.0, floor: float = 0.0, seed: int = 0
) -> LabelledScores:
    """Rows whose log-odds are 1.5 * score - 1, and of a query all more or less by the same; none below the floor."""
    draw = np.random.default_rng(seed)
    scores = np.round(draw.normal(-1, 2, (queries, documents)), 2)
    chances = floor + (1 - floor) * expit(1.5 * scores - 1 + draw.normal(0, effect, (queries, 1)))
    owners = np.repeat(np.arange(queries), documents)
    return labelled(scores.ravel().tolist(), (draw.random(scores.shape) < chances).ravel().tolist(), owners.tolist())


def mirrored(rows: LabelledScores) -> LabelledScores:
    """Scores and labels the other way round: what was the lower end is the upper one."""
    return replace(rows, scores=-rows.scores[::-1], relevant=~rows.relevant[::-1], queries=rows.queries[::-1])


def given(rows: LabelledScores) -> tuple[list[float], list[bool], list[int]]:
    """Rows as the columns that `fitted` takes."""
    return rows.scores.tolist(), rows.relevant.tolist(), rows.queries.tolist()


def platts(rows: LabelledScores) -> np.ndarray:
    """Platt's targets of rows: counts of either kind with one more row of each."""
    positive, count = int(rows.relevant.sum()), len(rows.scores)
    return np.where(rows.relevant, (positive + 1) / (positive + 2), 1 / (count - positive + 2))


def test_a_binomial_tail_is_scipys() -> None:
    """From one trial to many, for any count of successes."""
    for trials in (1, 7, 300):
        for successes in range(0, trials + 1, max(1, trials // 7)):
            for chance in (0.01, 0.5, 0.93):
                assert at_least(successes, trials, chance) == pytest.approx(binom.sf(successes - 1, trials, chance))


def test_the_logistic_shape_is_scikit_learns() -> None:
    """Of the same targets (Platt's, as weights of two copies of each row) the same line; the data's own is near."""
    rows = drawn()
    line = logistic(rows)
    count, target = len(rows.scores), platts(rows)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    model.fit(
        np.tile(rows.scores, 2)[:, None], np.repeat([1, 0], count), sample_weight=np.concatenate([target, 1 - target])
    )
    assert (line["slope"], line["intercept"]) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=1e-4)
    assert (line["slope"], line["intercept"]) == pytest.approx((1.5, -1), abs=0.25)
    assert logistic(replace(rows, relevant=~rows.relevant))["slope"] == 0


def test_the_beta_shape_is_the_likeliest_that_rises() -> None:
    """No weight can be moved for the better, but those that would make it fall; straight data need no bend."""
    fallen = []
    for rows in (
        drawn(),
        replace(drawn(), scores=np.minimum(drawn().scores, 1.5)),  # piled up at the top
        drawn(floor=0.1),  # the slope at the lower end would fall
        mirrored(drawn(floor=0.1)),  # that at the upper end
    ):
        found = beta(rows)
        first, second, shift = found["beta"]
        odds = found["slope"] * rows.scores + found["intercept"]
        columns = np.stack([-np.logaddexp(0, -odds), np.logaddexp(0, odds), np.ones(len(odds))])
        slopes = columns @ (Calibration("beta", **found).probabilities(rows.scores) - platts(rows))
        assert all(
            abs(one) < 1e-3 or (weight == 0 and one > 0) for one, weight in zip(slopes, found["beta"], strict=True)
        )
        assert min(first, second) >= 0
        assert shift != 0
        fallen.append((first == 0, second == 0))
    assert fallen == [(False, False), (False, False), (True, False), (False, True)]
    assert beta(drawn(400))["beta"] == pytest.approx((1, 1, 0), abs=0.2)


@pytest.mark.parametrize("queries", [10, 40])
def test_no_shape_is_certain_where_scores_part_the_labels(queries: int) -> None:
    """One relevant document a query, far above nine others: as far from 0 and 1 as so few rows leave it."""
    scores = [5 - one / 100 for one in range(queries)] + [-5 - one / 100 for one in range(9 * queries)]
    labels = [True] * queries + [False] * 9 * queries
    for method in METHODS[:2]:
        made = fitted(scores, labels, [*range(queries)] * 10, methods=[method])
        worst, best = made.probabilities([min(scores), max(scores)])
        assert 0.1 / (9 * queries) < worst < best < 1 - 0.1 / queries


@pytest.mark.parametrize(("documents", "decimals"), [(1, 0), (4, 1), (20, 2)])
def test_intervals_are_venn_abers(documents: int, decimals: int) -> None:
    """At the labelled scores, at ties, beside them and beyond: the package's two probabilities to the last bit."""
    rows = drawn(60, documents)
    rows = replace(rows, scores=np.round(rows.scores, decimals))
    made = fitted(*given(rows))
    package = VennAbers()
    package.fit(np.stack([-rows.scores, rows.scores], axis=1), rows.relevant.astype(float))
    asked = np.concatenate([rows.scores, rows.scores + 1e-9, rows.scores - 1e-9, np.linspace(-20, 20, 50)])
    wanted = package.predict_proba(np.stack([-asked, asked], axis=1))[1]
    assert np.array_equal(np.stack(made.intervals(asked), axis=1), np.abs(wanted))
    assert Calibration.from_dict(made.to_dict()) == made


def test_halves_are_of_queries() -> None:
    """No query has rows in both, and together they have all rows."""
    rows = drawn(11, 3)
    for first, second in halved(rows, 5, seed=0):
        assert not {*first.queries} & {*second.queries}
        assert (first.asked, second.asked) == (5, 6)


def test_halves_hold_every_row_once_and_each_way() -> None:
    """What was fitted on in one split is measured on in the next, or else each split is drawn anew."""
    splits, anew = list(halves(7, 4, 0)), list(halves(7, 4, 0, each_way=False))
    for half, other in splits + anew:
        assert sorted([*half, *other]) == list(range(7))
    assert splits[0][0].tolist() == splits[1][1].tolist()
    assert len({tuple(half) for half, _ in anew}) == 4


def test_the_shape_is_the_likeliest_on_the_other_half() -> None:
    """Steps are isotonic where rows are many, and never where they are few; a smooth rise is none of steps."""
    draw = np.random.default_rng(0)
    scores = draw.uniform(0, 1, (300, 20))
    steps = draw.random(scores.shape) < np.where(scores < 0.5, 0.1, 0.6)
    owners = np.repeat(np.arange(300), 20)
    many = fitted(scores.ravel().tolist(), steps.ravel().tolist(), owners.tolist())
    assert many.method == "isotonic"
    assert many.probabilities([0.2, 0.9]) == pytest.approx([0.1, 0.6], abs=0.05)
    few = scores[:50].ravel().tolist(), steps[:50].ravel().tolist(), owners[:1000].tolist()
    assert fitted(*few).method != "isotonic"
    for methods, said in ((["isotonic"], "isotonic takes 2,000 documents"), (["steps"], "'steps' is none of logistic")):
        with pytest.raises(InvalidInput, match=said):
            fitted(*few, methods=methods)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="methods is empty: name at least one of logistic, beta, isotonic"):
        fitted(*few, methods=[])
    assert fitted(*given(drawn(120))).method != "isotonic"
    assert fitted(*few, methods=["logistic"]).method == "logistic"


def test_the_error_is_of_bins_of_equal_count() -> None:
    """By hand: two bins of two, off by 0.25 and by 0.05; equal values are in one; small where the shape is right."""
    assert calibration_error([0.1, 0.9, 0.4, 1.0], [0, 1, 1, 1], bins=2) == pytest.approx((0.25 + 0.05) / 2)
    assert calibration_error([0.5] * 40, [1] * 20 + [0] * 20) == 0.0  # whatever the order of the pairs
    for wrong, said in (([0.5], "have 1 and 2 pairs"), ([], "is empty"), ([0.5, math.nan], r"probabilities\[1\]")):
        with pytest.raises(InvalidInput, match=said):
            calibration_error(wrong, [0, 1])
    made = fitted(*given(drawn(120)), methods=["logistic"])
    assert made.error is not None
    assert made.error < 0.03


def test_a_promise_needs_independent_trials() -> None:
    """The threshold is the last before the first failure; documents of one query are no more trials than queries."""
    steps = (
        Step(3.0, 5, 5, 5, 5.0),
        Step(2.0, 40, 39, 40, 40.0),
        Step(1.0, 60, 54, 50, 50.0),
        Step(0.0, 70, 50, 55, 55.0),
        Step(-1.0, 90, 89, 60, 60.0),
    )
    made = Calibration("logistic", sequence=steps, queries=80, rows=90)
    promise = made.threshold_for(0.8)
    assert binom.sf(44, 50, 0.8) <= 0.1 < binom.sf(44, 50, 0.85)
    assert (promise.logit, promise.kept, promise.queries_kept) == (1.0, 60, 50 / 80)
    assert promise.threshold == pytest.approx(expit(1.0))
    assert made.threshold_for(0.85).logit == 2.0
    assert made.threshold_for(0.99).reason == "no threshold can be promised with 90 rows of 80 queries"
    rows = labelled([float(-row) for row in range(60)], [True] * 60, [0] * 30 + [*range(1, 31)])
    first, *_, last = sequence(rows)
    assert (first.kept, first.trials, first.queries) == (2, 1.0, 1)
    assert last.trials == pytest.approx(last.kept**2 / (30**2 + last.kept - 30))


def test_promises_hold_where_queries_differ() -> None:
    """Queries that are right or wrong as a whole: the promise breaks in no more than a tenth of 100 tries.

    Counted as so many independent rows it breaks far more often, which is why they are not.
    """
    whole = drawn(4000, 10, effect=4.0, seed=99)
    broken = {"promised": 0, "by rows": 0}
    for seed in range(100):
        made = Calibration("logistic", sequence=sequence(drawn(60, 10, effect=4.0, seed=seed)))
        by_rows = replace(made, sequence=tuple(replace(step, trials=float(step.kept)) for step in made.sequence))
        for name, one in (("promised", made), ("by rows", by_rows)):
            logit = one.threshold_for(0.5).logit
            broken[name] += logit is not None and whole.relevant[whole.scores >= logit].mean() < 0.5
    assert broken["promised"] <= 10
    assert broken["by rows"] > broken["promised"]


def test_unjudged_documents_are_counted_and_bounded() -> None:
    """They are other ones by default, or absent; what either makes of a score is told by the bounds."""
    rows = drawn()
    scores, labels, queries = given(rows)
    draw = random.Random(0)
    sparse = [label if draw.random() < 0.5 else None for label in labels]
    other, absent = (fitted(scores, sparse, queries, unjudged=how) for how in ("other", "absent"))
    assert other.unjudged == absent.unjudged == sparse.count(None)
    assert (other.rows, absent.rows) == (len(scores), len(scores) - sparse.count(None))
    low, high = other.bounds([0.0, 2.0])
    assert (low < high).all()
    assert low == pytest.approx(other.probabilities([0.0, 2.0]))
    truth = expit([-1.0, 2.0])
    assert (low < truth).all()
    assert high == pytest.approx(truth, abs=0.08)
    assert fitted(scores, labels, queries).bounds([0.0])[0] == fitted(scores, labels, queries).bounds([0.0])[1]
    only_relevant = fitted(scores, [label or None for label in labels], queries)
    assert only_relevant.bounds([0.0])[1] == 1
    with pytest.raises(InvalidInput, match=r"labels are too few .* 0 other documents"):
        fitted(scores, [label or None for label in labels], queries, unjudged="absent")


def test_nothing_relevant_is_fitted_with_and_without() -> None:
    """A query's best score, and that of what is left without its relevant documents: between the two is the rule."""
    scores, labels, queries = [], [], []
    for query in range(40):
        scores += [2.0 + query / 40, -1.0 - query / 40, -3.0]
        labels += [1, 0, 0]
        queries += [query] * 3
    rule = fitted(scores, labels, queries).answers
    assert rule is not None
    assert rule.logit == pytest.approx(0.5, abs=0.6)
    assert (rule.queries, rule.answered, rule.refused) == (40, 1.0, 1.0)
    kept = fitted(scores, labels, queries, answered=0.9).answers
    assert kept is not None
    assert kept.logit == 2.1
    assert kept.answered == 0.9
    alone = fitted([3.0 + one / 9 for one in range(20)] + [-1.0 - one / 9 for one in range(20)],
                   [1] * 20 + [0] * 20, range(40)).answers  # fmt: skip
    assert alone is not None
    assert (alone.queries, alone.unanswered, alone.answered, alone.refused) == (20, 20, 1.0, 1.0)
    assert fitted(
        scores[:45] + scores[:45], labels[:45] * 2, queries[:45] + [f"x{one}" for one in queries[:45]]
    ).answers


@pytest.mark.parametrize(
    ("scores", "labels", "queries", "said"),
    [
        ([1.0], [1, 0], ["a"], "1, 2 and 1 rows"),
        ([1.0, float("nan")], [1, 0], ["a", "b"], r"scores\[1\]=nan is not a finite number"),
        ([1.0, 2.0], [1, "yes"], ["a", "b"], r"labels\[1\]='yes'"),
        ([1.0, 2.0], [1, 0], ["a", "b"], "2 queries with 1 relevant and 1 other documents; it takes 10 queries, 10"),
    ],
)
def test_bad_labels_are_refused(scores: list[float], labels: list[object], queries: list[str], said: str) -> None:
    """By the name and the place of what is wrong; too few by how many it takes."""
    with pytest.raises(InvalidInput, match=said):
        fitted(scores, labels, queries)  # type: ignore[arg-type]


def test_a_run_has_its_judged_queries() -> None:
    """Documents that have a score, of queries that are judged; who is in no judgement is unjudged."""
    qrels = Qrels({"a": {"x": 2, "y": 0}, "c": {"x": 1}})
    rows = labelled_run(qrels, {"a": {"x": 1.0, "y": 3.0, "z": 2.0, "w": None}, "b": {"x": 9.0}})
    assert rows.scores.tolist() == [3.0, 2.0, 1.0]
    assert rows.relevant.tolist() == [False, False, True]
    assert rows.judged.tolist() == [True, False, True]


def test_a_model_is_calibrated_on_what_it_reads(own_tiny: CrossEncoder) -> None:
    """Scored as it will be, blank documents left out; from then on it gives probabilities, and knows how it read."""
    draw = random.Random(0)
    queries = [" ".join(draw.sample(WORDS, 3)) for _ in range(12)]
    texts = [[" ".join(draw.sample(WORDS, 5)) for _ in range(6)] + [" "] for _ in queries]
    grades = [[2, 1, 0, 0, None, 0, 1] for _ in queries]
    made = calibrate(own_tiny, queries, texts, grades, prompt="find: ", origin="a judge", seed=3)
    assert own_tiny.calibration is made
    assert (made.queries, made.rows, made.relevant, made.unjudged) == (12, 72, 24, 12)
    assert (made.origin, made.model) == ("a judge", own_tiny.name)
    assert made.conditions == own_tiny.conditions(prompt="find: ")
    ranking = own_tiny.rank_many(queries[:1], texts[:1], prompt="find: ")[0]
    scored = [one for one in ranking.documents if one.logit > -100]
    assert [one.probability for one in scored] == made.probabilities([one.logit for one in scored]).tolist()
    with pytest.raises(InvalidInput, match="grades must have one for each document"):
        calibrate(own_tiny, queries, texts, grades[:-1])
    with pytest.raises(InvalidInput, match=r"grades\[11\]\[6\]=nan is not a finite number"):
        calibrate(own_tiny, queries, texts, [*grades[:-1], [*grades[-1][:-1], float("nan")]])
