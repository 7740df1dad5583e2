"""Notebooks of docs/notebooks run as they are, and what they show is readable HTML that asks for nothing outside."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from secondpass import CrossEncoder
from secondpass.display import BAR, LONGEST_TEXT, html_table, stacked
from secondpass.errors import InvalidInput
from secondpass.evaluation import Qrels, Run, analyse, depth_plot, evaluate, reliability_plot
from secondpass.evaluation.reporting.plots import NOTEBOOK
from secondpass.ranking import Ranked, Ranking
from secondpass.record import Cut
from secondpass.tuning import tune

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# What the last cells of each must have shown, by words of their HTML.
SHOWN = {
    "first-steps": ("<th", "Leave-one-out", "not read"),
    "evaluate": ("Differences", "candidates re-ranked", "perfectly calibrated"),
    "train": ("nDCG@10 on held-out queries", "<th"),
    "tune": ("Recommended: ", "probability", "perfectly calibrated"),
}


def cells(file: Path) -> list[dict[str, Any]]:
    """The cells of a notebook as they are stored."""
    made: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["cells"]
    return made


def test_there_are_four() -> None:
    """First steps, evaluate, train, tune."""
    assert {file.stem for file in NOTEBOOKS} == set(SHOWN)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_stored_without_outputs(file: Path) -> None:
    """Figures depend on the processor's last bits, and a diff of pictures tells nobody anything."""
    stored = [cell for cell in cells(file) if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in stored)
    text = file.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    for name in re.findall(r"\]\(([\w-]+\.ipynb)\)", text):
        assert (FOLDER / name).is_file()


@pytest.fixture
def jupyter(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Folders of Jupyter's own, so that nobody's settings matter and none are written."""
    folder = tmp_path_factory.mktemp("jupyter")
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(file: Path, jupyter: None, tmp_path: Path) -> None:
    """From the first cell to the last, without an error, with the displays that their texts speak of."""
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient of the extra test")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient of the extra test")
    pytest.importorskip("ipykernel", reason="needs ipykernel of the extra test")

    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, kernel_name="python3", timeout=240, startup_timeout=240, resources=place)
    client.execute(env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    for words in SHOWN[file.stem]:
        assert any(words in page for page in pages), words
    for page in pages:
        check(page)
    assert list(tmp_path.iterdir()) == []


class Checked(HTMLParser):
    """Tags that are open, and what a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("br", "img", "meta", "link"):
            self.open.append(tag)
        fetched = [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.outside += [str(value) for value in fetched if not str(value).startswith("#")]
        self.outside += [tag] * (tag in ("script", "link", "img", "iframe", "object"))
        self.outside += [name for name, _ in attrs if name.startswith("on")]
        self.outside += [
            str(value) for name, value in attrs if name == "style" and "url(" in str(value).replace("url(#", "")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("br", "img", "meta", "link"):
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check(page: str) -> Checked:
    """Every tag is closed, and nothing is fetched or run."""
    found = Checked()
    found.feed(page)
    found.close()
    assert found.open == []
    assert found.outside == []
    return found


# ---- What is shown.
HTML = "<script>alert(1)</script>&amp;"


def test_a_ranking_shows_its_texts(tiny: CrossEncoder) -> None:
    """Best first, with index, score and logit, and the texts where they were handed over; HTML in them is text."""
    texts = ["the cat", HTML, "the mat"]
    (ranking,) = tiny.rank_many(["a cat"], [texts])
    assert "text" not in check(ranking._repr_html_()).text
    found = check(ranking.with_texts(texts)._repr_html_())
    assert HTML in found.text
    assert ranking.with_texts(texts) == ranking
    assert re.findall(r"rankindexscorelogittext", found.text)
    places = [found.text.index(f"{one.logit:.4f}") for one in ranking.documents]
    assert all(a < b for a, b in pairwise(places))
    with pytest.raises(InvalidInput, match="documents has 1 texts, and document 2 was ranked"):
        ranking.with_texts(texts[:1])


def test_a_ranking_says_what_is_not_usual(tiny: CrossEncoder) -> None:
    """Nothing ranked; not scored in time; probabilities; tokens that were not read; the verdict."""
    (empty,) = tiny.rank_many(["a cat"], [[]])
    assert check(empty.with_texts([])._repr_html_()).text == "rankindexscorelogittext"
    documents = (Ranked(1, 0.9, 2.0, probability=0.75), Ranked(0, 0.9, 2.0, scored=False))
    made = Ranking(documents, (Cut(1, 0, 7),), empty.record, unscored=1, nothing_relevant=True)
    text = check(made.with_texts(["a" * 1000, "b"])._repr_html_()).text
    for said in ("0.750", "7 tokens", "1 not scored in time.", "Nothing relevant", "a" * (LONGEST_TEXT - 1) + "…"):
        assert said in text
    assert "a" * LONGEST_TEXT not in text


def test_control_characters_are_marked() -> None:
    """They would be nothing, or change the direction of what follows."""
    text = check(html_table([("x\x00", "name")], [["\x1b[31m\u202eabc"]])).text
    assert "\x00" not in text
    assert "\x1b" not in text


def runs() -> tuple[Qrels, Run, Run]:
    """Judgements with two passes over them."""
    names = [f"d{number}" for number in range(6)]
    qrels = Qrels({f"q{query}": {names[query % 3]: 1, names[5]: 0} for query in range(12)})
    first = Run(
        "<b>first</b>", {query: [(name, 1 - 0.1 * place) for place, name in enumerate(names)] for query in qrels}
    )
    second = Run("second", {
        query: sorted(((name, 0.9 if name in ("d0", "d1") else 0.2) for name in names), key=lambda one: -one[1])
        for query in qrels
    })  # fmt: skip
    return qrels, first, second


def test_an_evaluation_is_shown() -> None:
    """A report as its means, an analysis as means and differences; names of runs are text."""
    qrels, first, second = runs()
    assert "nDCG@10" in check(evaluate(qrels, first, ["nDCG@10"])._repr_html_()).text
    analysis = analyse(qrels, [first, second], ["nDCG@10", "RR@10"])
    found = check(analysis._repr_html_()).text
    assert "<b>first</b>" in found
    assert f"{analysis.comparisons[0].difference:+.4f}" in found
    assert "Differences" not in check(analyse(qrels, [first], ["nDCG@10"])._repr_html_()).text


def test_plots_are_shown() -> None:
    """nDCG by depth and the reliability diagram as drawings of their own, titled for those who do not see them."""
    qrels, first, second = runs()
    (change,) = analyse(qrels, [first, second], ["nDCG@10"]).second_passes
    assert change.depth is not None
    assert change.reliability is not None
    for plot in (depth_plot("a", change.depth), reliability_plot("b", change.reliability)):
        page = plot._repr_html_()
        check(page)
        assert 'role="img"' in page
        assert set(re.findall(r"var\(--(\w+)\)", page)) <= set(NOTEBOOK)


def test_a_tuning_is_shown() -> None:
    """The ways, held out, and the verdicts."""
    pytest.importorskip("venn_abers")
    qrels, first, second = runs()
    found = tune(qrels, [first], Run("reranker", {query: dict(second[query]).items() for query in second}), splits=4)
    text = check(found._repr_html_()).text
    assert f"Recommended: {found.recommended}." in text
    assert all(one.name in text for one in found.outcomes)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG has it, of #rrggbb or rgb(r,g,b)."""
    numbers = (
        [int(colour[at : at + 2], 16) for at in (1, 3, 5)] if colour[0] == "#" else map(int, re.findall(r"\d+", colour))
    )
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (n / 255 for n in numbers)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colour", [BAR, *(colour for name, colour in NOTEBOOK.items() if name != "faint")])
def test_colours_stand_out_from_light_and_dark(colour: str) -> None:
    """Three to one, as WCAG asks of graphics, against white and against Jupyter's dark page (#111111)."""
    own, dark = luminance(colour), luminance("#111111")
    assert 1.05 / (own + 0.05) >= 3
    assert (own + 0.05) / (dark + 0.05) >= 3


def test_rows_line_by_line() -> None:
    """Where columns do not fit beside each other nothing is lost."""
    lines = list(stacked(["id", ""], [["a", "b"], ["c", "d"]]))
    assert lines == ["id: a", "b", "", "id: c", "d"]
