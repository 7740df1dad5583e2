"""depths: quality against depth and milliseconds."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.depths import depth_curve, depth_for
from secondpass.evaluation.findings import DepthCurve, DepthPoint
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run


def run(name: str, **rankings: str) -> Run:
    """A run of one-letter documents in order."""
    return Run(name, {query: [(document, None) for document in ranking] for query, ranking in rankings.items()})


QRELS = Qrels({"q": {"d": 1}})
FIRST, SECOND = run("first", q="abcd"), run("second", q="dcba")


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
    first, second = run("first", q="abcd", r="xy"), run("second", q="bdac", r="yx")
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
    first, second = run("first", q="abcdef", r="xy"), run("second", q="fedcba", r="yx")
    whole = {0: ("abcdef", "xy"), 1: ("abcdef", "xy"), 3: ("cbadef", "yx"), 6: ("fedcba", "yx")}
    for point in depth_curve(qrels, first, second, measure, whole).points:
        q, r = whole[point.depth]
        (value,) = evaluate(qrels, run("whole", q=q, r=r), [measure]).means.values()
        assert point.value == value


def test_a_cut_ranking_counts_before_the_rest() -> None:
    """Of a second pass that returned d and b alone, the other candidates follow as they were: d b a c."""
    qrels = Qrels({"q": {"a": 1}})
    assert depth_curve(qrels, FIRST, run("second", q="db"), "RR", [4]).points[0].value == pytest.approx(1 / 3)
    assert depth_curve(qrels, FIRST, run("second", q="db"), "RR", [3]).points[0].value == 0.5


def test_what_the_first_pass_lacks_changes_nothing() -> None:
    """Documents from elsewhere take no rank, and a query without a second ranking keeps its first."""
    qrels = Qrels({"q": {"b": 1}, "r": {"a": 1}})
    curve = depth_curve(qrels, run("first", q="ab", r="a"), run("second", q="zyba"), "RR")
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
    first, second = run("first", q="abcd", r="xy"), run("second", q="dcba", r="xy")
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
