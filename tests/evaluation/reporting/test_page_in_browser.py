"""page: as a browser shows it, in narrow and wide windows, dark and light."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.reporting.analyses import TEXTS, page_of

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic", "--disable-dev-shm-usage",
         "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", "--dump-dom")  # fmt: skip
WIDTHS = (390, 820, 1400)
PAGES = ("three", "hostile", "bare")

# A page beside the report that shows it in frames of several widths and writes down what a person would notice.
WATCHER = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><title>watcher</title>
<link rel="icon" href="data:,"><body><script>
const look = (page, width) => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 800px`;
  frame.src = `${page}.html`;
  frame.onload = () => {
    const view = frame.contentWindow, shown = frame.contentDocument, root = shown.documentElement;
    for (const each of [...shown.querySelectorAll(".queries, .queries > details")].slice(0, 9)) each.open = true;
    const colour = (element, name) => view.getComputedStyle(element)[name];
    const named = element => element.outerHTML.slice(0, 120);
    const inScroll = element => element.closest(".scroll, .says") && !element.matches(".scroll, .says");
    const right = root.clientWidth + 1;
    const out = [...shown.body.querySelectorAll("*")].filter(element =>
      !inScroll(element) && !element.closest("svg") && element.getBoundingClientRect().right > right);
    const clipped = [...shown.querySelectorAll("svg text")].filter(text => {
      const box = text.getBoundingClientRect(), all = text.closest("svg").getBoundingClientRect();
      return Math.max(all.left - box.left, box.right - all.right, all.top - box.top, box.bottom - all.bottom) > 1;
    });
    const touching = [...shown.querySelectorAll("svg")].flatMap(svg => {
      const boxes = [...svg.querySelectorAll("text")].map(text => [text, text.getBoundingClientRect()]);
      return boxes.flatMap(([one, a], place) => boxes.slice(place + 1).filter(([, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
      ).map(([two]) => one.textContent + " / " + two.textContent));
    });
    const spilling = [...shown.querySelectorAll("th, td")].filter(cell =>
      Math.max(...[...cell.querySelectorAll("bdi")].map(text => text.getBoundingClientRect().right)) >
      cell.getBoundingClientRect().right + 1);
    const texts = [...shown.querySelectorAll("p, li, th, td, small, h1, h2, h3, a, svg text")];
    done({
      page, width: Number(width),
      title: shown.title,
      overflow: root.scrollWidth - root.clientWidth,
      out: out.map(named),
      clipped: clipped.map(named),
      touching,
      spilling: spilling.map(named),
      drawings: [...shown.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width),
      smallest: Math.min(...[...shown.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
      back: colour(shown.body, "backgroundColor"),
      inks: [...new Set(texts.map(text => colour(text, text.closest("svg") ? "fill" : "color")))],
      marks: [...new Set([...shown.querySelectorAll(".key")].map(mark => colour(mark, "color")))],
      fetched: view.performance.getEntriesByType("resource").map(entry => entry.name),
    });
  };
  document.body.append(frame);
});
(async () => {
  const seen = [];
  for (const page of PAGES) for (const width of location.search.slice(1).split(",")) seen.push(await look(page, width));
  document.body.innerHTML = `<pre id="seen"></pre>`;
  document.getElementById("seen").textContent = JSON.stringify(seen);
})();
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """Reports on a server of this machine: its address, and the paths that it was asked for."""
    if BROWSER is None:
        pytest.skip("no chromium on PATH")
    folder = tmp_path_factory.mktemp("site")
    for name in PAGES:
        (folder / f"{name}.html").write_text(page_of(name), encoding="utf-8")
    (folder / "watcher.html").write_text(WATCHER.replace("PAGES", json.dumps(PAGES)))
    (folder / "faulty.html").write_text("<!DOCTYPE html><script>nothing.there</script><img src=absent.png>")
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def browse(address: str, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page: its document as the browser has it in the end, and what it complained about."""
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, address]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    log = done.stderr.decode("utf-8", "replace").splitlines()
    return done.stdout.decode("utf-8"), [line for line in log if "CONSOLE" in line]


def luminance(colour: str) -> float:
    """Relative luminance of "rgb(r, g, b)" as WCAG 2 defines it."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2 defines it."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(("scheme", "widths"), [("light", WIDTHS), ("dark", WIDTHS[1:2])])
def test_pages_show_well(site: tuple[str, list[str]], tmp_path: Path, scheme: str, widths: tuple[int, ...]) -> None:
    """Nothing overflows, is clipped, touches, is too faint or too small, or is fetched; the console stays empty."""
    address, asked = site
    asked.clear()
    preferred = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    watched = f"watcher.html?{','.join(map(str, widths))}"
    document, complaints = browse(f"{address}/{watched}", tmp_path, preferred, "--window-size=1700,900")
    assert complaints == []
    found = re.search(r'<pre id="seen">(.*?)</pre>', document, re.DOTALL)
    assert found, document
    seen = json.loads(html.unescape(found[1]))
    assert [(each["page"], each["width"]) for each in seen] == [(page, width) for page in PAGES for width in widths]
    for each in seen:
        what = f"{each['page']} at {each['width']}"
        assert each["title"] == "Second-pass evaluation", what
        assert each["overflow"] <= 0, what
        assert each["out"] == each["clipped"] == each["touching"] == each["spilling"] == each["fetched"] == [], what
        assert (luminance(each["back"]) < 0.1) is (scheme == "dark"), what
        assert min(contrast(ink, each["back"]) for ink in each["inks"]) >= 4.5, what
        assert all(contrast(mark, each["back"]) >= 3 for mark in each["marks"]), what
        assert all(250 < width < 560 for width in each["drawings"]), what
        assert len(each["drawings"]) == (0 if each["page"] == "bare" else 14), what
        assert each["smallest"] is None or each["smallest"] >= 9, what
    assert set(asked) == {f"/{watched}", *(f"/{name}.html" for name in PAGES)}


def test_a_page_opens_from_a_file_where_a_link_leads(tmp_path: Path) -> None:
    """As most are opened: no server, no script, the console is empty; the list and the query in it open, no other."""
    if BROWSER is None:
        pytest.skip("no chromium on PATH")
    file = tmp_path / "report.html"
    file.write_text(page_of("whole"), encoding="utf-8")
    document, complaints = browse(f"{file.as_uri()}#q3", tmp_path / "profile")
    assert complaints == []
    assert "<strong>rerank helps</strong>" in document
    assert any(text in document for text in TEXTS)
    assert document.count("<svg") == 9
    assert document.count(' open=""') == 2


def test_a_printed_page_has_no_empty_sheet(tmp_path: Path) -> None:
    """Every sheet but the last holds a fair share of the text: no table waits for a sheet of its own."""
    if BROWSER is None:
        pytest.skip("no chromium on PATH")
    pdfium = pytest.importorskip("pypdfium2")
    file, printed = tmp_path / "report.html", tmp_path / "report.pdf"
    file.write_text(page_of("three"), encoding="utf-8")
    browse(file.as_uri(), tmp_path / "profile", f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    sheets = [sheet.get_textpage().get_text_range() for sheet in pdfium.PdfDocument(printed)]
    assert 8 < len(sheets) < 20
    assert min(map(len, sheets[:-1])) > 300


def test_the_browser_would_complain(site: tuple[str, list[str]], tmp_path: Path) -> None:
    """A page with a fault and a missing picture is noticed, so an empty console says something."""
    address, asked = site
    asked.clear()
    _, complaints = browse(f"{address}/faulty.html", tmp_path)
    assert any("nothing is not defined" in line for line in complaints)
    assert "/absent.png" in asked
