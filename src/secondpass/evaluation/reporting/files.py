"""Where a report goes: a stream, or a file that is there whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import chain
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TextIO
from uuid import uuid4

from rich.cells import cell_len
from rich.console import Console, JustifyMethod, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from secondpass.display import stacked
from secondpass.errors import InvalidInput
from secondpass.evaluation.comparison import Analysis, Change, Contrast, SecondPass
from secondpass.evaluation.reporting import tables
from secondpass.evaluation.reporting.tables import Table
from secondpass.evaluation.reporting.wording import (
    depth_sentence,
    headroom_sentence,
    notes,
    reliability_sentence,
    shortened,
    verdicts,
)


@contextmanager
def opened(target: Path | TextIO) -> Iterator[TextIO]:
    """Open what a report is written to.

    A file gets its name when the last byte is written: whoever reads it meanwhile, or after a failure, finds the
    former one. Line ends are written as they come, half of a surrogate pair as "?".

    Raises:
        InvalidInput: the folder does not exist or cannot be written to, or the path is a folder.
    """
    if not isinstance(target, Path):
        yield target
        return
    # Through a link, so that the link stays one; a device or a pipe cannot be replaced.
    place = target.resolve()
    if place.is_dir():
        raise InvalidInput(f"{target}: is a folder, not a file")
    replaceable = place.is_file() or not place.exists()
    written = place.with_name(f".{uuid4().hex}.part") if replaceable else place
    try:
        stream = open(written, "w", encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise InvalidInput(f"{target}: cannot be written: {error.strerror or error}") from None
    try:
        with stream:
            yield stream
        if replaceable:
            written.replace(place)
    finally:
        if replaceable:
            written.unlink(missing_ok=True)


# ---- Reports for programs: JSON with everything, CSV with a line per query and system.
#
# The JSON's keys are the names of the fields of `comparison.Analysis` and of the values in it, so their docstrings are
# its documentation. Beside them stand "format", which grows when a key is renamed or lost, and "difference" in each
# change. What is not a finite number is null.
#
# 2: a reliability has bins of equal count with intervals in place of "mean_scores", "shares_relevant" and "sizes".
FORMAT = 2
HALVES = re.compile("[\ud800-\udfff]")


def to_json(analysis: Analysis) -> str:
    """One JSON object in one line, characters as they are."""
    return dumped({"format": FORMAT, **_plain(analysis)})


def dumped(value: object) -> str:
    """JSON in one line, characters as they are: of dataclasses objects, of what is not finite null.

    Raises:
        TypeError: JSON has nothing for what is in it.
    """
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    # Half of a surrogate pair cannot be written as UTF-8, but as an escape.
    return HALVES.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def write_json(target: Path | TextIO, analysis: Analysis) -> None:
    """Write `to_json` and a line end.

    Raises:
        InvalidInput: the file cannot be written.
    """
    with opened(target) as stream:
        stream.write(to_json(analysis) + "\n")


def write_csv(target: Path | TextIO, analysis: Analysis) -> None:
    """Write a header (query, system, a column per measure) and a line per query and system (RFC 4180).

    Values have every digit that a float has; what was not measured or is not finite is empty.

    Raises:
        InvalidInput: the file cannot be written.
    """
    measures = list(dict.fromkeys(measure for report in analysis.reports for measure in report.measures))
    queries = dict.fromkeys(query for report in analysis.reports for query in report.queries)
    counted = [set(report.queries) for report in analysis.reports]
    with opened(target) as stream:
        writer = csv.writer(stream)
        writer.writerow(["query", "system", *measures])
        for query in queries:
            for report, known in zip(analysis.reports, counted, strict=True):
                if query in known:
                    values = (report.values.get(measure, {}).get(query) for measure in measures)
                    writer.writerow([query, report.system, *map(_cell, values)])


def _cell(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict())
    if is_dataclass(value):
        found = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return found | {"difference": _plain(value.difference)} if isinstance(value, Change) else found
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    return str(value) if isinstance(value, Path) else _number(value)


def _number(value: Any) -> int | float | None:
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise TypeError(f"JSON has nothing for a {type(value).__name__}")


# ---- An analysis on a terminal: tables that hold at 80 columns and say the same without colours.
CHANGES = 5
MOVES = 3
CONTRASTS = 3
# A name that is longer is folded, a text gets what the other columns leave.
NAME_WIDTH = 28
TEXT_WIDTH = 10
# Narrower names would be a letter or two a line: then a table's rows stand line by line.
NARROWEST_NAME = 12
GAP = 2
STYLES = {"better": "bold green", "worse": "bold red", "unclear": "bold yellow", "same": "bold", "alone": "bold"}


def print_analysis(console: Console, analysis: Analysis) -> None:
    """Print the verdicts, the tables and what limits them, in the console's width and colours."""
    for part in _parts(analysis):
        console.print(_drawn(part, console.width) if isinstance(part, Table) else part)
        if isinstance(part, Table) and part.note:
            console.print(_line(part.note, "dim"))


def _parts(analysis: Analysis) -> Iterator[Text | Table]:
    for verdict in verdicts(analysis):
        yield _line(verdict.headline, STYLES[verdict.direction])
        yield _line(verdict.detail)
    yield from _titled(tables.means(analysis))
    for pair in dict.fromkeys((each.system, each.baseline) for each in analysis.comparisons):
        yield from _titled(tables.differences(analysis, *pair))
        yield from _titled(tables.effects(analysis, *pair))
    for second_pass in analysis.second_passes:
        yield from _second_pass(analysis, second_pass)
    for contrast in analysis.contrasts[:CONTRASTS]:
        yield from _by_query(analysis, contrast, contrast.baseline)
    if (more := len(analysis.contrasts) - CONTRASTS) > 0:
        yield from (Text(), _line(f"{more:,} more pairs of systems are told query by query in the page and JSON."))
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
        yield from _titled(tables.reliability(found.reliability), f"Scores {of} as probabilities")
        yield _line(reliability_sentence(found.reliability))
    yield from _by_query(analysis, found, analysis.reports[0].system)
    yield from _listed(f"Notes on {found.system}", found.notes)


def _by_query(analysis: Analysis, found: SecondPass | Contrast, baseline: str) -> Iterator[Text | Table]:
    """The queries that changed most, the documents that did it, and for which queries it is so."""
    against = f" against {baseline}" if isinstance(found, Contrast) else ""
    for title, changed in (("Helped most by", found.helped), ("Hurt most by", found.hurt)):
        yield from _titled(tables.changes(f"{title} {found.system}{against} ({analysis.primary})", changed, CHANGES))
    shown = (*found.helped[:MOVES], *found.hurt[:MOVES])
    yield from _titled(tables.moves(shown, baseline, found.system, 2 * MOVES))
    yield from _titled(tables.groups(found.groupings, analysis.primary), f"When {found.system} hurts{against}")


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
    if least_width(table, cells) > width:
        return Text("\n".join(stacked([name for name, _ in table.columns], cells)))
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


def least_width(table: Table, cells: Sequence[Sequence[str]]) -> int:
    """Cells of a terminal that a table needs at least: figures whole, names folded, texts shortened."""
    most = {"name": NARROWEST_NAME, "text": TEXT_WIDTH}
    widths = [
        min(max(cell_len(name), *(cell_len(row[place]) for row in cells)), most.get(kind, 10**6))
        for place, (name, kind) in enumerate(table.columns)
    ]
    return sum(widths) + GAP * (len(widths) - 1)


def _line(text: str, style: str = "") -> Text:
    return Text(_shown(text), style=style)


def _shown(text: str) -> str:
    """One line of what can be printed: a query may hold a terminal's commands, or turn the writing round."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())
