"""plots: each from one value of an analysis."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from secondpass.evaluation.findings import DepthCurve, DepthPoint, Reliability, ScoreDistribution, ThresholdPoint
from secondpass.evaluation.reporting import plots
from secondpass.evaluation.reporting.plots import Plot
from tests.evaluation.reporting.analyses import HOSTILE, bare, whole

WHOLE = whole(40)
FOUND = WHOLE.second_passes[0]


def texts(plot: Plot) -> list[str]:
    """What can be read in a drawing."""
    drawing = ElementTree.fromstring(plot.svg)  # noqa: S314
    return [element.text or "" for element in drawing.iter("text")]


def test_means_name_every_system_with_its_value() -> None:
    """In the reports' order, baseline first."""
    means = [f"{report.means['AP']:.3f}" for report in WHOLE.reports]
    read = texts(plots.means_plot("p", WHOLE, "AP"))
    assert [text for text in read if text in {"bm25", "rerank", *means}] == ["bm25", means[0], "rerank", means[1]]


@pytest.mark.parametrize("name", [HOSTILE[4], "\u4e2d" * 200, "\U0001f468" * 90])
def test_long_names_of_systems_are_cut(name: str) -> None:
    """Wide letters sooner than narrow ones: the name stays clear of the value beside it."""
    (shown,) = (text for text in texts(plots.means_plot("p", bare(name), "AP")) if text[0] == name[0])
    assert 10 < len(shown) < 30
    assert shown.endswith("…")


def test_gains_count_helped_and_hurt() -> None:
    """In the legend; queries that keep their value are noted."""
    plot = plots.gains_plot("p", {"a": 0.5, "b": -0.25, "c": 0.0, "d": 0.1}, "AP")
    assert plot.legend == (("gain", "2 helped"), ("loss", "1 hurt"))
    assert plot.note == "1 query keeps its value."
    assert "change in AP" in texts(plot)


def test_gains_of_many_queries_stay_small() -> None:
    """No more bars than pixels, from the best query to the worst."""
    few = plots.gains_plot("p", {str(place): place / 100 - 1 for place in range(200)}, "AP")
    many = plots.gains_plot("p", {str(place): place / 50_000 - 1 for place in range(100_000)}, "AP")
    assert many.legend == (("gain", "49,999 helped"), ("loss", "50,000 hurt"))
    assert len(many.svg) < 3 * len(few.svg)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_gains_of_one_query_or_none(value: float) -> None:
    """A single value is drawn as well, also if it is no gain."""
    assert "<svg" in plots.gains_plot("p", {"a": value}, "AP").svg


def test_depth_shows_milliseconds_where_known() -> None:
    """Above the depths; without them there is no second axis."""
    assert FOUND.depth is not None
    timed = texts(plots.depth_plot("p", FOUND.depth))
    assert {"milliseconds a query", "190", "100"} <= set(timed)
    untimed = replace(FOUND.depth, points=tuple(replace(point, ms=None) for point in FOUND.depth.points))
    assert "milliseconds a query" not in texts(plots.depth_plot("p", untimed))


def test_labels_of_depths_do_not_touch() -> None:
    """Twelve depths have fewer labels, the first and the last among them."""
    depths = (0, 1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 1000)
    plot = plots.depth_plot("p", DepthCurve("AP", tuple(DepthPoint(depth, depth / 2000) for depth in depths)))
    shown = [text for text in texts(plot) if text.replace(",", "") in map(str, depths)]
    assert shown[0] == "0"
    assert shown[-1] == "1,000"
    assert len(shown) < 9


def test_one_depth_alone_is_drawn() -> None:
    """No axis of width nothing."""
    assert "<svg" in plots.depth_plot("p", DepthCurve("AP", (DepthPoint(0, 0.5),))).svg


def test_distribution_leaves_out_empty_groups() -> None:
    """A group without documents has no share and no place in the legend."""
    plot = plots.distribution_plot("p", ScoreDistribution((0.0, 0.5, 1.0), (1, 2), (0, 0), (3000, 4)))
    assert plot.legend == (("gain", "relevant (3)"), ("third", "unjudged (3,004)"))


def test_distribution_of_equal_scores_is_drawn() -> None:
    """A single bin, even one of no width."""
    for edges in ((0.5, 0.5), (0.0, 1.0)):
        assert "<svg" in plots.distribution_plot("p", ScoreDistribution(edges, (3,), (0,), (0,))).svg


def test_thresholds_are_drawn_whatever_their_number() -> None:
    """One point is a dot, many are steps."""
    for points in ([ThresholdPoint(0.5, 0.2, 1.0, 9)], FOUND.thresholds):
        assert plots.threshold_plot("p", points).legend == (("second", "precision"), ("loss", "recall"))


def test_reliability_says_its_errors() -> None:
    """Below the diagram, with what the size of a dot means."""
    plot = plots.reliability_plot("p", Reliability((0.5,), (0.25,), (4,), 0.25, 0.2))
    assert plot.note.startswith("Expected calibration error 0.250, Brier score 0.200 over 4 pairs")
    assert plot.note.endswith("Larger dots hold more pairs.")
