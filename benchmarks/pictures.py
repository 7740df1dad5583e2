"""The two pictures of README, as SVG: what a second pass moves, and how fast it is.

    python -m benchmarks.pictures moves
    python -m benchmarks.pictures speed

`moves` asks the demo's help centre one query and draws both orders; `speed` draws the first table of
docs/performance.md. Both are readable in light and dark.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

DOCS = Path(__file__).parents[1] / "docs"
# A picture in README is a document of its own, so it asks for itself whether the reader's page is dark.
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .faint { fill: #656d76 } .line { fill: none; stroke: #afb8c1; stroke-width: 1.5 } .bar { fill: #afb8c1 }
  .right { fill: #0969da } .rightline { fill: none; stroke: #0969da; stroke-width: 2.5 } .strong { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .faint { fill: #8d96a0 } .line { stroke: #59636e } .bar { fill: #59636e }
    .right { fill: #4493f8 } .rightline { stroke: #4493f8 }
  }
"""
WIDTH, ROW = 820, 28
# Ways of the table that are drawn, with what they are called.
SHOWN = {
    "sentence-transformers, default": "sentence-transformers 6.2, default",
    "sentence-transformers OpenVINO fp32, batch 8": "its best in float32 (OpenVINO)",
    "sentence-transformers OpenVINO bf16, batch 16": "its best at any precision (OpenVINO bfloat16)",
    "FlashRank's way, ONNX int8": "FlashRank's way (onnxruntime, int8)",
    "secondpass fp32": "secondpass, float32",
    "secondpass bf16": "secondpass, bfloat16",
    "secondpass int8": "secondpass, int8",
}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def moves(
    query: Annotated[str, typer.Option(help="Id of one of the demo's queries.")] = "q26",
    rows: Annotated[int, typer.Option(min=1, help="Documents of each order.")] = 5,
    output: Annotated[Path, typer.Option()] = DOCS / "moves.svg",
) -> None:
    """Draw both orders of a query of the demo."""
    from secondpass.corpora import read_corpus
    from secondpass.evaluation.qrels import Qrels, judged_queries

    command = [sys.executable, "-m", "secondpass.cli", "demo", "--json"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (found,) = (one for one in json.loads(printed)["queries"] if one["query_id"] == query)
    folder = Path(str(resources.files("secondpass"))) / "demo"
    titles = {document.id: document.title for document in read_corpus(folder)}
    judged = judged_queries(folder, "test").qrels or Qrels({})
    first, second = (
        [titles[hit["id"]] for hit in hits] for hits in (next(iter(found["first"].values())), found["second"])
    )
    right = {titles[document] for document, grade in judged[query].items() if grade > 0}
    output.write_text(moves_picture(found["query"], first, second, right, rows), encoding="utf-8")


@app.command()
def speed(output: Annotated[Path, typer.Option()] = DOCS / "speed.svg") -> None:
    """Draw pairs per second of the first table of docs/performance.md."""
    output.write_text(speed_picture((DOCS / "performance.md").read_text(encoding="utf-8")), encoding="utf-8")


def speed_picture(page: str) -> str:
    """Bars of the page's first table."""
    found: dict[str, tuple[float, str]] = {}
    for name, *cells in (line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")):
        if name in SHOWN and name not in found:
            found[name] = float(cells[0].replace(",", "")), cells[1]
    widest, left = max(pairs for pairs, _ in found.values()), 330
    drawn = [
        '<text class="strong" x="10" y="24">(query, passage) pairs a second, two cores of an Intel Xeon with AMX</text>'
    ]
    for row, (way, said) in enumerate(SHOWN.items()):
        y, (rate, ratio) = 46 + ROW * row, found[way]
        width = round((WIDTH - left - 150) * rate / widest)
        bar, text = ("right", "strong") if way.startswith("secondpass") else ("bar", "")
        drawn += [
            f'<text class="{text}" x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(said)}</text>',
            f'<rect class="{bar}" x="{left}" y="{y}" width="{width}" height="20" rx="2"/>',
            f'<text x="{left + width + 8}" y="{y + 15}">{rate:,.0f} <tspan class="faint">{ratio}</tspan></text>',
        ]
    return _picture(drawn, 56 + ROW * len(SHOWN), "Pairs per second of secondpass and others: " + _told(found))


def _told(found: dict[str, tuple[float, str]]) -> str:
    return ", ".join(f"{said} {found[name][0]:,.0f}" for name, said in SHOWN.items())


def moves_picture(query: str, first: Sequence[str], second: Sequence[str], right: set[str], rows: int) -> str:
    """Two lists of titles, best first, with a line from each place to the other; `right` answer the query."""
    left, gap, middle = 10, 270, WIDTH // 2
    drawn = [
        f'<text class="strong" x="{left}" y="24">{escape(query)}</text>',
        f'<text class="faint" x="{left}" y="52">first pass, BM25</text>',
        f'<text class="faint" x="{middle + 90}" y="52">second pass, secondpass/pocket</text>',
    ]

    def y_of(row: int) -> int:
        return 78 + ROW * row

    for row, title in enumerate(second[:rows]):
        before, kind = first.index(title), "right" if title in right else ""
        start = y_of(min(before, rows)) - 5
        curve = f"M{left + gap + 25} {start} C{middle} {start} {middle} {y_of(row) - 5} {middle + 80} {y_of(row) - 5}"
        drawn.append(f'<path class="{kind}line" d="{curve}"/>')
        place = f' <tspan class="faint">was {before + 1}</tspan>' if before != row else ""
        drawn.append(f'<text class="{kind}" x="{middle + 90}" y="{y_of(row)}">{row + 1}  {_short(title)}{place}</text>')
    for row, title in enumerate(first[:rows]):
        kind = "right" if title in right else ""
        drawn.append(f'<text class="{kind}" x="{left}" y="{y_of(row)}">{row + 1}  {_short(title)}</text>')
    drawn.append(f'<text class="faint" x="{left}" y="{y_of(rows)}">from further down</text>')
    told = f"{query}: {'; '.join(second[:rows])}"
    return _picture(drawn, y_of(rows) + 14, f"Both orders of the demo for the query {told}")


def _short(title: str) -> str:
    return escape(title if len(title) <= 32 else title[:31] + "\N{HORIZONTAL ELLIPSIS}")


def _picture(drawn: Sequence[str], height: int, said: str) -> str:
    body = "\n  ".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">\n'
        f"  <title>{escape(said)}</title>\n  <style>{STYLE}</style>\n  {body}\n</svg>\n"
    )


if __name__ == "__main__":
    app()
