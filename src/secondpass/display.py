"""Tables for people: as HTML in a notebook, and line by line on a terminal that is too narrow for columns.

The HTML takes its text colour and its background from the page around it, so that it is readable in light and in dark
ones, and asks for nothing outside itself: no style sheet, no script, no image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Literal

from secondpass.text import UNSHOWABLE

__all__ = ["html_table", "stacked"]

Kind = Literal["name", "number", "text"]
"""What a column holds: short words, figures (right-aligned), or running text (which wraps)."""

# A colour of middle luminance: three times as bright as a dark page, a third of a white one.
BAR = "rgb(47,127,160)"
# A cell of running text longer than this is shortened with a mark: a document may be a book.
LONGEST_TEXT = 240
ALIGNED: dict[Kind, str] = {
    "name": "text-align:left;white-space:nowrap;",
    "number": "text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;",
    "text": "text-align:left;overflow-wrap:anywhere;",
}
CELL = "vertical-align:top;padding:0.25em 0.6em"


def html_table(
    columns: Sequence[tuple[str, Kind]],
    rows: Sequence[Sequence[str]],
    *,
    caption: str = "",
    note: str = "",
    bars: Mapping[int, Sequence[float]] | None = None,
) -> str:
    """A table as HTML; every text in it is escaped.

    Args:
        columns: the name of each column and what it holds.
        rows: [rows, columns], cells as texts.
        caption: stands above; "" for none.
        note: stands below.
        bars: by column a share from 0 to 1 for each row, drawn as a bar behind the number.
    """
    drawn = bars or {}
    head = "".join(f'<th scope="col" style="{ALIGNED[kind]}{CELL}">{_html(name)}</th>' for name, kind in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{ALIGNED[kind]}{CELL}{_bar(drawn[place][row]) if place in drawn else ""}">{_html(cell)}</td>'
            for place, ((_, kind), cell) in enumerate(zip(columns, cells, strict=True))
        )
        + "</tr>"
        for row, cells in enumerate(rows)
    )
    above = f'<caption style="text-align:left;font-weight:bold">{_html(caption)}</caption>' if caption else ""
    below = f'<p style="font-size:0.85em;opacity:0.8">{_html(note)}</p>' if note else ""
    return f"<div><table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}</div>"


def _bar(share: float) -> str:
    """A line below the cell, as long as its share."""
    width = f"{100 * min(max(share, 0.0), 1.0):.0f}%"
    return f";background:linear-gradient({BAR},{BAR}) left bottom/{width} 3px no-repeat"


def _html(text: str) -> str:
    shown = text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
    return escape(UNSHOWABLE.sub("\ufffd", shown))


def stacked(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines "column: cell", a blank line between two rows: where columns beside each other do not fit."""
    for place, cells in enumerate(rows):
        if place:
            yield ""
        for name, cell in zip(columns, cells, strict=True):
            yield f"{name}: {cell}" if name else cell
