"""page: one HTML page that needs nothing but itself."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import Analysis
from secondpass.evaluation.reporting.page import to_html, write_page
from tests.evaluation.reporting.analyses import HOSTILE, MEASURES, bare, hostile, whole

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


@pytest.mark.parametrize("analysis", [whole(30), hostile(), bare()], ids=["whole", "hostile", "bare"])
def test_the_page_is_well_formed_and_alone(analysis: Analysis) -> None:
    """Tags nest, ids are unique and found, and nothing is loaded: no script, no address, no style from outside."""
    page = to_html(analysis)
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
    reader = Reader(to_html(whole(30)))
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
    analysis = whole(systems=("bm25", "rerank", "other"))
    top = to_html(analysis).split("<main>")[0]
    assert "<strong>rerank helps</strong>" in top
    assert "<strong>other shows no clear difference</strong>" in top
    assert re.search(r"rises from 0\.\d{3} to 0\.\d{3} \(\+0\.\d{3}, 95\u00a0% interval \+0", top)
    low = next(c for c in analysis.comparisons if c.system == "other").interval.low
    assert f"\u2212{-low:.3f} to +" in top
    assert '<a href="#s1">other</a>' in top


def test_the_page_shows_the_queries_with_their_texts() -> None:
    """Helped and hurt, with both values."""
    analysis = whole(30)
    page = to_html(analysis)
    for change in (analysis.second_passes[0].helped[0], analysis.second_passes[0].hurt[0]):
        assert f"<bdi>{change.query}</bdi>" in page
        assert f"{change.first:.3f} → {change.second:.3f}" in page
        assert change.text in page


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
    reader = Reader(to_html(bare(), "Only one"))
    assert reader.headings == ["Only one", "Systems", "Means over 3 queries"]


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


def test_ten_thousand_queries_make_a_small_page() -> None:
    """Lists are capped with a note; every value is in the JSON and CSV."""
    found = whole(10_000)
    (second,) = found.second_passes
    many = replace(found, second_passes=(replace(second, helped=second.helped * 1000),))
    page = to_html(many)
    assert len(page.encode()) < 500_000
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
    write_page(stream, whole(30), "Title")
    write_page(tmp_path / "report.html", whole(30), "Title")
    assert stream.getvalue() == (tmp_path / "report.html").read_text(encoding="utf-8") == to_html(whole(30), "Title")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """With the path."""
    with pytest.raises(InvalidInput, match="absent"):
        write_page(tmp_path / "absent" / "report.html", bare())
