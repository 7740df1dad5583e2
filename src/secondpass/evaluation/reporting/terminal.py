"""An analysis on a terminal: tables that hold at 80 columns and say the same without colours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from secondpass.evaluation.findings import Analysis, SecondPass
from secondpass.evaluation.reporting import tables
from secondpass.evaluation.reporting.sentences import (
    depth_sentence,
    headroom_sentence,
    notes,
    reliability_sentence,
    verdicts,
)
from secondpass.evaluation.reporting.tables import Table
from secondpass.evaluation.reporting.wording import shortened

CHANGES = 5
# A name that is longer is folded, a text gets what the other columns leave.
NAME_WIDTH = 28
TEXT_WIDTH = 10
GAP = 2
STYLES = {"better": "bold green", "worse": "bold red", "unclear": "bold yellow", "same": "bold", "alone": "bold"}


def print_analysis(console: Console, analysis: Analysis) -> None:
    """Print the verdicts, the tables and what limits them.

    Args:
        console: where to; its width and its colours are kept to.
        analysis: what was found.
    """
    for part in _parts(analysis):
        console.print(_drawn(part, console.width) if isinstance(part, Table) else part)
        if isinstance(part, Table) and part.note:
            console.print(_line(part.note, "dim"))


def _parts(analysis: Analysis) -> Iterator[Text | Table]:
    for verdict in verdicts(analysis):
        yield _line(verdict.headline, STYLES[verdict.direction])
        yield _line(verdict.detail)
    yield from _titled(tables.means(analysis))
    for system in dict.fromkeys(comparison.system for comparison in analysis.comparisons):
        yield from _titled(tables.differences(analysis, system))
    for second_pass in analysis.second_passes:
        yield from _second_pass(analysis, second_pass)
    yield from _listed("Notes", notes(analysis))
    yield from _listed("Settings", [f"{name}: {value}" for name, value in (analysis.settings or {}).items()])


def _second_pass(analysis: Analysis, found: SecondPass) -> Iterator[Text | Table]:
    of = f"of {found.system}"
    if found.headroom:
        yield from _titled(tables.headroom(found), f"Headroom {of}")
        primary = next((each for each in found.headroom if each.measure == analysis.primary), found.headroom[0])
        yield _line(headroom_sentence(found.system, primary))
    yield from _titled(tables.ties(found), f"Equal scores {of}")
    if found.depth and found.depth.points:
        yield from _titled(tables.depths(found.depth), f"Quality of {found.system} by depth")
        yield _line(depth_sentence(found.depth))
    if found.thresholds:
        yield from _titled(tables.thresholds(found.thresholds), f"What a threshold keeps of {found.system}'s documents")
    if found.reliability:
        yield from _listed(f"Scores {of} as probabilities", [reliability_sentence(found.reliability)])
    for title, changed in (("Helped most by", found.helped), ("Hurt most by", found.hurt)):
        yield from _titled(tables.changes(f"{title} {found.system} ({analysis.primary})", changed, CHANGES))
    yield from _listed(f"Notes on {found.system}", found.notes)


def _titled(table: Table | None, title: str = "") -> Iterator[Text | Table]:
    if table is not None:
        yield from chain(_title(title or table.title), [table])


def _listed(title: str, lines: list[str] | tuple[str, ...]) -> Iterator[Text]:
    if lines:
        yield from chain(_title(title), map(_line, lines))


def _title(text: str) -> Iterator[Text]:
    yield Text()
    yield _line(shortened(text, 76), "bold")


def _drawn(table: Table, width: int) -> RenderableType:
    cells = [[_shown(cell) for cell in row] for row in table.rows]
    drawn = RichTable(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    left = width
    for place, (name, kind) in enumerate(table.columns):
        justify: JustifyMethod = "right" if kind == "number" else "left"
        most = NAME_WIDTH if kind == "name" else None
        drawn.add_column(Text(name), justify=justify, overflow="fold", max_width=most, no_wrap=kind != "name")
        longest = max(map(cell_len, (name, *(row[place] for row in cells))))
        left -= min(longest, most or longest) + GAP if kind != "text" else 0
    for row in cells:
        texts = [Text(cell) for cell in row]
        if table.columns[-1][1] == "text":
            # rich would take from every column alike if the whole were too wide.
            texts[-1].truncate(max(TEXT_WIDTH, left), overflow="ellipsis")
        drawn.add_row(*texts)
    return drawn


def _line(text: str, style: str = "") -> Text:
    return Text(_shown(text), style=style)


def _shown(text: str) -> str:
    """One line of what can be printed: a query may hold a terminal's commands, or turn the writing round."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
