"""tables: what the terminal and the page show."""

from __future__ import annotations

from dataclasses import replace

from secondpass.evaluation.comparison import (
    Change,
    Comparison,
    DepthCurve,
    DepthPoint,
    Interval,
    Moved,
    SecondPass,
    Ties,
)
from secondpass.evaluation.reporting import tables
from secondpass.evaluation.reporting.tables import Table
from secondpass.evaluation.reporting.wording import NOTHING
from tests.evaluation.reporting.analyses import MEASURES, bare, grouping, threshold, whole

WHOLE = whole(systems=("bm25", "small", "large"))


def names(table: Table | None) -> list[str]:
    """The column headings."""
    assert table is not None
    assert all(len(row) == len(table.columns) for row in table.rows)
    return [name for name, _ in table.columns]


def test_means_have_a_row_per_measure_and_system() -> None:
    """With the interval, and milliseconds where they are known."""
    table = tables.means(WHOLE)
    assert names(table) == ["measure", "system", "mean", "95 % interval", "ms a query"]
    assert [row[:2] for row in table.rows] == [(m, s) for m in MEASURES for s in ("bm25", "small", "large")]
    mean, interval = WHOLE.reports[1].means["AP"], WHOLE.intervals["small"]["AP"]
    assert table.rows[7][2:] == (f"{mean:.3f}", f"{interval.low:.3f} to {interval.high:.3f}", "193")
    assert names(tables.means(bare())) == ["measure", "system", "mean", "interval"]
    assert tables.means(bare()).rows[0][3] == NOTHING
    assert (tables.means(WHOLE).title, tables.means(bare()).title) == ("Means over 225 queries", "Means over 3 queries")


def test_means_side_by_side_have_a_row_per_system() -> None:
    """The interval is the second line of its cell; without one there is no second line."""
    table = tables.means_side_by_side(WHOLE)
    assert names(table) == ["system", *MEASURES, "ms a query"]
    low = WHOLE.intervals["bm25"]["nDCG@10"].low
    assert table.rows[0][1].startswith(f"{WHOLE.reports[0].means['nDCG@10']:.3f}\n{low:.3f} to ")
    assert table.note == "Second lines: 95 % interval of the mean."
    alone = tables.means_side_by_side(bare())
    assert "\n" not in "".join(alone.rows[0])
    assert alone.note == ""


def test_a_measure_that_one_system_lacks_is_a_dash() -> None:
    """Reports may differ in measures."""
    poor = replace(WHOLE.reports[2], values={"AP": WHOLE.reports[2].values["AP"]}, means={"AP": 0.5})
    table = tables.means_side_by_side(replace(WHOLE, reports=(*WHOLE.reports[:2], poor), intervals={}))
    assert table.rows[2][1:5] == (NOTHING, NOTHING, "0.500", NOTHING)


def test_differences_of_one_system_or_of_all() -> None:
    """The correction is said to be over all comparisons, also where some are shown."""
    table = tables.differences(WHOLE, "small")
    assert table is not None
    assert names(table) == ["measure", "difference", "95 % interval", "adjusted p", "helped", "hurt", "same"]
    assert table.title == "small against bm25"
    assert "adjusted for 8 comparisons (Holm)" in table.note
    assert table.rows[3] == ("R@100", "0.000", "0.000 to 0.000", "1.000", "0", "0", "225")
    both = tables.differences(WHOLE)
    assert both is not None
    assert names(both)[:2] == ["system", "measure"]
    assert len(both.rows) == 8
    assert tables.differences(bare()) is None
    assert tables.differences(WHOLE, "bm25") is None


def test_headroom_says_what_each_pass_loses() -> None:
    """The first pass the distance from the ideal to the ceiling, the second pass that from the ceiling to it."""
    table = tables.headroom(WHOLE.second_passes[0])
    assert names(table)[-2:] == ["lost by first", "lost by second"]
    by_measure = {row[0]: row for row in table.rows}
    second = WHOLE.second_passes[0].headroom[0].second
    assert by_measure["nDCG@10"][-2:] == ("0.210", f"{0.79 - second:.3f}")
    recall = WHOLE.second_passes[0].headroom[-1]
    assert by_measure["R@100"][4:] == (NOTHING, f"{1 - recall.ceiling:.3f}", "0.000")


def test_ties_appear_where_there_are_some() -> None:
    """Measures without tied queries have no row, and no row is no table."""
    found = WHOLE.second_passes[0]
    table = tables.ties(found)
    assert table is not None
    assert [row[0] for row in table.rows] == ["nDCG@10"]
    assert tables.ties(replace(found, ties=(Ties("AP", 0.4, 0.4, 0.4, 0),))) is None
    assert tables.ties(SecondPass("x", (), (), (), {})) is None


def test_changes_are_capped_with_a_note() -> None:
    """Ten thousand changed queries make a short table that says how many it leaves out."""
    changed = [Change(f"q{place}", "text", 0.25, 0.5, None, 3) for place in range(10_000)]
    table = tables.changes("Helped", changed, 2)
    assert table is not None
    assert table.rows[0] == ("q0", "+0.250", "0.250 → 0.500", f"{NOTHING} → 3", "text")
    assert len(table.rows) == 2
    assert table.note.endswith("9,998 more queries are not shown.")
    complete = tables.changes("Helped", changed[:2], 2)
    assert complete is not None
    assert "more" not in complete.note
    assert tables.changes("Helped", (), 2) is None


def test_depths_show_milliseconds_where_known() -> None:
    """No empty column."""
    table = tables.depths(DepthCurve("AP", (DepthPoint(0, 0.4, 3.0), DepthPoint(1000, 0.5, None))))
    assert names(table) == ["depth", "AP", "ms a query"]
    assert table.rows == (("0", "0.400", "3.0"), ("1,000", "0.500", NOTHING))
    assert names(tables.depths(DepthCurve("AP", (DepthPoint(0, 0.4),)))) == ["depth", "AP"]


def test_thresholds_are_spread_from_end_to_end() -> None:
    """Nine of many, the lowest and the highest among them; few are all shown."""
    points = [threshold(float(place), 0.5, 0.5, 7000 - place) for place in range(101)]
    table = tables.thresholds(points)
    assert len(table.rows) == 9
    assert (table.rows[0][0], table.rows[0][4], table.rows[-1][0]) == ("0.000", "7,000", "100")
    assert len(tables.thresholds(points[:3]).rows) == 3
    few = tables.thresholds([threshold(0.9, 1.0, 0.1, 9), threshold(0.95, 1.0, 0.1, 10)])
    assert [row[1:3] for row in few.rows] == [(NOTHING, "0.747 to 1.000"), ("1.000", "0.759 to 1.000")]


def test_columns_of_unjudged_documents_appear_where_there_are_some() -> None:
    """With what the judged ones say alone only where a judge also said "not relevant"."""
    (point,) = points = [threshold(0.5, 0.5, 0.5, 100)]
    assert names(tables.thresholds(points))[-2:] == ["unjudged", "judged only"]
    assert tables.thresholds(points).rows[0][-2:] == ("50", "1.000")
    assert names(tables.thresholds([replace(point, judged=None)]))[-2:] == ["kept", "unjudged"]
    assert names(tables.thresholds([replace(point, unjudged=0)]))[-1] == "kept"


def test_reliability_has_a_row_per_bin() -> None:
    """The highest scores first, with an error that has the sign of what they promise too much."""
    found = WHOLE.second_passes[0].reliability
    assert found is not None
    table = tables.reliability(found)
    assert names(table)[:5] == ["from", "mean", "relevant", "95 % interval", "error"]
    assert len(table.rows) == len(found.bins) - 1 + len(found.top) == 19
    highest = found.top[-1]
    assert table.rows[0][1:3] == (f"{highest.every.mean_score:.3f}", f"{highest.every.share:.3f}")
    assert table.rows[0][4] == f"+{highest.error:.3f}"


def test_intervals_of_several_levels_are_named_by_none() -> None:
    """A heading must not claim what does not hold for all."""
    mixed = {"bm25": {"AP": Interval(0.1, 0.2, 0.9), "RR@10": Interval(0.1, 0.2, 0.95)}}
    assert names(tables.means(replace(WHOLE, intervals=mixed)))[3] == "interval"


COMPARISON = Comparison("nDCG@10", "a", "b", 0.1, Interval(0.0, 0.2, 0.95), 0.04, 0.04, 0.08, 5, 2, 1)
EFFECTS = (
    replace(COMPARISON, effect=0.3162, queries_needed=1465),
    replace(COMPARISON, measure="AP", effect=0.0, queries_needed=None),
    replace(COMPARISON, measure="RR@10", effect=None, queries_needed=None),
)
GROUPS = (grouping(),)


def test_effects_have_a_row_per_comparison() -> None:
    """No number of queries finds nothing; where there is no spread there is no number to tell."""
    found = tables.effects(replace(bare(), comparisons=EFFECTS), "b", "a")
    assert found is not None
    assert found.rows == (
        ("nDCG@10", "+0.316", "8", "1,465"),
        ("AP", "0.000", "8", "no number"),
        ("RR@10", "\u2013", "8", "\u2013"),
    )
    whole = tables.effects(replace(bare(), comparisons=EFFECTS))
    assert whole is not None
    assert whole.rows[0] == ("b", "a", "nDCG@10", "+0.316", "8", "1,465")
    assert tables.effects(replace(bare(), comparisons=EFFECTS[2:])) is None


def test_groups_say_where_it_hurts() -> None:
    """A row per group; the note names those that are hurt for sure and those that are unlike the others, or none."""
    found = tables.groups(GROUPS, "nDCG@10")
    assert found is not None
    assert found.rows == (
        ("query length 5 to 20", "50", "+0.010", "-0.020 to +0.040", "0.600"),
        ("query length 21 to 1234", "50", "-0.080", "-0.120 to -0.040", "< 0.001"),
    )
    said = "query length is 21 to 1234 (-0.080)"
    assert found.note.startswith(
        f"It hurts where {said}. Told apart from the other queries: {said}. (Corrected for 2 groups.) "
        "Intervals hold together at 95 %"
    )
    calm = (replace(GROUPS[0], groups=GROUPS[0].groups[:1] * 2),)
    quiet = tables.groups(calm, "AP")
    assert quiet is not None
    assert quiet.note.startswith("Nothing is told apart: no group is hurt for sure")
    everywhere = tables.groups((replace(GROUPS[0], groups=(replace(GROUPS[0].groups[1], apart=False),) * 2),), "AP")
    assert everywhere is not None
    assert everywhere.note.startswith("It hurts in every group. No group is unlike the other queries. (Corrected for 2")
    assert tables.groups((), "AP") is None


def test_moves_have_both_ranks() -> None:
    """A row per document by which a change is seen; a dash where a run lacks it or nobody judged it."""
    seen = (Moved("d1", 2, 7, 1), Moved("d2", None, 1, None))
    found = tables.moves([Change("q", "", 0.1, 0.5, 7, 1, seen)] * 2, "bm25", "ours", 1)
    assert found is not None
    assert found.rows == (("q", "d1", "2", "7", "1"), ("q", "d2", "\u2013", "1", "\u2013"))
    assert found.title == "Documents that moved, bm25 to ours"
    assert tables.moves([], "bm25", "ours", 1) is None
