"""wording: numbers as people read them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from secondpass.evaluation.comparison import (
    Analysis,
    Comparison,
    DepthCurve,
    DepthPoint,
    Headroom,
    Interval,
    SecondPass,
)
from secondpass.evaluation.measures import Coverage, Report
from secondpass.evaluation.reporting.wording import (
    NOTHING,
    confidence,
    counted,
    depth_sentence,
    headroom_sentence,
    listed,
    milliseconds,
    notes,
    number,
    p_cell,
    p_value,
    percent,
    reliability_sentence,
    shortened,
    signed,
    signed_span,
    span,
    verdicts,
)
from secondpass.evaluation.scores import ScoredPairs, reliability_of


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.49349, "0.493", "+0.493"),
        (-0.0804, "-0.080", "-0.080"),
        (-0.0001, "0.000", "0.000"),
        (0.0001, "0.000", "0.000"),
        (1234.0, "1,234", "+1,234"),
        (-10.25, "-10.2", "-10.2"),
        (None, NOTHING, NOTHING),
        (math.nan, NOTHING, NOTHING),
        (math.inf, NOTHING, NOTHING),
    ],
)
def test_numbers(value: float | None, plain: str, with_sign: str) -> None:
    """Three decimals, no negative zero, a dash for what is no number."""
    assert (number(value), signed(value)) == (plain, with_sign)


def test_intervals() -> None:
    """Both ends; a difference's with signs; none is a dash."""
    interval = Interval(-0.01, 0.05, 0.95)
    assert (span(interval), signed_span(interval), span(None)) == ("-0.010 to 0.050", "-0.010 to +0.050", NOTHING)


def test_shares() -> None:
    """Whole percents, no negative zero."""
    assert [percent(share) for share in (0.413, -0.12, -0.001, 1.0, None)] == ["41 %", "-12 %", "0 %", "100 %", NOTHING]


@pytest.mark.parametrize(
    ("p", "said", "cell"),
    [
        (0.0, "< 0.001", "< 0.001"),
        (0.0321, "= 0.032", "0.032"),
        (1.0, "= 1.000", "1.000"),
        (math.nan, NOTHING, NOTHING),
    ],
)
def test_p_values(p: float, said: str, cell: str) -> None:
    """Never "p = 0.000": a test by resampling cannot say so."""
    assert (p_value(p), p_cell(p)) == (said, cell)


def test_milliseconds() -> None:
    """As many digits as matter."""
    assert [milliseconds(ms) for ms in (0.0, 3.44, 193.2, 1500, None)] == ["0", "3.4", "193", "1,500", NOTHING]


def test_lists_and_counts() -> None:
    """Long ones are cut and say so; one is singular."""
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg")) == "a, b, c, d, e, ..."
    assert (counted(1, "query", "queries"), counted(1000, "query", "queries")) == ("1 query", "1,000 queries")
    assert (shortened("abcdef", 6), shortened("abc defg", 5)) == ("abcdef", "abc…")


BM25 = Report("bm25", {"nDCG@10": {"q1": 0.4, "q2": 0.58}}, {"nDCG@10": 0.49}, Coverage(225))
RERANK = Report("rerank", {"nDCG@10": {"q1": 0.5, "q2": 0.64}}, {"nDCG@10": 0.57}, Coverage(225))
CLEAR = Comparison("nDCG@10", "bm25", "rerank", 0.08, Interval(0.06, 0.1, 0.95), 0.0001, 0.0001, 0.0001, 160, 60, 5)
HEADROOM = Headroom("nDCG@10", 0.49, 0.57, 0.685, 1.0, 0.41)


def analysis(comparison: Comparison, second: Report = RERANK) -> Analysis:
    """Two systems and the comparison between them."""
    found = SecondPass("rerank", (HEADROOM,), (), (), {})
    return Analysis("nDCG@10", (BM25, second), {}, (comparison,), (found,))


def test_a_gain_is_said_in_one_sentence() -> None:
    """From where to where, how much, how sure, and how much of what was possible."""
    (verdict,) = verdicts(analysis(CLEAR))
    assert (verdict.system, verdict.direction, verdict.headline) == ("rerank", "better", "rerank helps")
    assert verdict.detail == (
        "nDCG@10 rises from 0.490 to 0.570 (+0.080, 95 % interval +0.060 to +0.100, p < 0.001); "
        "of the possible gain 41 % is reached."
    )


def test_a_loss_is_called_one() -> None:
    """A reranker that does harm must not be overlooked."""
    worse = replace(CLEAR, difference=-0.08, interval=Interval(-0.1, -0.06, 0.95))
    (verdict,) = verdicts(analysis(worse, replace(RERANK, means={"nDCG@10": 0.41})))
    assert (verdict.direction, verdict.headline) == ("worse", "rerank does harm")
    assert verdict.detail.startswith("nDCG@10 falls from 0.490 to 0.410 (-0.080, ")
    assert "possible gain" not in verdict.detail


@pytest.mark.parametrize(
    "doubtful",
    [
        replace(CLEAR, interval=Interval(-0.01, 0.1, 0.95)),
        replace(CLEAR, p_adjusted=0.06),
        replace(CLEAR, p_adjusted=0.04, interval=Interval(0.01, 0.1, 0.99)),
        replace(CLEAR, p_adjusted=float("nan")),
    ],
    ids=["interval", "test", "level", "no test"],
)
def test_doubt_is_said(doubtful: Comparison) -> None:
    """Both the interval and the adjusted test must be sure at the interval's level."""
    (verdict,) = verdicts(analysis(doubtful))
    assert (verdict.direction, verdict.headline) == ("unclear", "rerank shows no clear difference")
    assert verdict.detail.endswith("On 225 queries, that may be chance.")


@pytest.mark.parametrize(
    ("effect", "needed", "said"),
    [
        (0.1, 1465, "About 1,240 more would decide in 8 of 10 cases, if mean and spread of the differences are those "
                    "seen here, which is not sure."),
        (0.0, None, "No number of queries tells nothing apart."),
        (0.3, 100, "On 225 queries, that may be chance."),
        (None, None, "On 225 queries, that may be chance."),
    ],
)  # fmt: skip
def test_doubt_says_how_many_more_queries_would_decide(effect: float | None, needed: int | None, said: str) -> None:
    """Of those that a test needs, 225 are there; never as a promise."""
    doubtful = replace(CLEAR, p_adjusted=0.06, effect=effect, queries_needed=needed)
    (verdict,) = verdicts(analysis(doubtful))
    assert verdict.detail.endswith(said)


def test_a_run_of_other_queries_does_no_harm() -> None:
    """Nor does another one help against it: that it answers nothing is said in place of a verdict."""
    silent = Coverage(225, unanswered=tuple(f"q{place}" for place in range(225)))
    lost = replace(CLEAR, difference=-0.5, interval=Interval(-0.6, -0.4, 0.95))
    (verdict,) = verdicts(analysis(lost, replace(RERANK, coverage=silent)))
    assert (verdict.direction, verdict.headline) == ("unclear", "rerank answers none of the measured queries")
    found = analysis(CLEAR)
    first = replace(found.reports[0], coverage=silent)
    (verdict,) = verdicts(replace(found, reports=(first, found.reports[1])))
    assert verdict.headline == "bm25 answers none of the measured queries"


def test_queries_without_a_value_are_none_that_were_compared() -> None:
    """Of 225 measured ones fifty have a value in both runs: fifty more are needed, not none."""
    few = replace(CLEAR, p_adjusted=0.06, effect=0.3, queries_needed=100, helped=20, hurt=20, unchanged=10)
    (verdict,) = verdicts(analysis(few))
    assert "On 50 queries, that may be chance. About 50 more would decide" in verdict.detail


def test_a_level_keeps_its_decimals() -> None:
    """99.9 % is not 100 %, and rounding of sums does not show."""
    assert [confidence(level) for level in (0.95, 0.999, 0.975, 1 - 0.05, 1 - 0.999)] == [
        "95 %", "99.9 %", "97.5 %", "95 %", "0.1 %"
    ]  # fmt: skip
    (verdict,) = verdicts(analysis(replace(CLEAR, interval=Interval(0.06, 0.1, 0.999))))
    assert "99.9 % interval" in verdict.detail


def test_an_unchanged_order_is_no_gain() -> None:
    """Nothing helped and nothing hurt: the sentence has no numbers to be misread."""
    same = replace(CLEAR, difference=0.0, interval=Interval(0.0, 0.0, 0.95), p_adjusted=1.0, helped=0, hurt=0)
    (verdict,) = verdicts(analysis(same, replace(RERANK, means=BM25.means)))
    assert (verdict.direction, verdict.headline) == ("same", "rerank changes nothing")
    assert verdict.detail == "nDCG@10 is 0.490 before and after; no query's value changes."


def test_several_comparisons_are_said_to_be_adjusted() -> None:
    """A p that was corrected says for how many."""
    both = replace(analysis(CLEAR), comparisons=(CLEAR, replace(CLEAR, measure="AP")))
    (verdict,) = verdicts(both)
    assert "p < 0.001 adjusted for 2 comparisons)" in verdict.detail


def test_one_system_alone_has_its_mean() -> None:
    """Nothing to compare with: the mean, with its interval if there is one."""
    alone = Analysis("nDCG@10", (BM25,), {"bm25": {"nDCG@10": Interval(0.45, 0.53, 0.9)}}, ())
    (verdict,) = verdicts(alone)
    assert verdict.detail == "nDCG@10 is 0.490 (90 % interval 0.450 to 0.530) over 225 queries."
    (verdict,) = verdicts(replace(alone, intervals={}))
    assert verdict.detail == "nDCG@10 is 0.490 over 225 queries."


def test_headroom_in_words() -> None:
    """What was possible, what came of it, who lost the rest and where there is most to gain."""
    assert headroom_sentence("rerank", HEADROOM) == (
        "A perfect order of the candidates would bring +0.195 nDCG@10; rerank reaches 41 % of that. "
        "The first pass loses 0.315 by not finding relevant documents, the second pass 0.115 by not putting them "
        "first: more or better candidates have the most to give."
    )
    assert headroom_sentence("rerank", replace(HEADROOM, ceiling=0.9)).endswith("a better order has the most to give.")
    assert "rerank loses 0.090 instead." in headroom_sentence("rerank", replace(HEADROOM, second=0.4, share=-0.46))
    nothing = Headroom("P@10", 0.2, 0.2, 0.2, 0.2, None)
    expected = "No order of these candidates beats the first pass in P@10: there was nothing to gain. Nothing is lost."
    assert headroom_sentence("rerank", nothing) == expected


def test_depth_in_words() -> None:
    """The best depth, and a shallower one that is nearly as good, with their milliseconds."""
    known = ((0, 0.4, 3.0), (10, 0.45, 20.0), (50, 0.497, 90.0), (99, 0.5, 180.0))
    points = tuple(DepthPoint(*point) for point in known)
    assert depth_sentence(DepthCurve("AP", points)) == (
        "Best at depth 99: 0.500, 180 ms a query. Depth 50 brings at least 95 % of the gain, 90 ms a query."
    )
    assert depth_sentence(DepthCurve("AP", (DepthPoint(0, 0.4), DepthPoint(5, 0.5)))) == "Best at depth 5: 0.500."
    worse = (DepthPoint(0, 0.4), DepthPoint(5, 0.3))
    assert depth_sentence(DepthCurve("AP", worse)) == "No depth is better than the first pass."


def reliability_said(scores: tuple[float, float], relevant: np.ndarray, judged: np.ndarray | None = None) -> str:
    """What is said of two scores with forty pairs each, in two bins; all are judged unless it is said."""
    every = np.full(80, True) if judged is None else judged
    return reliability_sentence(reliability_of(ScoredPairs(np.repeat(scores, 40), relevant, every), 2))


def test_reliability_in_words() -> None:
    """The highest bin first, then all of them, then both errors and over how many pairs.

    0.8 where 1 of 40 is relevant promises too much; where two of the 40 are judged, the others decide.
    """
    places = np.arange(80)
    assert reliability_said((0.2, 0.8), places % 40 == 0) == (
        "Of the 40 pairs that score 0.800 to 0.800 (mean 0.800), 2 % are relevant (0 % to 13 %). "
        "Scores promise too much in 2 and too little in 0 of 2 bins, beyond 95 % intervals (by chance: 5 % of bins). "
        "Expected calibration error over 2 bins of equal count 0.475, Brier score 0.340, over 80 pairs."
    )
    sparse = reliability_said((0.1, 0.8), places % 40 == 0, places % 40 < 2)
    assert "2 % are relevant (0 % to 13 %), of the 2 judged ones 50 % (1 % to 99 %). Scores promise too much" in sparse
    assert "(by chance: 5 % of bins); in 1 more their unjudged pairs decide. Expected calibration" in sparse
    assert "; the judged alone have an expected calibration error of 0.350, a Brier score of 0.375." in sparse
    worse_below = reliability_said((0.5, 0.8), places >= 48)
    assert "Largest clear error: of the 40 pairs that score 0.500 to 0.500 (mean 0.500), 0 % are" in worse_below


def test_coverage_is_noted_by_system_or_once_for_all() -> None:
    """Every query that does not count, or counts as nothing, is accounted for."""
    first = replace(BM25, coverage=Coverage(225, (), ("e1",), ()))
    second = replace(RERANK, coverage=Coverage(225, ("q1", "q2"), ("e1",), ("x",)))
    assert notes(Analysis("AP", (first, second), {}, (), notes=("from the analysis",))) == [
        "from the analysis",
        "1 judged query without a relevant document, left out (e1)",
        "rerank: 2 of 225 measured queries without an answer in the run, counted as an empty ranking (q1, q2)",
        "rerank: 1 query of the run without judgements, left out (x)",
    ]
    kept = replace(BM25, coverage=Coverage(2, (), ("q1",), ()))
    assert notes(Analysis("AP", (kept,), {}, ())) == [
        "1 judged query without a relevant document, counted all the same (q1)"
    ]
