"""second_pass: the same candidates, the ceiling, and who lost what."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import DepthCurve, DepthPoint
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import (
    best_first,
    ceiling_run,
    depth_curve,
    depth_for,
    extended,
    headroom,
    headroom_of,
    ideal_run,
    is_second_pass,
    outside,
    over_ties,
    worth,
)

MEASURES = ["nDCG@3", "nDCG", "RR", "AP", "AP(rel=2)", "P@2", "P(rel=2)@2", "R@2", "Rprec", "Bpref", "Success@1",
            "Judged@2", "NumRet"]  # fmt: skip


def run(name: str, **rankings: str) -> Run:
    """A run of one-letter documents, best first; the scores of three are 3, 2, 1."""
    return Run(name, {query: [(document, float(len(ranking) - place)) for place, document in enumerate(ranking)]
                      for query, ranking in rankings.items()})  # fmt: skip


def test_what_each_pass_lost() -> None:
    """By hand: two relevant documents, one found, at rank 4, put at rank 2.

    RR: 1/4 before, 1/2 after, 1 at best, so a third of the gain was reached. R@4: 1/2 is all there is; the other
    half was lost by the first pass, and nothing was to be gained.
    """
    qrels = Qrels({"q": {"d": 1, "z": 1}})
    rr, recall = headroom(qrels, run("first", q="abcd"), run("second", q="adbc"), ["RR", "R@4"])
    assert (rr.measure, rr.first, rr.second, rr.ceiling) == ("RR", 0.25, 0.5, 1.0)
    assert rr.share == pytest.approx(1 / 3)
    assert (recall.first, recall.second, recall.ceiling, recall.share) == (0.5, 0.5, 0.5, None)


def test_a_count_has_no_headroom() -> None:
    """No order changes how many documents were found, and the ideal run has fewer: only measures of order are left."""
    qrels, first = Qrels({"q": {"d": 1}}), run("first", q="abcd")
    counts = ["NumRet", "NumRelRet", "NumRel", "NumQ"]
    assert [each.measure for each in headroom(qrels, first, first, [*counts, "RR"])] == ["RR"]
    assert headroom(qrels, first, first, counts) == ()


def test_the_ideal_is_a_perfect_order_of_all_judged_documents() -> None:
    """Two relevant documents: P@5 is 0.4 at best, whatever is found, so 0.2 is what the first pass lost, not 0.8."""
    qrels = Qrels({"q": {"d": 1, "z": 2, "a": 0}})
    (found,) = headroom(qrels, run("first", q="abcd"), run("second", q="dabc"), ["P@5"])
    assert (found.ceiling, found.ideal) == (0.2, 0.4)
    assert list(ideal_run(qrels)["q"]) == ["z", "d", "a"]


def test_a_worse_order_has_a_negative_share() -> None:
    """From rank 2 to rank 4 where rank 1 was possible: (1/4 - 1/2) / (1 - 1/2)."""
    (found,) = headroom(Qrels({"q": {"b": 1}}), run("first", q="abcd"), run("second", q="acdb"), ["RR"])
    assert found.share == -0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_ceiling_is_the_best_of_all_orders(seed: int) -> None:
    """Brute force over the permutations of five candidates: no order is better, by any measure, in any query."""
    generator = np.random.default_rng(seed)
    grades = {document: int(grade) for document, grade in zip("abcxyz", generator.integers(-1, 4, 6), strict=True)}
    qrels = Qrels({"q": grades | {"a": 2}})
    candidates = "".join(generator.permutation(list("abcde")))
    found = evaluate(qrels, ceiling_run(qrels, run("first", q=candidates)), MEASURES).means
    orders = [evaluate(qrels, run("order", q="".join(order)), MEASURES).means for order in permutations(candidates)]
    assert found == {measure: max(order[measure] for order in orders) for measure in found}


def test_a_perfect_order_keeps_what_is_equal() -> None:
    """By grade, descending; equal grades in the first pass's order; judged others before unjudged ones."""
    qrels = Qrels({"q": {"a": 0, "b": 1, "c": 2, "d": 1, "e": -2}})
    perfect = ceiling_run(qrels, run("first", q="uaedbcv", unjudged="xy"))
    assert "".join(perfect["q"]) == "cdbaeuv"
    assert "".join(perfect["unjudged"]) == "xy"


def test_worth_is_by_grade_then_judged() -> None:
    """Grades below 1 gain nothing, so they are equal, but having been judged counts for Judged@k."""
    grades = {"a": 3, "b": 1, "c": 0, "d": -1}
    assert [worth(grades, document) for document in "abcde"] == [7, 3, 1, 1, 0]
    assert best_first(grades, "edcba") == list("abdce")


def test_a_cut_ranking_is_followed_by_the_other_candidates() -> None:
    """The best two of four, then the others as the first pass had them, without a score."""
    whole = extended(run("first", q="abcd", r="xy"), run("second", q="db", r=""))
    assert list(whole["q"].items()) == [("d", 2.0), ("b", 1.0), ("a", None), ("c", None)]
    assert whole.name == "second"
    assert dict(whole["r"]) == {}


def test_a_whole_ranking_is_left_alone() -> None:
    """Nothing is copied where nothing is missing, and a query that was not answered stays so."""
    second = run("second", q="cab")
    assert extended(run("first", q="abc", other="ab"), second) is second


@pytest.mark.parametrize("second", ["abcdefgh", "abc", "a"], ids=["kept", "top 3", "top 1"])
def test_a_kept_order_gains_exactly_nothing(second: str) -> None:
    """Whole or cut, the same order has the same numbers to the last digit, and none of the gain."""
    qrels = Qrels({"q": {"b": 1, "d": 2, "g": 1, "z": 3}, "r": {"c": 1}})
    first = run("first", q="abcdefgh", r="abcdefgh")
    for found in headroom(qrels, first, run("second", q=second, r=second), MEASURES):
        assert found.second - found.first == 0.0
        assert found.share in (0.0, None)


def test_documents_from_elsewhere_count_for_the_ceiling() -> None:
    """A second pass that adds the one relevant document keeps it, and the ceiling has it too."""
    qrels, first, second = Qrels({"q": {"z": 1}}), run("first", q="ab"), run("second", q="azb")
    assert outside(first, second) == 1
    (found,) = headroom(qrels, first, second, ["RR"])
    assert (found.first, found.second, found.ceiling, found.share) == (0.0, 0.5, 1.0, 0.5)


def test_a_query_without_an_answer_is_the_second_passes_loss() -> None:
    """It counts as an empty ranking, and its candidates stay in the ceiling."""
    qrels = Qrels({"q": {"a": 1}, "r": {"b": 1}})
    (found,) = headroom(qrels, run("first", q="a", r="ab"), run("second", q="a"), ["RR"])
    assert (found.first, found.second, found.ceiling) == (0.75, 0.5, 1.0)


def test_a_query_that_only_the_second_pass_answers_is_in_the_ceiling() -> None:
    """Whatever it found could have been in a perfect order."""
    qrels = Qrels({"q": {"a": 1}, "r": {"b": 1}})
    (found,) = headroom(qrels, run("first", q="a"), run("second", q="a", r="xb"), ["RR"])
    assert (found.first, found.second, found.ceiling, found.share) == (0.5, 0.75, 1.0, 0.5)


def test_the_ceiling_is_above_both_passes() -> None:
    """Over every pair of orders of three candidates of four documents."""
    qrels = Qrels({"q": {"a": 1, "b": 2}})
    orders = ["".join(order) for order in permutations("abcd", 3)]
    for first, second in product(orders[::3], orders[::2]):
        (found,) = headroom(qrels, run("first", q=first), run("second", q=second), ["nDCG"])
        assert max(found.first, found.second) <= found.ceiling


def test_a_second_pass_ranks_mostly_candidates() -> None:
    """More than half of its documents, in queries that both answer."""
    first = run("first", q="abcd")
    assert is_second_pass(first, run("cut", q="d"))
    assert is_second_pass(first, run("added", q="abz", other="xyz"))
    assert not is_second_pass(first, run("half", q="abyz"))
    assert not is_second_pass(first, run("elsewhere", other="abcd"))


def test_headroom_of_reports_is_the_same() -> None:
    """Reports made before give what measuring again gives."""
    qrels, first, second = Qrels({"q": {"c": 1}}), run("first", q="abc"), run("second", q="acb")
    runs = (first, second, ceiling_run(qrels, first), ideal_run(qrels))
    reports = [evaluate(qrels, one, ["RR"]) for one in runs]
    assert headroom_of(*reports) == headroom(qrels, first, second, ["RR"])


def run_depths(name: str, **rankings: str) -> Run:
    """A run of one-letter documents in order."""
    return Run(name, {query: [(document, None) for document in ranking] for query, ranking in rankings.items()})


QRELS = Qrels({"q": {"d": 1}})
FIRST, SECOND = run_depths("first", q="abcd"), run_depths("second", q="dcba")


def test_a_document_rises_when_the_depth_reaches_it() -> None:
    """Depths 0 to 3 leave d at rank 4; depth 4 puts it first."""
    curve = depth_curve(QRELS, FIRST, SECOND, "RR")
    assert curve.measure == "RR"
    assert [(point.depth, point.value) for point in curve.points] == [
        (0, 0.25),
        (1, 0.25),
        (2, 0.25),
        (3, 0.25),
        (4, 1.0),
    ]
    assert all(point.ms is None for point in curve.points)


def test_a_depth_can_be_better_than_the_whole() -> None:
    """The second pass puts the distractor d above c: depth 3 is the best."""
    curve = depth_curve(Qrels({"q": {"c": 1}}), FIRST, SECOND, "RR")
    assert [point.value for point in curve.points] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1.0, 0.5])


def test_the_ends_are_the_two_passes() -> None:
    """Depth 0 is the first pass and the greatest depth the second, to the last digit."""
    qrels = Qrels({"q": {"b": 2, "d": 1}, "r": {"y": 1}, "silent": {"a": 1}})
    first, second = run_depths("first", q="abcd", r="xy"), run_depths("second", q="bdac", r="yx")
    points = depth_curve(qrels, first, second, "nDCG@3").points
    assert points[0].value == evaluate(qrels, first, ["nDCG@3"]).means["nDCG@3"]
    assert points[-1].value == evaluate(qrels, second, ["nDCG@3"]).means["nDCG@3"]


@pytest.mark.parametrize(
    "measure",
    ["nDCG@2", "AP@3", "P@2", "R@2", "RR@2", "Judged@2", "Success@1", "nDCG(judged_only=True)@2", "AP", "nDCG"],
)
def test_leaving_out_what_a_cutoff_hides_changes_nothing(measure: str) -> None:
    """At every depth the value is that of the whole ranking, also where unjudged documents do not count."""
    qrels = Qrels({"q": {"b": 2, "d": 1, "f": 0, "e": 3}, "r": {"y": 1}})
    first, second = run_depths("first", q="abcdef", r="xy"), run_depths("second", q="fedcba", r="yx")
    whole = {0: ("abcdef", "xy"), 1: ("abcdef", "xy"), 3: ("cbadef", "yx"), 6: ("fedcba", "yx")}
    for point in depth_curve(qrels, first, second, measure, whole).points:
        q, r = whole[point.depth]
        (value,) = evaluate(qrels, run_depths("whole", q=q, r=r), [measure]).means.values()
        assert point.value == value


def test_a_cut_ranking_counts_before_the_rest() -> None:
    """Of a second pass that returned d and b alone, the other candidates follow as they were: d b a c."""
    qrels = Qrels({"q": {"a": 1}})
    assert depth_curve(qrels, FIRST, run_depths("second", q="db"), "RR", [4]).points[0].value == pytest.approx(1 / 3)
    assert depth_curve(qrels, FIRST, run_depths("second", q="db"), "RR", [3]).points[0].value == 0.5


def test_what_the_first_pass_lacks_changes_nothing() -> None:
    """Documents from elsewhere take no rank, and a query without a second ranking keeps its first."""
    qrels = Qrels({"q": {"b": 1}, "r": {"a": 1}})
    curve = depth_curve(qrels, run_depths("first", q="ab", r="a"), run_depths("second", q="zyba"), "RR")
    assert [point.value for point in curve.points] == [0.75, 0.75, 1.0]


@pytest.mark.parametrize(
    ("candidates", "depths"),
    [
        (1, [0, 1]),
        (4, [0, 1, 2, 3, 4]),
        (100, [0, 1, 2, 3, 5, 10, 20, 30, 50, 75, 100]),
        (120, [0, 1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 120]),
        (1000, [0, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000]),
    ],
)  # fmt: skip
def test_the_depths_taken_by_themselves(candidates: int, depths: list[int]) -> None:
    """0, then a ladder up to the greatest number of candidates; twelve points at most."""
    first = Run("first", {"q": [(f"d{index}", None) for index in range(candidates)]})
    curve = depth_curve(Qrels({"q": {"d0": 1}}), first, first, "RR")
    assert [point.depth for point in curve.points] == depths
    assert {point.value for point in curve.points} == {1.0}


def test_depths_are_sorted_and_taken_once() -> None:
    """Any order; deeper than the candidates is all of them."""
    curve = depth_curve(QRELS, FIRST, SECOND, "RR", (9, 0, 9))
    assert [(point.depth, point.value) for point in curve.points] == [(0, 0.25), (9, 1.0)]


def test_milliseconds_are_a_line_over_the_documents_re_ranked() -> None:
    """10 ms and 5 ms a document: a query with two candidates has two at depth 4, so depth 4 means three documents."""
    qrels = Qrels({"q": {"d": 1}, "r": {"x": 1}})
    first, second = run_depths("first", q="abcd", r="xy"), run_depths("second", q="dcba", r="xy")
    curve = depth_curve(qrels, first, second, "RR", ms_at={0: 10.0, 4: 25.0})
    assert [point.ms for point in curve.points] == pytest.approx([10.0, 15.0, 20.0, 22.5, 25.0])


def test_more_known_milliseconds_are_fitted() -> None:
    """Least squares over 0: 10, 2: 22, 4: 28 is 11 + 4.5 a document."""
    points = depth_curve(QRELS, FIRST, SECOND, "RR", [0, 4], {0: 10.0, 2: 22.0, 4: 28.0}).points
    assert [point.ms for point in points] == pytest.approx([11.0, 29.0])


def test_the_depth_for_a_budget() -> None:
    """The best within it; of equal values the shallowest, and never one that the budget forbids."""
    curve = DepthCurve(
        "RR", tuple(DepthPoint(d, v, 1.0 + d) for d, v in [(0, 0.2), (1, 0.5), (2, 0.5), (3, 0.4), (9, 1)])
    )
    assert depth_for(curve, 5.0).depth == 1
    assert depth_for(curve, 1.0).depth == 0
    assert depth_for(curve, 10.0).depth == 9


def test_a_budget_that_nothing_fits_is_refused() -> None:
    """With the least that there is; and a curve without milliseconds cannot tell."""
    with pytest.raises(InvalidInput, match=r"budget_ms=1 is less than any depth takes: 2.5 ms"):
        depth_for(DepthCurve("RR", (DepthPoint(0, 0.5, 2.5),)), 1)
    with pytest.raises(InvalidInput, match="ms_at"):
        depth_for(DepthCurve("RR", (DepthPoint(0, 0.5),)), 1)


@pytest.mark.parametrize(
    ("depths", "ms_at", "message"),
    [
        ([], None, "depths is empty"),
        ([3, -1], None, "depths has -1"),
        (None, {4: 1.0}, "a line needs two"),
        (None, {4: 1.0, 9: 2.0}, "a line needs two"),
        (None, {0: 2.0, 4: 1.0}, "falls with depth"),
        (None, {0: float("nan"), 4: 1.0}, "no positive number"),
        (None, {-1: 1.0, 4: 1.0}, "negative depth"),
    ],
)
def test_bad_depths_and_milliseconds_are_refused(depths, ms_at, message: str) -> None:
    """The message names the argument and what is wrong with it."""
    with pytest.raises(InvalidInput, match=message):
        depth_curve(QRELS, FIRST, SECOND, "RR", depths, ms_at)


def scored(**rankings: list[tuple[str, float | None]]) -> Run:
    """A run in the order given."""
    return Run("run", rankings)


def test_two_tied_documents_are_either_way() -> None:
    """The relevant one is first or second: RR is 1/2, 1, and 3/4 on average."""
    (found,) = over_ties(Qrels({"q": {"b": 1}}), scored(q=[("a", 1.0), ("b", 1.0)]), ["RR"], samples=400)
    assert (found.measure, found.worst, found.best, found.tied_queries) == ("RR", 0.5, 1.0, 1)
    assert found.expected == pytest.approx(0.75, abs=0.05)


def test_worst_and_best_are_those_of_all_orders() -> None:
    """Brute force over the orders that a block of four allows between two documents that stand alone."""
    qrels = Qrels({"q": {"b": 2, "c": 1, "d": 0, "f": 1, "z": 3}})
    block = [(document, 0.5) for document in "bcde"]
    run = scored(q=[("a", 0.9), *block, ("f", 0.1)])
    measures = ["nDCG@3", "AP", "RR", "P@2", "Judged@3"]
    orders = [
        evaluate(qrels, scored(q=[("a", 0.9), *order, ("f", 0.1)]), measures).means for order in permutations(block)
    ]
    for found in over_ties(qrels, run, measures, samples=600):
        values = [order[found.measure] for order in orders]
        assert (found.worst, found.best) == (min(values), max(values))
        assert found.expected == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(600) + 1e-12)


def test_without_ties_all_three_are_the_measure() -> None:
    """Exactly the report's mean, whether it was made before or not, in the order asked for."""
    qrels, run = Qrels({"q": {"b": 1}, "r": {"x": 1}}), scored(q=[("a", 2.0), ("b", 1.0)], r=[("x", 1.0)])
    report = evaluate(qrels, run, ["AP", "RR"])
    found = over_ties(qrels, run, ["RR", "AP"], report=report)
    assert found == over_ties(qrels, run, ["RR", "AP"])
    assert [ties.measure for ties in found] == ["RR", "AP"]
    assert all(ties.worst == ties.expected == ties.best == report.means[ties.measure] for ties in found)
    assert all(ties.tied_queries == 0 for ties in found)


def test_ties_among_equals_open_nothing() -> None:
    """Two documents of one grade, or two that nobody judged, may stand either way."""
    run = scored(q=[("a", 1.0), ("b", 1.0), ("c", 0.5), ("d", 0.5)])
    (found,) = over_ties(Qrels({"q": {"a": 1, "b": 1}}), run, ["AP"])
    assert found.tied_queries == 0


def test_scores_equal_in_float32_are_tied() -> None:
    """A difference that float32 does not hold is none; documents without a score are in order, not tied."""
    qrels = Qrels({"q": {"b": 1}})
    (near,) = over_ties(qrels, scored(q=[("a", 1.0 + 1e-12), ("b", 1.0)]), ["RR"])
    assert (near.worst, near.best) == (0.5, 1.0)
    (unscored,) = over_ties(qrels, scored(q=[("a", None), ("b", None)]), ["RR"])
    assert (unscored.worst, unscored.best, unscored.tied_queries) == (0.5, 0.5, 0)
    (huge,) = over_ties(qrels, scored(q=[("a", 1e300), ("b", 1e299)]), ["RR"])
    assert huge.tied_queries == 1


def test_only_tied_queries_vary() -> None:
    """A query without ties and one without an answer keep their values: (x + 1/2 + 0) / 3 with x of 1/2 or 1."""
    qrels = Qrels({"tied": {"b": 1}, "plain": {"b": 1}, "silent": {"b": 1}})
    run = scored(tied=[("a", 1.0), ("b", 1.0)], plain=[("a", 2.0), ("b", 1.0)], unjudged=[("a", 1.0), ("b", 1.0)])
    (found,) = over_ties(qrels, run, ["RR"])
    assert (found.worst, found.best) == pytest.approx((1 / 3, 1 / 2))
    assert found.worst < found.expected < found.best
    assert found.tied_queries == 1


def test_a_count_is_summed_over_ties_too() -> None:
    """NumRet(rel=1) is a sum over queries, and no order changes it."""
    qrels = Qrels({"q": {"a": 1}, "r": {"a": 1}})
    run = scored(q=[("a", 1.0), ("b", 1.0)], r=[("a", 1.0), ("b", 1.0)])
    (found,) = over_ties(qrels, run, ["NumRet(rel=1)"])
    assert found.worst == found.expected == found.best == 2.0


def test_the_seed_decides() -> None:
    """Same seed, same expected value."""
    run = scored(q=[(document, 1.0) for document in "abcdefgh"])
    found = [over_ties(Qrels({"q": {"h": 1}}), run, ["RR"], seed=seed)[0].expected for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_many_documents_take_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound of 8 documents, 2 of them tied, the 64 samples become 4: a mean of four halves and ones."""
    run = scored(q=[("a", 1.0), ("b", 1.0)])
    (whole,) = over_ties(Qrels({"q": {"b": 1}}), run, ["RR"])
    assert (whole.expected * 8) % 1 != 0.0
    monkeypatch.setattr("secondpass.evaluation.second_pass.MOST_DOCUMENTS", 8)
    (found,) = over_ties(Qrels({"q": {"b": 1}}), run, ["RR"])
    assert (found.expected * 8) % 1 == 0.0


def test_no_sample_is_refused() -> None:
    """The message names the argument."""
    with pytest.raises(InvalidInput, match="samples=0"):
        over_ties(Qrels({"q": {"b": 1}}), scored(q=[("b", 1.0)]), ["RR"], samples=0)
