"""Scores on stdout: a table for people, JSON lines for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum

from rich.cells import cell_len
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from secondpass.cli.failures import PipeConsole
from secondpass.record import CallRecord

NUMBERS = ("rank", "was", "score", "index")
# An id that is longer is cut, so that there is room for the text.
WIDEST = 32
NARROWEST = 10
PADDING = 2
# JSON lets them stand as they are, but some readers of lines would break a line there.
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}


class Format(StrEnum):
    """Forms of output."""

    table = "table"
    jsonl = "jsonl"


def print_json_lines(rows: Iterable[dict[str, object]]) -> None:
    """Print one JSON object a line, UTF-8 as it is."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False).translate(LINE_ENDS) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table no wider than the terminal; the last column gives way, with an ellipsis."""
    console = PipeConsole(highlight=False, markup=False, emoji=False)
    cells = [[Text(" ".join(cell.split())) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    left = console.width
    for place, name in enumerate(columns[:-1]):
        width = min(WIDEST, max(map(cell_len, (name, *(row[place].plain for row in cells)))))
        justify: JustifyMethod = "right" if name in NUMBERS else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=WIDEST, justify=justify)
        left -= width + PADDING
    table.add_column(columns[-1], no_wrap=True)
    for row in cells:
        # rich would take from every column alike if the whole were too wide.
        row[-1].truncate(max(NARROWEST, left), overflow="ellipsis")
        table.add_row(*row)
    console.print(table)


def note_cuts(record: CallRecord, max_length: int | None, names: Sequence[int]) -> None:
    """Say on stderr which inputs were cut to fit the model; `names` are their indices as the user counts."""
    cut = [names[cut.index] for cut in record.truncated]
    if cut:
        shown = ", ".join(map(str, cut[:5])) + (", ..." if len(cut) > 5 else "")
        size = "the model" if max_length is None else f"{max_length} tokens"
        note = f"secondpass: {len(cut)} of {record.pairs} cut to fit {size} (index {shown})"
        print(note, file=sys.stderr)  # noqa: T201


def lost_tokens(record: CallRecord) -> dict[int, int]:
    """Tokens cut by position in the call."""
    return {cut.index: cut.query_tokens + cut.document_tokens for cut in record.truncated}
