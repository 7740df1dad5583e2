"""What tune recommends, on collections whose truth is known because they are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.tuning import Tuning, tune
from secondpass.tuning.choosing import certainty
from secondpass.tuning.contenders import Labelled, LambdaMart, sums_of

Task = tuple[Qrels, list[Run], Run]


def task(noise: tuple[float, float, float], queries: int = 40, seed: int = 0) -> Task:
    """Twenty documents a query, two of them relevant; two first passes and a reranker that see this with noise."""
    rng = np.random.default_rng(seed)
    grades, scores = {}, [{}, {}, {}]  # type: ignore[var-annotated]
    for query in (f"q{number}" for number in range(queries)):
        worth = np.zeros(20)
        worth[rng.choice(20, 2, replace=False)] = 1
        grades[query] = {f"d{place}": int(grade) for place, grade in enumerate(worth)}
        for own, part in zip(scores, noise, strict=True):
            own[query] = {f"d{place}": float(one) for place, one in enumerate(worth + rng.normal(0, part, 20))}
    one, two, logits = (Run.from_scores(name, own) for name, own in zip(("bm25", "dense", "m"), scores, strict=True))
    return Qrels(grades), [one, two], logits


def tuned(given: Task, **options: Any) -> Tuning:
    """On few halves."""
    return tune(*given, splits=10, **options)


def test_a_good_reranker_is_recommended_with_its_first_passes() -> None:
    """Its gain is measured on held-out queries and told with an interval; the choice itself is held out too."""
    found = tuned(task((0.8, 0.8, 0.4)))
    assert found.recommended in ("sum with reranker", "reranker")
    own = next(one for one in found.outcomes if one.name == found.recommended)
    assert own.gain_interval.low > 0
    assert own.certainty > 0.99
    assert found.choice.mean == pytest.approx(own.mean, abs=0.03)
    assert found.tuned.after is not None
    assert found.tuned.after.weights["reranker"] >= 0.4
    assert found.tuned.calibration is not None
    assert found.verdicts[0].startswith(found.recommended)


def test_fusion_of_first_passes_is_recommended_where_a_reranker_adds_nothing() -> None:
    """A reranker that guesses costs milliseconds for nothing, and what was tuned has none."""
    found = tuned(task((0.6, 0.6, 50.0)), ms_a_document=2.0)
    assert found.recommended == "sum of first passes"
    assert found.tuned.after is None
    assert found.depth is None
    assert {one.name: one.ms for one in found.outcomes}["reranker"] == pytest.approx(40.0)
    assert found.outcomes[-1].ms == (40.0 if "reranker" in found.outcomes[-1].fusion else 0.0)
    assert "is not better with a certainty of 90%" in found.verdicts[1]


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_labels_recommend_the_first_pass(seed: int) -> None:
    """Where no order has anything to do with the labels, nothing is learnt of them."""
    qrels, runs, logits = task((0.8, 0.8, 0.4))
    rng = np.random.default_rng(seed)
    mixed = {
        query: dict(zip(one, rng.permutation(list(one.values())).tolist(), strict=True)) for query, one in qrels.items()
    }
    found = tuned((Qrels(mixed), runs, logits), seed=seed)
    assert found.recommended == "first pass"
    assert found.tuned.before.label == "bm25 alone"
    assert "say nothing" in found.verdicts[0]


def test_a_lead_that_few_labels_cannot_tell_is_not_recommended() -> None:
    """It is told how many would: the least with which the one-sided t-test finds it in four cases of five."""
    given = task((0.6, 30.0, 0.58), queries=10, seed=3)
    found = tuned(given, sure=0.999)
    assert found.recommended == "first pass"
    best = max(found.outcomes, key=lambda one: one.mean)
    leads = np.subtract(*(list(found.held_out[name].values()) for name in (best.name, "first pass")))
    effect = leads.mean() / leads.std(ddof=1)
    assert found.needed is not None
    power = [stats.nct.sf(stats.t.ppf(0.999, n - 1), n - 1, effect * n**0.5) for n in (found.needed, found.needed - 1)]
    assert power[0] >= 0.8 > power[1]


def test_only_the_depth_that_pays_is_reranked() -> None:
    """Where the first pass has all relevant documents among its best, no more are read."""
    found = tuned(task((0.25, 0.25, 0.1)))
    if found.depth is not None:
        assert found.depth.chosen < 20
        assert dict(found.depth.values)[0] <= max(value for _, value in found.depth.values)
    given = task((5.0, 5.0, 0.3))
    deep = tuned(given)
    assert deep.depth is not None
    assert deep.depth.chosen >= 15
    assert deep.tuned.depth == deep.depth.chosen


def test_a_field_that_tells_is_used() -> None:
    """Its weight is above 0 where it helps."""
    qrels, runs, logits = task((1.0, 1.0, 1.0))
    ages = {f"d{place}": float(place) for place in range(20)}
    newer = {query: {name: int(ages[name] >= 17) for name in one} for query, one in qrels.items()}
    found = tune(Qrels(newer), runs, logits, fields={"age": ages}, splits=6)
    assert found.recommended == "sum with fields"
    assert found.tuned.fields == ("age",)
    assert (found.tuned.after or found.tuned.before).weights["age"] >= 0.8
    assert (found.tuned.after is None) == (found.tuned.before.weights.get("reranker", 0) == 0)


def test_a_small_gain_is_not_spent_on_depth_and_skipped_queries() -> None:
    """Both lose at most half of what the reranker adds: it is not recommended and then left out."""
    found = tuned(task((0.4, 0.4, 0.5), queries=60, seed=1))
    assert found.recommended == "sum with reranker"
    means = {one.name: one.mean for one in found.outcomes}
    quarter = (means["sum with reranker"] - means["sum of first passes"]) / 4
    assert 0 < quarter < 0.004
    assert found.depth is not None
    assert found.depth.chosen > 5
    assert found.tuned.skip is None or found.tuned.skip.lost <= quarter


def test_two_queries_that_differ_are_not_told_from_chance() -> None:
    """Nor is rounding, whatever a t-test says."""
    assert certainty(np.array([0.5, 0.5, *np.zeros(48)])) == 0.75
    assert certainty(np.full(50, 1e-17)) == 0.0
    assert certainty(np.full(50, 0.1)) > 0.999


def test_sums_of_many_inputs_stay_few() -> None:
    """The steps of their weights grow, which make 1."""
    for count in range(1, 40):
        weights = [one.weights.values() for one in sums_of([f"n{place}" for place in range(count)])]
        assert count <= len(weights) <= 300
        assert {round(sum(one), 9) for one in weights} == {1.0}


def test_trees_take_grades_of_any_size() -> None:
    """What a grade gains is the grade, with no table up to it."""
    qrels, runs, logits = task((0.8, 0.8, 0.4), queries=10)
    large = Qrels({query: {name: grade * 10**6 for name, grade in one.items()} for query, one in qrels.items()})
    labelled = Labelled.of(large, runs, logits, "nDCG@10")
    fitted = LambdaMart("lambdamart", 2, labelled).fit(np.arange(10))
    assert labelled.values(fitted, np.arange(10)).mean() > labelled.by_chance(0).mean()


def test_the_first_pass_is_measured_as_evaluate_does() -> None:
    """Its mean over held-out halves is that of all queries."""
    given = task((0.8, 0.8, 0.4), queries=12)
    found = tuned(given, measure="RR@10")
    assert found.outcomes[0].mean == pytest.approx(evaluate(given[0], given[1][0], ["RR@10"]).means["RR@10"])
    assert found.outcomes[0].gain == 0


def test_the_same_seed_gives_the_same_result() -> None:
    """Every draw is seeded."""
    given = task((0.8, 0.8, 0.4), queries=12)
    assert tuned(given, seed=5) == tuned(given, seed=5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"runs": []}, "at least one run"),
        ({"runs": "twice"}, "different names"),
        ({"reranked": Run("m", {"q0": [("d0", 1.0)]})}, "m has no score for document"),
        ({"qrels": Qrels({"q0": {"d0": 1}})}, "1 queries with a relevant document"),
        ({"qrels": Qrels({"q0": {"d0": 0}})}, "no query with a relevant document"),
        ({"sure": 1.5}, "sure=1.5"),
        ({"splits": 0}, "splits=0"),
        ({"splits": 1}, "splits=1 is below 2"),
        ({"sure": 0.3}, "sure=0.3 is below 0.5"),
        ({"level": 1.0}, "level=1.0"),
        ({"seed": -1}, "seed=-1"),
        ({"runs": [Run("bm25", {"other": [("d0", 1.0)]})]}, "runs have no document for any"),
        ({"fields": {"bm25": {}}}, "different names"),
    ],
)
def test_what_cannot_be_tuned_is_refused(change: dict[str, Any], said: str) -> None:
    """The message names the argument."""
    qrels, runs, reranked = task((0.8, 0.8, 0.4), queries=10)
    given: dict[str, Any] = {"qrels": qrels, "runs": runs, "reranked": reranked, **change}
    if given["runs"] == "twice":
        given["runs"] = [runs[0], runs[0]]
    with pytest.raises(InvalidInput, match=said):
        tune(**given)
