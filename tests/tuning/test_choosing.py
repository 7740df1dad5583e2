"""What tune recommends, on collections whose truth is known because they are drawn."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from secondpass.cli.tune import _show
from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.fusion import RERANKER, Candidates, Fusion, Tuned
from secondpass.tuning import Tuning, tune
from secondpass.tuning.choosing import MOST_LOST, _Contest, _verdicts, _with_probabilities
from secondpass.tuning.contenders import Doubles, Labelled, LambdaMart, certainty, sums_of

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
    assert "is not better with a certainty of 60%" in found.verdicts[1]


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


def contest_of(given: Task, sure: float = 0.6) -> _Contest:
    """On few halves."""
    return _Contest(Labelled.of(*given, "nDCG@10"), sure, 0, 2, 0.95)


def test_a_few_queries_that_are_ordered_well_are_no_chance() -> None:
    """Random orders tell how rare that is; the spread between the queries is no part of it."""
    contest = contest_of(task((0.8, 0.8, 0.4), queries=12))
    held_out = {one.name: np.array([1.0, 0.4] * 6) for one in contest.contenders}
    assert certainty(np.array([1.0, 0.4] * 6) - contest.chance.mean(axis=0)) < 0.9999
    assert contest.has_signal(held_out, contest.rows)
    assert not contest.has_signal(held_out, contest.rows[1::2])


def test_random_orders_are_taken_for_better_ones_as_often_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in ten of them, where that is asked for."""
    contest = contest_of(task((0.8, 0.8, 0.4), queries=12))
    monkeypatch.setattr("secondpass.tuning.choosing.CHANCE", 0.1 * len(contest.contenders))
    orders = [order for seed in range(1, 6) for order in contest.labelled.by_chance(seed)]
    found = [contest.has_signal({one.name: order for one in contest.contenders}, contest.rows) for order in orders]
    assert 30 <= sum(found) <= 75


@pytest.mark.parametrize(("lead", "chosen"), [(0.005, RERANKER), (0.02, "sum with reranker")])
def test_a_sum_takes_the_place_of_the_reranker_alone_where_it_is_better(lead: float, chosen: str) -> None:
    """Its weights are fitted: a lead that is mostly luck is none."""
    contest = contest_of(task((0.8, 0.8, 0.4), queries=50))
    held_out = {one.name: np.full(50, 0.5) for one in contest.contenders}
    held_out |= {RERANKER: np.full(50, 0.8), "sum with reranker": 0.8 + spread(lead, 0.2)}
    assert (certainty(held_out["sum with reranker"] - 0.8) > 0.6) == (chosen != RERANKER)
    assert contest.decided(held_out, contest.rows).name == chosen


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


def spread(mean: float, deviation: float) -> Doubles:
    """Fifty numbers of that mean and standard deviation."""
    signs = np.where(np.arange(50) % 2, 1.0, -1.0)
    made: Doubles = mean + deviation * signs / signs.std(ddof=1)
    return made


@pytest.mark.parametrize(("mean", "recommended"), [(0.045, "first pass"), (0.055, "sum with reranker")])
def test_no_way_is_recommended_whose_mean_a_cheaper_one_beats(mean: float, recommended: str) -> None:
    """However sure it is over the first pass: the cheaper one that was not sure enough has the higher mean."""
    contest = contest_of(task((0.8, 0.8, 0.4), queries=50), sure=0.9)
    held_out = {one.name: np.full(50, 0.5) for one in contest.contenders}
    held_out["first pass"] = np.full(50, 0.9)
    held_out["sum of first passes"] = 0.9 + spread(0.05, 0.3)
    held_out["sum with reranker"] = 0.9 + spread(mean, 0.2)
    assert certainty(held_out["sum of first passes"] - 0.9) < 0.9 < certainty(held_out["sum with reranker"] - 0.9)
    best = contest.decided(held_out, contest.rows)
    assert best.name == recommended
    contest.held_out, contest.best = held_out, best
    told = " ".join(_verdicts(contest))
    if best.cost:
        assert "The reranker adds +0.005" in told
    else:
        assert "first pass stays: what would take its place must be better with a certainty of 90%" in told
        assert "sum of first passes, +0.050 (" in told
        assert ", is not; sum with reranker, -0.005 (" in told
        assert ", is below sum of first passes, which is cheaper." in told


def applied(found: Tuning, given: Task) -> dict[str, float]:
    """The measure of each query, ordered by what was tuned over the lists of its own first passes."""
    qrels, runs, logits = given
    tuned = replace(found.tuned, skip=None)
    orders: dict[str, list[tuple[str, float | None]]] = {}
    for query in qrels.with_relevant:
        candidates = Candidates.of({run.name: run[query].items() for run in runs if run.name in tuned.first})
        read = tuned.to_read(candidates)
        order = tuned.order(candidates, read, [logits[query][candidates.ids[row]] or 0.0 for row in read])
        orders[query] = [(one.id, None) for one in order]
    return dict(evaluate(qrels, Run("applied", orders), [found.measure]).values[found.measure])


def apart(given: Task, kept: int, lost: str = "") -> Task:
    """The same where the main first pass finds its best alone, for one query nothing, and the other one the others."""
    qrels, (one, two), logits = given
    lists = {query: [] if query == lost else list(ranking.items())[:kept] for query, ranking in one.items()}
    rest = {query: [each for each in ranking.items() if each[0] not in dict(lists[query])]
            for query, ranking in two.items()}  # fmt: skip
    return qrels, [Run("bm25", lists), Run("dense", rest)], logits


def test_first_passes_that_won_without_a_weight_are_not_asked() -> None:
    """The first pass alone is measured on what it finds, as `evaluate` does, and so it is applied."""
    given = apart(task((0.2, 50.0, 50.0)), 6, lost="q0")
    found = tuned(given, sure=0.9)  # of forty queries one gains by the other first pass
    assert found.recommended == "first pass"
    assert found.tuned.first == ("bm25",)
    expected = dict(evaluate(given[0], given[1][0], ["nDCG@10"]).values["nDCG@10"])
    assert found.held_out["first pass"] == pytest.approx(expected)
    assert applied(found, given) == pytest.approx(expected)
    assert expected["q0"] == 0.0


@pytest.mark.parametrize("noise", [(0.8, 50.0, 0.3), (0.8, 0.8, 0.4), (0.4, 30.0, 0.2)])
@pytest.mark.parametrize("kept", [6, 14, 20])
def test_what_is_tuned_does_what_was_measured(noise: tuple[float, float, float], kept: int) -> None:
    """With its own first passes alone, whichever those are: the mean is that of its depth."""
    given = apart(task(noise), kept)
    found = tuned(given)
    assert found.depth is not None
    measured = dict(found.depth.values)[found.tuned.depth]
    assert np.mean([*applied(found, given).values()]) == pytest.approx(measured)


def test_a_first_pass_that_brings_something_is_needed_without_a_weight() -> None:
    """Something that is read, or that the measure looks at; not what stands below both."""
    runs = [Run("bm25", {"q": [("a", 3.0), ("b", 2.0), ("c", 1.0)]}), Run("dense", {"q": [("c", 2.0), ("d", 1.0)]})]
    logits = Run("m", {"q": [(name, 0.0) for name in "abcd"]})
    alone = Fusion("weighted", {"bm25": 1.0, "dense": 0.0}), Fusion("weighted", {"dense": 0.0, RERANKER: 1.0})
    for measure, depth, needed in (
        ("nDCG@2", 3, ("bm25",)),
        ("nDCG@2", 4, ("bm25", "dense")),
        ("nDCG@4", 3, ("bm25", "dense")),
        ("nDCG", 1, ("bm25", "dense")),
    ):
        labelled = Labelled.of(Qrels({"q": {"d": 1}}), runs, logits, measure)
        assert labelled.needed(Tuned(("bm25", "dense"), *alone, depth)) == needed
    weighed = replace(Tuned(("bm25", "dense"), *alone, 3), after=Fusion("weighted", {"dense": 0.5, RERANKER: 0.5}))
    assert Labelled.of(Qrels({"q": {"d": 1}}), runs, logits, "nDCG@2").needed(weighed) == ("bm25", "dense")


def test_queries_without_an_answer_count_for_probabilities_alone() -> None:
    """The measure, the choice and the order are those of the others; the rule for no answer is fitted on them.

    Where the reranker has not read them they are left out.
    """
    given = task((0.8, 0.8, 0.4))
    _, silent, read = task((0.8, 0.8, 0.4), seed=1)
    more = {f"no {query}": {"d0": 0} for query in given[0]}
    rng = np.random.default_rng(0)
    logits = {f"no {query}": [(name, float(rng.normal(-1, 0.4))) for name in one] for query, one in read.items()}
    lists = [
        Run(run.name, {**run_of(run), **{f"no {query}": list(one.items()) for query, one in other.items()}})
        for run, other in zip(given[1], silent, strict=True)
    ]
    qrels = Qrels({**given[0], **more})
    plain, both = tuned(given), tuned((qrels, lists, Run("m", {**run_of(given[2]), **logits})))
    assert both.queries == 40
    assert both.held_out == plain.held_out
    assert both.outcomes == plain.outcomes
    assert both.tuned.after == plain.tuned.after
    assert plain.tuned.calibration is not None
    assert both.tuned.calibration is not None
    assert (plain.tuned.calibration.queries, both.tuned.calibration.queries) == (40, 80)
    assert both.tuned.calibration.relevant == plain.tuned.calibration.relevant
    assert both.tuned.calibration.rows == 2 * plain.tuned.calibration.rows
    assert both.tuned.calibration.answers is not None
    assert both.tuned.calibration.answers.unanswered == 40
    assert both.verdicts[-1].startswith("40 queries without a relevant document are not measured")
    assert tuned((qrels, lists, given[2])) == plain


def run_of(run: Run) -> dict[str, list[tuple[str, float | None]]]:
    """Its lists."""
    return {query: list(ranking.items()) for query, ranking in run.items()}


def test_probabilities_of_trees_are_of_queries_that_they_have_not_seen() -> None:
    """No tree that orders a query for them changes with its labels; where nothing is to be learnt, none is likely."""
    qrels, runs, logits = task((5.0, 5.0, 5.0), queries=60)
    labelled = Labelled.of(qrels, runs, logits, "nDCG@10")
    trees = LambdaMart("lambdamart", 2, labelled).fit(np.arange(60))
    others = labelled.unseen(trees, 5)
    assert len({one.trees for one in others} - {trees.trees}) == 5
    changed = Labelled.of(Qrels({**qrels, "q7": {"d3": 1}}), runs, logits, "nDCG@10")
    same = [one == other for one, other in zip(others, changed.unseen(trees, 5), strict=True)]
    assert same[7]
    assert sum(same) == 12
    even = Fusion("weighted", {"bm25": 0.5, "dense": 0.5})
    assert labelled.unseen(even, 5) == [even] * 60
    made, told = _with_probabilities(labelled, Tuned(labelled.first, even, trees, 20), "")
    assert told == ()
    assert made.calibration is not None
    highest = max(step.logit for step in made.calibration.sequence)
    assert made.calibration.probabilities([highest])[0] < 0.3


def test_where_labels_come_from_is_known_without_saying_so() -> None:
    """By the judgements themselves, unless the call says otherwise; probabilities and figures have it too."""
    qrels, runs, logits = task((0.8, 0.8, 0.4))
    marked = Qrels(dict(qrels), origin="from clicks")
    cases: list[tuple[dict[str, Any], str]] = [({}, "from clicks"), ({"origin": "by hand"}, "by hand")]
    for options, origin in cases:
        found = tuned((marked, runs, logits), **options)
        assert found.tuned.calibration is not None
        assert {found.origin, found.tuned.calibration.origin, found.tuned.figures["origin"]} == {origin}


def test_how_often_each_way_was_halved_is_told() -> None:
    """What is slow to fit only at first, and the choice as often as the rarest."""
    found = tune(*task((0.8, 0.8, 0.4), queries=100), splits=24)
    assert {one.name: one.splits for one in (*found.outcomes, found.choice)} == {
        **{one.name: 24 for one in found.outcomes}, "logistic": 20, "choice": 20,
    }  # fmt: skip


def test_ways_that_were_halved_less_often_are_said() -> None:
    """Beside how often the others were."""
    grades = {f"q{number}": {"a": 1} for number in range(10)}
    found = tune(Qrels(grades), [Run("bm25", {query: [("a", 2.0), ("b", 1.0)] for query in grades})], splits=4)
    shown = []
    for result in (found, replace(found, splits=9)):
        console = Console(file=io.StringIO(), width=120)
        _show(console, result)
        shown.append(console.file.getvalue().splitlines()[0])  # type: ignore[attr-defined]
    assert shown[0].endswith(", 4 times")
    assert shown[1].endswith(", 9 times, first pass 4, choice 4")


def test_only_the_depth_that_pays_is_reranked() -> None:
    """Where the first passes have all relevant documents among their best, no more are read."""
    found = tuned(task((0.4, 0.4, 0.1)))
    assert found.depth is not None
    assert 0 < found.depth.chosen < 20
    assert found.tuned.depth == found.depth.chosen
    values = dict(found.depth.values)
    assert values[20] - values[found.depth.chosen] <= MOST_LOST
    deep = tuned(task((5.0, 5.0, 0.3)))
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


@pytest.mark.parametrize("right", [True, False])
def test_queries_whose_first_passes_agree_are_not_reranked_where_they_are_right(right: bool) -> None:
    """Half of the queries have the same list twice; the reranker gains at the others, and at these unless it is right.

    The others' lists have two of their ten best in common, and what is relevant last.
    """
    qrels, _, _ = task((1.0, 1.0, 1.0))
    lists: list[dict[str, list[tuple[str, float | None]]]] = [{}, {}]
    for number, (query, grades) in enumerate(qrels.items()):
        relevant, others = ([name for name, grade in grades.items() if grade == wanted] for wanted in (1, 0))
        agreed = [*relevant, *others] if right else [*others, *relevant]
        apart = [*others, *relevant], [*others[9:], *others[:9], *relevant]
        for own, order in zip(lists, (agreed, agreed) if number % 2 else apart, strict=True):
            own[query] = [(name, None) for name in order]
        lists[0][query].remove((others[15], None))  # so that the other first pass is needed
    runs = [Run(name, own) for name, own in zip(("bm25", "dense"), lists, strict=True)]
    logits = Run.from_scores("m", {query: {name: float(one) for name, one in grades.items()}
                                   for query, grades in qrels.items()})  # fmt: skip
    found = tuned((qrels, runs, logits))
    rule = found.tuned.skip
    assert found.tuned.depth == 20
    assert (None if rule is None else (rule.saved, rule.lost)) == ((pytest.approx(0.5), 0.0) if right else None)
    read = [found.tuned.to_read(Candidates.of({run.name: run[query].items() for run in runs})) for query in qrels]
    assert [len(rows) for rows in read] == [20, 0 if right else 20] * 20


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
