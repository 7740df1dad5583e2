"""The playground in a real browser: ten stories, what a hostile user does, the page's structure, and axe's rules."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from secondpass import CrossEncoder
from secondpass.calibration import Calibration
from secondpass.corpora import read_corpus
from secondpass.fusion import Candidates, Fusion
from secondpass.serving import Settings
from secondpass.serving.settings import ApiKeys
from secondpass.windows import Windows
from tests.serving.browser import DESKTOP, PHONE, PROGRAM, Browser, Page, chromium
from tests.serving.conftest import KEY, Live, running

QUERY = "I was charged twice, how do I get my money back"
OUTLINES = Path(__file__).parent / "outlines"
Open = Callable[..., AbstractContextManager[Page]]
QUIET = "document.querySelector('.hit') && !document.querySelector('[aria-busy]')"
# In pairs: the place of a document by the first pass, and by a column.
PLACES = "[...document.querySelectorAll('[data-column=\"{}\"] .hit')].map(one => Number(one.dataset.place))"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no chromium on PATH")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all stories, each in a window that shares nothing with others."""
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def play() -> Iterator[Live]:
    """The page over the packaged help centre, with two models, one of which has a calibration."""
    models = [CrossEncoder("secondpass/pocket", device="cpu") for _ in range(2)]
    models[1].use_calibration(Calibration("logistic", slope=0.5, intercept=-1.0))
    with running(
        Settings(playground="secondpass/demo"), dict(zip(("pocket", "calibrated"), models, strict=True))
    ) as live:
        yield live


@pytest.fixture
def window(browser: Browser, play: Live) -> Open:
    """Open the page, with a link's state where one is given; it waits for models and results."""

    def opened(state: str = "", size: tuple[int, int] = DESKTOP, dark: bool = False, live: Live = play) -> Any:
        return _Opened(browser, f"{live.url}/playground{state}", size, dark, bool(state))

    return opened


class _Opened:
    """A page that is there once it has what it asked for, and at whose end the console is empty."""

    def __init__(self, browser: Browser, address: str, size: tuple[int, int], dark: bool, has_state: bool) -> None:
        self._context = browser.page(address, size, dark)
        self._has_state = has_state

    def __enter__(self) -> Page:
        self.page = self._context.__enter__()
        self.page.until("document.querySelectorAll('#models input').length")
        if self._has_state:
            self.page.until(QUIET)
        return self.page

    def __exit__(self, kind: Any, error: Any, at: Any) -> None:
        complaints = [] if kind else self.page.complaints
        self._context.__exit__(kind, error, at)
        assert complaints == []


def link(**state: object) -> str:
    """The fragment of a state."""
    return "#" + urlencode({"q": QUERY, **state})


def search(page: Page, query: str = QUERY) -> None:
    """Ask as a person does."""
    page.click("#query")
    page.write(query)
    page.press("Enter")
    page.until(QUIET)


def slide(page: Page, name: str, value: float) -> None:
    """Move a slider, and wait for what comes of it."""
    before = page.value("location.hash")
    page.value(
        f"(() => {{ const one = document.getElementById('{name}'); one.value = {value};"
        "one.dispatchEvent(new Event('input', {bubbles: true})) })()"
    )
    page.until(f"location.hash !== {json.dumps(before)} && {QUIET}")


# ---- The ten stories


def test_1_a_search_shows_both_passes(window: Open, play: Live) -> None:
    """Both orders with bars, what moved by badges and lines, each stage's time, and a link; no other host is asked."""
    with window() as page:
        assert page.texts("#examples .chip")[0] == QUERY
        search(page)
        assert page.value("document.title") == f"{QUERY} \N{EN DASH} secondpass playground"
        first, second = (page.value(PLACES.format(column)) for column in (0, 1))
        assert first == list(range(10))
        told = play.client.post("/playground/search", json={"query": QUERY, "top_k": 20}).json()["results"]
        texts = [f"{one['title']} {one['text']}" for one in told]
        ranked = play.client.post("/v2/rerank", json={"query": QUERY, "documents": texts}).json()["results"]
        assert second == [one["index"] for one in ranked][:10]
        assert page.texts('[data-column="1"] .value')[0].startswith(f"{ranked[0]['relevance_score']:.2f}")
        moved = page.texts('[data-column="1"] .moved .hidden')
        by = second[0] - 0
        assert moved[0] == ("same place" if not by else f"up {by} place{'s' * (by > 1)}")
        lines = page.value("[...document.querySelectorAll('.lines path')].map(one => one.classList[0])")
        assert {"up", "down"} <= set(lines)
        assert page.value("getComputedStyle(document.querySelector('.bar i')).inlineSize !== '0px'")
        assert [re.sub(r" [\d.]+ ", " 9 ", stage) for stage in page.texts("#stages li")] == ["BM25 9 ms", "pocket 9 ms"]
        page.click("#more")
        page.until("document.querySelectorAll('[data-column=\"1\"] .hit').length === 20")
        assert {address.split("/")[2] for address in page.requested if "://" in address} == {play.url.split("/")[2]}
        state = page.value("location.hash")
    with window(state) as other:
        assert other.value("document.querySelectorAll('[data-column=\"1\"] .hit').length") == 20
        assert other.value("document.getElementById('query').value") == QUERY


def test_2_depth_and_fusion_order_anew(window: Open, play: Live) -> None:
    """The second pass reads what is asked; a weight orders as `secondpass.fusion` does, without asking again."""
    with window(link(depth=20, all=1)) as page:
        slide(page, "depth", 5)
        assert sorted(page.value(PLACES.format(1))) == list(range(5))
        assert page.texts(".depth") == ["the second pass reads 5, down to here"]
        assert page.value("document.querySelectorAll('[data-column=\"0\"] .hit.unread').length") > 5
        slide(page, "depth", 20)
        asked = len([one for one in page.requested if one.endswith("/v2/rerank")])
        slide(page, "weight", 0.4)
        fused = page.value(PLACES.format(1))
        assert len([one for one in page.requested if one.endswith("/v2/rerank")]) == asked
        assert "40 %" in page.texts('[data-column="1"] .about')[0]
        slide(page, "weight", 0)
        assert page.value(PLACES.format(1)) == list(range(20))
    told = play.client.post("/playground/search", json={"query": QUERY, "top_k": 20}).json()["results"]
    texts = [f"{one['title']} {one['text']}" for one in told]
    pairs = [[QUERY, text] for text in texts]
    logits = play.client.post("/score", json={"pairs": pairs, "raw_scores": True}).json()["scores"]
    given = {"first": [(str(place), one["score"]) for place, one in enumerate(told)]}
    candidates = Candidates.of(given).with_logits(np.array(logits))
    weighed = Fusion("weighted", {"first": 0.6, "reranker": 0.4}).scores(candidates)
    assert fused == np.argsort(-weighed, kind="stable").tolist()
    activated = candidates.with_logits(1 / (1 + np.exp(-np.array(logits))))
    other = Fusion("weighted", {"first": 0.6, "reranker": 0.4}).scores(activated)
    assert fused != np.argsort(-other, kind="stable").tolist()


def test_3_models_stand_beside_each_other(window: Open) -> None:
    """One more column with its own time, probabilities where there is a calibration; one model always stays."""
    with window(link()) as page:
        page.click('#models input[value="calibrated"]')
        page.until("document.querySelectorAll('.column').length === 3")
        assert page.texts(".column h2") == ["First pass", "pocket", "calibrated"]
        assert [stage.split()[0] for stage in page.texts("#stages li")] == ["BM25", "pocket", "calibrated"]
        value = page.texts('[data-column="2"] .value')[0]
        assert re.search(r"\d %", value)
        assert re.search(r"probability \d+ %, between", value)
        page.click('#models input[value="pocket"]')
        page.until("document.querySelectorAll('.column').length === 2")
        assert page.texts(".column h2") == ["First pass", "calibrated"]
        page.click('#models input[value="calibrated"]')
        page.until("document.getElementById('status').textContent === 'One model at least reads.'")
        assert page.value("document.querySelector('#models input[value=\"calibrated\"]').checked")
        assert "models=calibrated" in page.value("location.hash")


def test_4_words_that_made_the_score_on_hover(window: Open, play: Live) -> None:
    """A mouse that rests on a document sees its words coloured; a click opens the same to stay, Escape closes both."""
    with window(link()) as page:
        page.move('[data-column="1"] .hit:nth-child(1)')
        page.until("document.querySelector('#peek .part.by5')")
        assert page.value("document.querySelectorAll('#board .lit').length") >= 2
        page.press("Escape")
        page.until("document.getElementById('peek').hidden")
        title = page.texts('[data-column="1"] .open')[0]
        page.click('[data-column="1"] .hit:nth-child(1) .open')
        page.until("document.querySelector('#reader[open] .strongest li')")
        assert page.texts("#reader-title") == [title]
        shown = page.texts("#reading .text")[0]
        told = play.client.post("/playground/explain", json={"query": QUERY, "document": shown}).json()
        parts = [part for one in told["sentences"] for part in
                 [word for word in told["words"] if one["start"] <= word["start"] < one["end"]] or [one]]  # fmt: skip
        best = max(parts, key=lambda part: abs(part["contribution"]))
        strongest = page.texts("#reading .strongest li")[0]
        assert strongest == f"{best['text'][:60]}{best['contribution']:+.2f}".replace("-", "\N{MINUS SIGN}")
        sentence = max(told["sentences"], key=lambda one: one["contribution"])
        assert page.texts("#reading .text mark") == [sentence["text"]]
        page.press("Escape")
        page.until("!document.getElementById('reader').open")


OWN = ["The zoo opens at nine.", "Berlin had 3.7 million inhabitants in 2023.", "<img src=x onerror=alert(1)> Berlin"]


def test_5_documents_of_ones_own(window: Open, play: Live) -> None:
    """Pasted ones are ranked, outlive a reload of the tab, are in no link, and HTML in them is text."""
    with window() as page:
        page.click("#own")
        page.click("#texts")
        page.write("\n".join(OWN))
        page.click("#use")
        page.until("!document.getElementById('documents').open")
        search(page, "how many people live in Berlin")
        assert page.texts('[data-column="1"] .open')[0] == OWN[1]
        assert OWN[2] in page.texts(".open")
        assert page.value("document.querySelectorAll('#board img, #board b > *').length") == 0
        assert "3 documents of yours" in page.texts("#about")[0]
        state = page.value("location.hash")
        assert "inhabitants" not in state
        page.call("Page.reload")
        page.until(f"document.getElementById('models')?.querySelector('input') && {QUIET}")
        assert page.texts('[data-column="1"] .open')[0] == OWN[1]
        page.click("#corpus")
        page.until("document.querySelectorAll('[data-column=\"1\"] .hit').length === 10")
        assert "305 documents" in page.texts("#about")[0]
    with window(state) as other:
        other.until("document.getElementById('status').textContent.includes('documents that are not in it')")


def test_6_the_keyboard_is_enough(window: Open) -> None:
    """From the query over the sliders to an explanation and back, with a focus that is seen all the way."""
    with window() as page:
        assert page.value("document.activeElement.id") == "query"
        page.write(QUERY)
        page.press("Enter")
        page.until(QUIET)
        ways = []
        for _ in range(12):
            page.press("Tab")
            ways.append(
                page.value(
                    "document.activeElement.id || document.activeElement.value || document.activeElement.className"
                )
            )
            assert page.value("document.activeElement.matches(':focus-visible')")
        assert [way for way in ways if way in ("pocket", "depth", "weight", "long", "own")] == [
            "pocket",
            "depth",
            "weight",
            "long",
            "own",
        ]
        page.value("document.getElementById('depth').focus()")
        page.press("ArrowRight")
        page.until(f"location.hash.includes('depth=21') && {QUIET}")
        page.value("document.querySelector('[data-column=\"1\"] .open').focus()")
        page.press("Enter")
        page.until("document.querySelector('#reader[open] .strongest')")
        assert page.value("document.getElementById('reader').contains(document.activeElement)")
        page.press("Escape")
        page.until("!document.getElementById('reader').open")
        assert page.value("document.activeElement.closest('[data-column]').dataset.column") == "1"
        page.value("document.getElementById('skip').focus()")
        page.press("Enter")
        assert page.value("document.activeElement.id") == "results"
        assert "q=" in page.value("location.hash")


def test_7_a_telephone_shows_one_column(window: Open) -> None:
    """Nothing is wider than the screen, a choice of columns takes the place of the lines, targets are large enough."""
    with window(link(models="pocket,calibrated"), PHONE) as page:
        shown = (
            "[...document.querySelectorAll('.column')].filter(one => one.offsetParent).map(one => one.dataset.column)"
        )
        assert page.value(shown) == ["1"]
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert page.texts("#views label") == ["First pass", "pocket", "calibrated"]
        page.click('#views input[value="0"]')
        page.until(f"{shown}[0] === '0'")
        page.click('#views input[value="2"]')
        page.until(f"{shown}[0] === '2'")
        small = page.value(
            "[...document.querySelectorAll('button, label.chip, input[type=range]')].filter(one => one.offsetParent"
            " && !one.matches('.open') && one.getBoundingClientRect().height < 28).map(one => one.outerHTML)"
        )
        assert small == []
        page.click('[data-column="2"] .hit .open')
        page.until("document.querySelector('#reader[open] .text')")
        assert page.value("document.getElementById('reader').getBoundingClientRect().width") == PHONE[0]


def test_8_dark_where_the_system_is(window: Open) -> None:
    """Another ground and another ink; what moved is told by signs too, not by colours alone."""

    def brightness(page: Page, name: str) -> int:
        return sum(map(int, re.findall(r"\d+", page.value(f"getComputedStyle(document.body).{name}"))[:3]))

    with window(link(), dark=True) as page:
        dark = brightness(page, "backgroundColor"), brightness(page, "color")
        page.colours(dark=False)
        light = brightness(page, "backgroundColor"), brightness(page, "color")
        assert {sign.split()[0] for sign in page.texts(".moved [aria-hidden]")} <= {"▲", "▼", "="}
    assert max(dark[0], light[1]) < 100
    assert min(dark[1], light[0]) > 600


def test_9_a_long_document_is_read_whole(window: Open) -> None:
    """Its best passage is marked where it stands, with how many windows were read; in one piece, that it was cut."""
    filler = "The zoo is open and the 😀 trains are late. " * 100
    answer = "Berlin had 3.7 million inhabitants in 2023."
    with window() as page:
        page.click("#own")
        page.click("#texts")
        page.write(
            json.dumps({"title": "Report", "text": f"{filler}{answer} {filler}"}) + '\n{"text": "About Berlin."}'
        )
        page.click("#use")
        page.until("!document.getElementById('documents').open")
        search(page, "how many people live in Berlin")
        assert page.texts('[data-column="1"] .snippet mark')[0].startswith("…")
        place = page.value("document.querySelector('[data-column=\"1\"] .snippet mark').closest('.hit').dataset.place")
        page.click(f'[data-column="1"] [data-place="{place}"] .open')
        page.until("document.querySelector('#reading .strongest')")
        assert answer in page.texts("#reading mark")[0]
        assert "Best passage is marked" in page.texts("#reading .facts")[0]
        assert re.search(r"\d+ windows read", page.texts("#reading .facts")[0])
        page.press("Escape")
        page.click(f'[data-column="0"] [data-place="{place}"] .open')
        page.until("document.querySelector('#reader[open] h3')")
        said = r"First pass: (BM25 [\d.]+|no word in common) · pocket: score [\d.]+ · Best passage is marked"
        assert re.match(said, page.texts("#reading .facts")[0])
        assert answer in page.texts("#reading mark")[0]
        page.press("Escape")
        page.click("#long")
        page.until(f"location.hash.includes('long=0') && {QUIET}")
        page.until("document.querySelector('[data-column=\"1\"] .warning').textContent.startsWith('cut documents')")
        page.click(f'[data-column="0"] [data-place="{place}"] .open')
        page.until("document.querySelector('#reader[open] h3')")
        asked = [(one["windows"], "passage" in one) for one in page.posted("/playground/explain")]
        assert (asked[0], asked[-1]) == ((True, True), (False, False))


def test_the_only_window_of_a_long_document_is_its_passage(window: Open, pocket: CrossEncoder) -> None:
    """Where a service reads one of each; a document that fits is no passage of itself."""
    settings = Settings(playground="secondpass/demo", truncation=Windows(tokens=32, most=1))
    with running(settings, {"pocket": pocket}) as live, window(live=live) as page:
        page.click("#own")
        page.click("#texts")
        page.write(f"Berlin has 3.7 million people. {'The zoo is open. ' * 20}\nAbout Berlin.")
        page.click("#use")
        page.until("!document.getElementById('documents').open")
        search(page, "how many people live in Berlin")
        (passage,) = page.texts('[data-column="1"] .snippet mark')
        assert passage.startswith("Berlin has 3.7 million people.")


def test_10_the_service_fails_and_comes_back(window: Open, tiny: CrossEncoder) -> None:
    """A refusal in the service's words; one that is gone is told, what is shown stays, and it goes on where it was."""
    with running(Settings(playground="secondpass/demo", max_characters=100), {"tiny": tiny}) as live:
        with window(live=live) as page:
            page.click("#query")
            page.write("a" * 101)
            page.press("Enter")
            page.until("!document.getElementById('problem').hidden")
            assert "query has 101 characters, more than 100" in page.texts("#problem p")[0].lower()
            assert "(request " in page.texts("#problem p")[0]
    with running(Settings(playground="secondpass/demo", shutdown_delay_s=600.0), {"tiny": tiny}) as live:
        with window(link(), live=live) as page:
            live.service.admission.drain()
            slide_refused(page)
            assert page.texts("#problem p")[0].startswith("The service is stopping. (request ")
            assert page.value("document.querySelectorAll('.hit').length") == 20
            live.service.admission.draining_since = None
            page.click("#problem button")
            page.until(f"document.getElementById('problem').hidden && {QUIET}")
            assert sorted(page.value(PLACES.format(1))) == list(range(7))


def slide_refused(page: Page) -> None:
    """Ask what is refused, and be told."""
    page.value("(() => { const one = document.getElementById('depth'); one.value = 7;"
               "one.dispatchEvent(new Event('input', {bubbles: true})) })()")  # fmt: skip
    page.until("!document.getElementById('problem').hidden")


def test_a_model_that_fails_stands_beside_one_that_answers(window: Open, pocket: CrossEncoder) -> None:
    """The line says who read and who gave no scores; of more than were asked for, that more may have been found."""
    settings = Settings(playground="secondpass/demo", truncation="error", max_documents=5)
    models = {"pocket": pocket, "short": CrossEncoder("secondpass/pocket", device="cpu", max_length=24)}
    with running(settings, models) as live, window(link(models="pocket,short", long=0), live=live) as page:
        assert page.texts('[data-column="0"] .about') == ["BM25 · 5 or more of 305 found"]
        best = page.texts('[data-column="1"] .open')[0]
        said = f"pocket read 5 of 5 or more found. First: {best} · No scores from short."
        page.until(f"document.getElementById('status').textContent === {json.dumps(said)}")
        assert "longer than the model's window of 24 tokens" in page.texts('[data-column="2"] .problem')[0]
        page.click('#models input[value="pocket"]')
        page.until("document.getElementById('status').textContent === 'No scores from short.'")


def test_back_to_fewer_models_shows_one_of_them(window: Open) -> None:
    """On a telephone, where the column that was looked at is there no more."""
    with window(link(), PHONE) as page:
        search(page, "refund ")
        page.click('#models input[value="calibrated"]')
        page.click('#views input[value="2"]')
        page.value("history.back()")
        page.until(f"document.querySelectorAll('#views input').length === 2 && {QUIET}")
        assert page.value("[...document.querySelectorAll('.column')].filter(one => one.offsetParent).length") == 1
        assert page.value("document.getElementById('query').value") == QUERY


def test_what_is_done_before_the_service_answers(browser: Browser, play: Live) -> None:
    """What is asked is asked then, who tries again twice gets the controls once, and no slider takes what is typed."""

    def held(count: int) -> str:
        """The last of so many requests that wait."""
        for _ in range(1000):
            page.value("new Promise(requestAnimationFrame)")
            paused = [event["params"] for event in browser.events if event["method"] == "Fetch.requestPaused"]
            if len(paused) == count:
                return str(paused[-1]["requestId"])
        raise AssertionError(f"{len(paused)} requests wait, not {count}")

    with browser.page("about:blank") as page:
        page.call("Fetch.enable", patterns=[{"urlPattern": "*/info"}])
        page.open(f"{play.url}/playground")
        page.until("location.pathname === '/playground'")
        page.call("Fetch.failRequest", requestId=held(1), errorReason="ConnectionRefused")
        page.until("!document.getElementById('problem').hidden")
        page.click("#query")
        page.write(QUERY)
        page.press("Enter")
        page.until("document.getElementById('status').textContent.startsWith('One moment')")
        for _ in range(2):
            page.click("#problem button")
        assert len([one for one in page.requested if one.endswith("/info")]) == 2
        page.call("Fetch.continueRequest", requestId=held(2))
        page.until(f"document.title.startsWith({json.dumps(QUERY)}) && {QUIET}")
        assert page.texts("#models label") == ["pocket", "calibrated"]
        page.click("#query")
        page.value("document.getElementById('query').select()")
        page.write("not asked yet")
        slide(page, "depth", 7)
        assert page.value("document.getElementById('query').value") == "not asked yet"
        assert page.value("document.title").startswith(QUERY)


# ---- What a hostile user does


def test_an_empty_query_is_no_question(window: Open) -> None:
    """It is said beside the field, and nothing is asked."""
    with window() as page:
        before = len(page.requested)
        page.click("#query")
        page.write("   ")
        page.press("Enter")
        page.until("!document.getElementById('hint').hidden")
        assert page.value("document.getElementById('query').getAttribute('aria-invalid')") == "true"
        assert len(page.requested) == before


def test_html_in_a_query_a_link_and_a_model_is_text(window: Open) -> None:
    """Nothing of them becomes an element."""
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script> charged'
    with window(link(q=evil, depth="NaN", weight="-7", models="<b>,x")) as page:
        assert page.value("document.title").startswith("<img src=x")
        assert page.value("document.querySelectorAll('img').length") == 0
        assert page.value("document.querySelectorAll('script').length") == 1
        assert page.texts(".column h2") == ["First pass", "pocket"]


def test_ten_thousand_pasted_documents(window: Open) -> None:
    """As many as one request may have are taken, and how many are left out is told."""
    with window() as page:
        page.click("#own")
        many = "Array.from({length: 10000}, (_, n) => `Document ${n} about trains`).join('\\n')"
        page.value(f"document.getElementById('texts').value = {many}")
        page.click("#use")
        page.until("document.getElementById('status').textContent.includes('9,000 are left out')")
        search(page, "trains 777")
        assert page.texts('[data-column="0"] .open')[0] == "Document 777 about trains"
        assert "9,000 more are left out" in page.texts("#about")[0]


DROP = """(async () => {{
  const carried = new DataTransfer();
  carried.items.add(new File([{content}], "{name}"));
  for (const kind of ["dragover", "drop"]) {{
    document.body.dispatchEvent(new DragEvent(kind, {{dataTransfer: carried, bubbles: true, cancelable: true}}));
  }}
}})()"""

# Whether the page leaves the event to the browser.
DROPPED_TEXT = """(() => {
  const carried = new DataTransfer(), given = {dataTransfer: carried, bubbles: true, cancelable: true};
  carried.setData("text/plain", "charged");
  return document.getElementById("query").dispatchEvent(new DragEvent("drop", given));
})()"""


def test_files_that_are_dropped(window: Open) -> None:
    """A corpus is taken; one that is too large, holds no text or no documents is refused in words."""
    with window() as page:
        for content, name, said in (
            ("new Uint8Array(11e6)", "huge.jsonl", "huge.jsonl has 11.0 MB"),
            ("new Uint8Array(99)", "picture.png", "it holds no text"),
            ('\'{"text": "a"}\\n{oh\'', "broken.jsonl", "Line 2: not JSON"),
            ("'{\"body\": 3}'", "other.jsonl", "Line 1: no “text”"),
            ("'{oh'", "none.jsonl", "Line 1: not JSON"),
            ("'[{\"text\": 3}]'", "list.json", "Document 1: no “text”"),
            ("'3'", "three.json", "It is no JSON list"),
            ("' \\n'", "empty.txt", "There is no document in it."),
        ):
            page.value(DROP.format(content=content, name=name))
            page.until(f"document.getElementById('texts-said').textContent.includes({json.dumps(said)})")
        for first, name in (("", "pets.tsv"), ("docid\\t Text\\n", "named.tsv")):
            # the last one says nothing
            page.value(DROP.format(content=f"'{first}1\\tA cat.\\n2\\tA dog.\\n3\\t\\u200b'", name=name))
            page.until(f"document.getElementById('about').textContent.startsWith('{name} · 2 documents of yours')")
        assert page.value("document.getElementById('drop').hidden")
        # what is no file is the browser's to put where it is dropped
        assert page.value(DROPPED_TEXT)


def test_two_tabs_know_nothing_of_each_other(window: Open) -> None:
    """Documents of one are not those of another."""
    with window() as one, window(link()) as other:
        one.value(DROP.format(content="'A cat.\\nA dog.'", name="pets.txt"))
        one.until("document.getElementById('about').textContent.startsWith('pets.txt')")
        search(one, "cat")
        other.call("Page.reload")
        other.until(QUIET)
        assert "305 documents" in other.texts("#about")[0]
        assert one.texts(".open")[0] == "A cat."


def test_a_service_that_is_gone(window: Open, tiny: CrossEncoder) -> None:
    """In the middle of it: the page says so and keeps what it shows, which opens as it was asked for."""
    with running(Settings(playground="secondpass/demo"), {"tiny": tiny}) as live:
        opened = window(link(), live=live)
        page = opened.__enter__()
    slide_refused(page)
    assert page.texts("#problem p") == ["The service does not answer. Is it still running?"]
    assert page.value("document.querySelectorAll('.hit').length") == 20
    search(page, "something else ")
    page.click('[data-column="1"] .hit .open')
    page.until("document.querySelector('#reading .problem')")
    assert {one["query"] for one in page.posted("/playground/explain")} == {QUERY}
    page.press("Escape")
    page.click("#problem button")
    page.until("!document.getElementById('problem').hidden")
    opened.__exit__(None, None, None)


def test_a_service_with_keys_is_asked_with_one(browser: Browser, tiny: CrossEncoder) -> None:
    """The page asks for it once a tab, says of a wrong one that it is wrong and asks again, and it is in no link."""
    with running(Settings(playground="secondpass/demo", keys=ApiKeys([KEY])), {"tiny": tiny}) as live:
        with browser.page(f"{live.url}/playground{link()}") as page:
            page.until("document.getElementById('access').open")
            assert page.texts("#key-said") == [""]
            for key, said in (("wrong-€-0123456789", "is no key"), ("wrong-key-0123456789", "refused"), (KEY, "")):
                page.click("#key")
                page.value("document.getElementById('key').value = ''")
                page.write(key)
                page.press("Enter")
                told = f"document.getElementById('key-said').textContent.includes({json.dumps(said)})"
                page.until(f"document.getElementById('access').open && {told}" if said else QUIET)
            assert KEY not in page.value("location.href")
            page.call("Page.reload")
            page.until(QUIET)


# ---- Structure, and axe's rules

STATES: dict[str, tuple[str, tuple[int, int], str]] = {
    "start": ("", DESKTOP, ""),
    "results": (link(models="pocket,calibrated", depth=4), DESKTOP, ""),
    "phone": (link(depth=4), PHONE, ""),
    "reader": (link(depth=4), DESKTOP, '[data-column="1"] .hit .open'),
    "documents": ("", DESKTOP, "#own"),
}


# Text and what only holds it is no part of the structure.
SILENT = {"generic", "none", "InlineTextBox", "StaticText", "LineBreak", "listmarker", "LabelText", "Legend"}
NAMELESS = {"paragraph", "listitem", "mark", "alert"}


def outline(page: Page) -> str:
    """Roles and names in their order, as a screen reader has them: of documents "a document", and 9 for any number."""
    titles = {one.title for one in read_corpus(Path("secondpass/demo"))}
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    known = {node["nodeId"]: node for node in nodes}
    lines: list[str] = []

    def walk(node: dict[str, Any], depth: int) -> None:
        role, name = (node.get(key, {}).get("value", "") for key in ("role", "name"))
        is_shown = not node.get("ignored") and role not in SILENT
        if is_shown:
            told = "a document" if name in titles else re.sub(r"\d[\d.,]*", "9", name)
            lines.append(f"{'  ' * depth}{role} {'' if role in NAMELESS else told}".rstrip())
        for child in node.get("childIds", ()):
            if child in known:
                walk(known[child], depth + is_shown)

    walk(nodes[0], 0)
    return "\n".join(lines) + "\n"


def axe() -> str:
    """axe-core, from the package that brings it."""
    place = importlib.util.find_spec("axe_core_python")
    if place is None or place.origin is None:
        pytest.skip("axe-core-python is not installed")
    return Path(place.origin).with_name("axe.min.js").read_text(encoding="utf-8")


AXE = """axe.run({}).then(told => [
  told.violations.map(one => [one.id, one.nodes.map(node => node.html)]), told.passes.length])"""


@pytest.mark.parametrize("name", STATES)
def test_the_structure_is_the_stored_one_and_axe_finds_nothing(window: Open, name: str) -> None:
    """Roles, names and their order, and all of axe-core's rules, the contrast of dark colours too.

    SECONDPASS_OUTLINES=write stores the structure that is there, to be read before it is kept.
    """
    state, size, click = STATES[name]
    with window(state, size) as page:
        if click:
            page.click(click)
            page.until("document.querySelector('#reading .strongest, #documents[open]')")
        found, file = outline(page), OUTLINES / f"{name}.txt"
        if os.environ.get("SECONDPASS_OUTLINES") == "write":
            file.parent.mkdir(exist_ok=True)
            file.write_text(found, encoding="utf-8")
        assert found == file.read_text(encoding="utf-8")
        page.value(axe() + ";0")
        violations, passes = page.value(AXE.format("{}"))
        assert violations == []
        assert passes > 15
        page.colours(dark=True)
        assert page.value(AXE.format("{runOnly: ['color-contrast']}")) == [[], 1]


def test_axe_would_complain(window: Open) -> None:
    """A page with faint text and a picture without words is noticed, so that finding nothing says something."""
    with window() as page:
        page.value("document.getElementById('about').style.color = '#ddd'")
        page.value("document.querySelector('main').append(document.createElement('img'))")
        page.value(axe() + ";0")
        violations, _ = page.value(AXE.format("{}"))
    assert {rule for rule, _ in violations} >= {"color-contrast", "image-alt"}
