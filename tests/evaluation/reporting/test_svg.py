"""svg: drawings that live in a page."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.axes import Axes

from secondpass.evaluation.reporting.svg import FIRST, draw

TITLE = "means & <b>intervals</b>"


def paint(axes: Axes) -> None:
    """A line, a label that is no formula, and a character that matplotlib's fonts lack."""
    axes.plot([0, 1], [0, 1], color=FIRST)
    axes.set_xlabel("$x^2$ <script> \U0001f468 \u4e2d")


def test_a_drawing_is_one_element_with_a_name() -> None:
    """Well-formed, without a document's head, named for those who do not see it."""
    svg = draw("plot", TITLE, paint)
    root = ElementTree.fromstring(svg)  # noqa: S314
    assert (root.tag, root.get("role"), root.get("aria-labelledby")) == ("svg", "img", "plot-title")
    assert (root[0].tag, root[0].get("id"), root[0].text) == ("title", "plot-title", TITLE)
    assert root.get("width") is None
    assert not re.search(r"<style|<metadata|<\?xml|<!|https?:", svg)


def test_text_stays_text_in_the_font_of_the_page() -> None:
    """It can be searched and read out; dollars and tags are characters."""
    root = ElementTree.fromstring(draw("plot", TITLE, paint))  # noqa: S314
    texts = {element.text: element.get("style", "") for element in root.iter("text")}
    assert "$x^2$ <script> \U0001f468 \u4e2d" in texts
    assert not any("font-family" in style or "font:" in style for style in texts.values())


def test_colours_are_those_of_the_page() -> None:
    """No colour is fixed, so that dark and light suit."""
    svg = draw("plot", TITLE, paint)
    assert "stroke: var(--first)" in svg
    assert "fill: currentColor" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_ids_of_two_drawings_differ() -> None:
    """And every reference finds its id."""
    ids = []
    for name in ("one", "two"):
        svg = draw(name, TITLE, paint)
        own = re.findall(r'\bid="([^"]+)"', svg)
        assert len(own) == len(set(own))
        references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)|aria-labelledby="([^"]+)"', svg)
        assert {"".join(reference) for reference in references} <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    """Settings of the program that draws neither change nor show; its backend is its own."""
    before = draw("plot", TITLE, paint)
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30}):
        settings = dict(matplotlib.rcParams)
        assert draw("plot", TITLE, paint) == before
        assert dict(matplotlib.rcParams) == settings


def test_threads_draw_the_same() -> None:
    """matplotlib's settings are global; drawings wait for each other."""
    expected = draw("plot", TITLE, paint)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: draw("plot", TITLE, paint), range(8))) == {expected}


def test_a_failing_painter_does_not_block_the_next() -> None:
    """The lock is given back."""

    def fail(axes: Axes) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        draw("plot", TITLE, fail)
    assert draw("plot", TITLE, paint)
