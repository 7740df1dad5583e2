"""page: one HTML page that needs nothing but itself."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.axes import Axes

from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import (
    DepthCurve,
    DepthPoint,
    Moved,
    ScoreDistribution,
)
from secondpass.evaluation.reporting import plots
from secondpass.evaluation.reporting.page import to_html, write_page
from secondpass.evaluation.reporting.plots import FIRST, Plot, draw
from secondpass.evaluation.reporting.wording import NOTHING, reliability_sentence
from secondpass.explanation import Explanation, TextPart
from secondpass.sentences import Span
from tests.evaluation.reporting.analyses import HOSTILE, MEASURES, SYSTEMS, bare, hostile, page_of, threshold, whole

LOADING = {"script", "iframe", "object", "embed", "form", "img", "base"}
VOID = {"meta", "link", "br", "hr", "img"}
DRAWINGS = {
    "gains": "Gain in nDCG@10 by query",
    "depth": "nDCG@10 by depth",
    "scores": "Scores of relevant and other documents",
    "thresholds": "Precision and recall by threshold",
    "reliability": "Reliability of scores as probabilities",
}


class Reader(HTMLParser):
    """Reads a page as its tags nest; whatever does not close in order is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and {"h1", "h2", "h3"} & set(self.open):
            self.headings.append(data.strip())


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages with empty drawings, where a test is not about what these show."""
    monkeypatch.setattr(plots, "draw", lambda *given, **lengths: "<svg></svg>")


@pytest.mark.parametrize("kind", ["whole", "hostile", "bare"])
def test_the_page_is_well_formed_and_alone(kind: str) -> None:
    """Tags nest, ids are unique and found, and nothing is loaded: no script, no address, no style from outside."""
    page = page_of(kind)
    reader = Reader(page)
    assert page.startswith("<!DOCTYPE html>")
    assert LOADING.isdisjoint(tag for tag, _ in reader.tags)
    attributes = [(name, value or "") for _, found in reader.tags for name, value in found.items()]
    assert not any(name.startswith("on") or name == "src" for name, _ in attributes)
    assert all(value.startswith(("#", "data:,")) for name, value in attributes if name == "href")
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    ids = [value for name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    named = [value for name, value in attributes if name == "aria-labelledby"]
    assert set(named) | {value[1:] for name, value in attributes if name == "href" and value[0] == "#"} <= set(ids)


def test_the_page_has_landmarks_and_headings_of_tables() -> None:
    """For those who hear the page: parts, tables with scopes, drawings with names."""
    reader = Reader(page_of("whole"))
    tags = [tag for tag, _ in reader.tags]
    assert {"header", "main", "section", "footer", "figure", "figcaption"} <= set(tags)
    assert tags.count("h1") == tags.count("main") == 1
    assert {found.get("scope") for tag, found in reader.tags if tag == "th"} == {"col", "row"}
    drawings = [found for tag, found in reader.tags if tag == "svg"]
    assert len(drawings) == len(MEASURES) + len(DRAWINGS)
    assert all(found["role"] == "img" and found["aria-labelledby"] for found in drawings)
    assert ("meta", {"name": "color-scheme", "content": "light dark"}) in reader.tags


def test_the_page_says_at_the_top_whether_it_helps() -> None:
    """Before any table: a verdict with its figures, signs as signs."""
    analysis = whole(60, SYSTEMS)
    top = page_of("three").split("<main>")[0]
    assert "<strong>pocket helps</strong>" in top
    assert "<strong>ms-marco-MiniLM-L6-v2 shows no clear difference</strong>" in top
    assert re.search(r"rises from 0\.\d{3} to 0\.\d{3} \(\+0\.\d{3}, 95\u00a0% interval \+0", top)
    low = next(c for c in analysis.comparisons if c.system == "ms-marco-MiniLM-L6-v2").interval.low
    assert f"\u2212{-low:.3f} to +" in top
    assert '<a href="#s1">ms-marco-MiniLM-L6-v2</a>' in top


def test_the_page_shows_the_queries_with_their_texts() -> None:
    """Helped and hurt, with both values."""
    analysis = whole(30)
    page = page_of("whole")
    for change in (analysis.second_passes[0].helped[0], analysis.second_passes[0].hurt[0]):
        assert f"<bdi>{change.query}</bdi>" in page
        assert f"{change.first:.3f} → {change.second:.3f}" in page
        assert change.text in page


@pytest.mark.usefixtures("undrawn")
def test_a_changed_query_opens_to_the_documents_that_moved() -> None:
    """With their grades and ranks, and where they were explained the texts in colours, which cannot break the page."""
    part = TextPart(0, 3, "<b>", 1.0, 0.7, 2.0, 0.2)
    why = Explanation("q", "<b>", 3.0, 0.9, 1.0, 0.7, (part,), (part,), (), Span(0, 1), Span(0, 3), 3)
    documents = (Moved(HOSTILE[1], 2, 14, 1, why), Moved(HOSTILE[5], None, None, 3))
    analysis = whole(30)
    (second,) = analysis.second_passes
    opened = replace(second, helped=(replace(second.helped[0], moved=documents), *second.helped[1:]))
    page = to_html(replace(analysis, second_passes=(opened,)))
    reader = Reader(page)
    assert [tag for tag, _ in reader.tags].count("details") == 1 + 1 + 30  # the change, and all queries
    assert f"<summary><bdi>{second.helped[0].text}</bdi></summary>" in page
    assert "relevant (grade 2), rank 14 → 1" in page
    assert f"unjudged, rank {NOTHING} → 3" in page
    assert page.count('title="+2.000">&lt;b&gt;</span>') == 1
    assert "<b>" not in page


def test_pairs_of_systems_are_told_query_by_query() -> None:
    """Effect sizes of all, when it hurts for each pair, and the changes of pairs that no second pass tells about."""
    page = page_of("three")
    assert page.count("<h3>When it hurts: ") == 3
    assert page.count("<h3>Helped most: ms-marco-MiniLM-L6-v2 against pocket</h3>") == 1
    assert "It hurts where query length is 21 to 1234" in page
    assert ">1,234</td>" in page


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("missing", DRAWINGS)
def test_a_drawing_appears_only_with_data(missing: str) -> None:
    """What an analysis lacks leaves no empty frame."""
    found = whole(30)
    (second,) = found.second_passes
    poorer = {
        "gains": replace(second, differences={}),
        "depth": replace(second, depth=None),
        "scores": replace(second, distribution=None),
        "thresholds": replace(second, thresholds=()),
        "reliability": replace(second, reliability=None),
    }
    reader = Reader(to_html(replace(found, second_passes=(poorer[missing],))))
    assert [title for title in DRAWINGS.values() if title not in reader.headings] == [DRAWINGS[missing]]


def test_one_run_alone_is_a_table() -> None:
    """No comparison, no second pass, no notes, no settings, no drawing."""
    reader = Reader(page_of("bare"))
    assert reader.headings == ["Second-pass evaluation", "Systems", "Means over 3 queries"]


@pytest.mark.usefixtures("undrawn")
def test_texts_cannot_break_the_page() -> None:
    """Tags are characters, controls are replaced, long texts are cut, directions do not leak, templates are text."""
    page = to_html(hostile(), HOSTILE[0])
    assert "<title>&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;</title>" in page
    assert "<script" not in page
    assert "<b>tags" not in page
    assert "W" * 600 not in page
    assert "{{ 7 * 7 }} {% raw %} $x^2$" in page
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", page)
    assert re.search("<bdi>\u202eright to left \u05e9\u05dc\u05d5\u05dd</bdi>", page)


def test_every_query_opens_to_its_values_and_ranks() -> None:
    """The helped and hurt lead there; arrows say what is above or below the first run, documents that are lost too."""
    analysis = whole(30)
    page = page_of("whole")
    (found,) = (each for each in analysis.queries if each.query == analysis.second_passes[0].hurt[0].query)
    place = analysis.queries.index(found)
    assert f'<a href="#q{place}"><bdi>{found.query}</bdi></a>' in page
    (closed,), (opened,) = (
        re.findall(pattern, page, re.DOTALL)
        for pattern in (rf'<summary class="entry">(?:(?!</summary>).)*<bdi>{found.query}</bdi>.*?</summary>',
                        rf'<div class="scroll" id="q{place}".*?</div>')
    )  # fmt: skip
    before, after = (report.values["nDCG@10"][found.query] for report in analysis.reports)
    assert f'<span>{before:.3f}</span><span class="down">{after:.3f}</span>' in closed
    assert f"<bdi>{found.text}</bdi>" in closed
    lost, second = found.documents[0], found.documents[1]
    row = r"<tr( class=\"worth\")?><th[^>]*>(?:<bdi>)?([^<]*).*?</th><td>(.*?)</td>(.*?)</tr>"
    rows = re.findall(row, opened.split("<tbody>")[1], re.DOTALL)
    cells = {name: (worth, grade, re.findall(r"<td[^>]*>(.*?)</td>", rest)) for worth, name, grade, rest in rows}
    assert list(cells) == [*MEASURES, *(each.document for each in found.documents)]
    assert cells[lost.document] == (' class="worth"', "1", [str(lost.ranks[0]), NOTHING])
    assert cells[second.document][2] == [str(rank) for rank in second.ranks]
    assert cells[found.documents[3].document][:2] == ("", "unjudged")
    assert 'class="down">\u2013' in opened
    assert "2 relevant documents are in none of the runs." in opened
    assert page.count('<summary class="entry">') == 30
    assert "<bdi>q1</bdi></a>" not in to_html(replace(analysis, queries=()))


def test_many_queries_make_a_small_page() -> None:
    """Lists are capped with a note, those that changed most are kept; every value is in the JSON and CSV."""
    found = whole(2_000)
    (second,) = found.second_passes
    many = replace(found, second_passes=(replace(second, helped=second.helped * 1000),))
    page = to_html(many)
    assert len(page.encode()) < 2_000_000
    opened = re.findall(r'<summary class="entry"><span></span><strong><bdi>(q\d+)<', page)
    assert 500 < len(opened) < 1000
    least = sorted(map(abs, second.differences.values()), reverse=True)[len(opened) - 1]
    assert {query for query, rise in second.differences.items() if abs(rise) > least} <= set(opened)
    assert f"Here are the {len(opened):,} of 2,000 queries whose nDCG@10 differs most between the runs" in page
    assert "values of all queries are in the CSV report" in page
    assert "9,980 more queries are not shown." in page


def test_many_systems_make_a_table_but_no_crowded_drawing() -> None:
    """Up to a dozen are drawn side by side."""
    systems = ("bm25", *(f"system{place}" for place in range(12)))
    found = replace(whole(8, systems), second_passes=())
    page = to_html(found)
    assert "<svg" not in page
    assert "system11" in page
    assert "<svg" in to_html(replace(found, reports=found.reports[:12]))


def test_the_same_analysis_gives_the_same_page(tmp_path: Path) -> None:
    """Byte for byte, to a file or a stream."""
    stream = io.StringIO()
    write_page(stream, whole(30))
    write_page(tmp_path / "report.html", bare())
    assert stream.getvalue() == page_of("whole")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page_of("bare")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """With the path."""
    with pytest.raises(InvalidInput, match="absent"):
        write_page(tmp_path / "absent" / "report.html", bare())


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
    assert plot.legend == (("gain", "area", "2 helped"), ("loss", "area", "1 hurt"))
    assert plot.note == "1 query keeps its value."
    assert "change in AP" in texts(plot)


def test_gains_of_many_queries_stay_small() -> None:
    """No more bars than pixels, from the best query to the worst."""
    few = plots.gains_plot("p", {str(place): place / 100 - 1 for place in range(200)}, "AP")
    many = plots.gains_plot("p", {str(place): place / 50_000 - 1 for place in range(100_000)}, "AP")
    assert many.legend == (("gain", "area", "49,999 helped"), ("loss", "area", "50,000 hurt"))
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
    assert plot.legend == (("gain", "area", "relevant (3)"), ("third", "area", "unjudged (3,004)"))


def test_distribution_of_equal_scores_is_drawn() -> None:
    """A single bin, even one of no width."""
    for edges in ((0.5, 0.5), (0.0, 1.0)):
        assert "<svg" in plots.distribution_plot("p", ScoreDistribution(edges, (3,), (0,), (0,))).svg


def test_thresholds_are_drawn_whatever_their_number() -> None:
    """One point is a dot, many are steps."""
    for points in ([threshold(0.5, 0.2, 1.0, 11)], FOUND.thresholds):
        assert plots.threshold_plot("p", points).legend == (
            ("second", "line", "precision, 95 % interval"),
            ("second", "dashes", "the same among judged documents"),
            ("loss", "line", "recall"),
        )


def drawn(axes: list[Axes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `draw` keep the axes that it drew."""

    def keeping(name: str, title: str, paint: Any, **lengths: float) -> str:
        return draw(name, title, lambda each: (axes.append(each), paint(each))[1], **lengths)

    monkeypatch.setattr(plots, "draw", keeping)


def test_precision_of_a_handful_of_documents_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One relevant document of one is no precision of 1; recall, a known count, is drawn whole."""
    axes: list[Axes] = []
    drawn(axes, monkeypatch)
    points = [threshold(score, 1.0, 0.5, kept) for score, kept in ((0.1, 200), (0.5, 10), (0.7, 9), (0.9, 1))]
    note = plots.threshold_plot("p", points).note
    precision, judged, recall = axes[0].lines
    assert list(precision.get_xdata()) == list(judged.get_xdata()) == [0.1, 0.5]
    assert list(recall.get_xdata()) == [0.1, 0.5, 0.7, 0.9]
    assert note == "Precision is drawn from 10 documents on."


def test_axes_are_labelled_and_ticked_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a plot shows: a reader need not guess where an axis ends."""
    axes: list[Axes] = []
    drawn(axes, monkeypatch)
    to_html(whole(30))
    assert len(axes) == len(MEASURES) + len(DRAWINGS)
    for each in axes:
        for name, axis in (("x", each.xaxis), ("y", each.yaxis)):
            if not (ticks := sorted(axis.get_majorticklocs().tolist())):
                continue  # rows of systems
            low, high = getattr(each, f"get_{name}lim")()
            assert axis.get_label_text(), each.get_xlabel()
            assert [ticks[0], ticks[-1]] == pytest.approx([low, high], abs=0.05 * (high - low)), each.get_xlabel()


def test_reliability_says_its_errors() -> None:
    """Below the diagram; judged documents alone have a key where some are unjudged."""
    assert FOUND.reliability is not None
    plot = plots.reliability_plot("p", FOUND.reliability)
    assert plot.note == reliability_sentence(FOUND.reliability)
    assert [kind for _, kind, _ in plot.legend] == ["dots", "rings", "dashes"]


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
