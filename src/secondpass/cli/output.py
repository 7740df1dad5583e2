"""What a command says: rows on stdout (a table for people, JSON lines for programs), cuts and errors on stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from enum import StrEnum

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from secondpass.errors import InvalidInput, SecondPassError
from secondpass.tokens import CallRecord

# ---- Errors: one line on stderr and an exit code, never a traceback unless asked for.
FAILED = 1
REFUSED = 2
INTERRUPTED = 130
# What a shell reports for a filter whose reader went away (128 + SIGPIPE).
PIPE_CLOSED = 141


def report(error: BaseException, debug: bool) -> int:
    """Print `error` as one line (or, with `debug`, as a traceback) on stderr and return the exit code for it."""
    if debug:
        traceback.print_exception(error)
    line = message(error)
    if line:
        print(f"secondpass: {line}", file=sys.stderr)  # noqa: T201
    return exit_code(error)


def message(error: BaseException) -> str:
    """One line that says what went wrong, and for a usage error where the help is."""
    show = getattr(error, "format_message", None)
    if show is not None:
        shown = _one_line(show())
        context = getattr(error, "ctx", None)
        # Without a message it is the help that was asked for by giving no arguments, and it has been printed.
        return f"{shown.rstrip('.')}. Try '{context.command_path} --help'." if shown and context else shown
    known = ours(error)
    if known is not None:
        return _one_line(str(known))
    return _one_line(f"{type(error).__name__}: {error} (secondpass --debug shows where)")


def exit_code(error: BaseException) -> int:
    """2 for a bad command line or bad input, 1 for everything that fails later."""
    if hasattr(error, "format_message"):
        return int(getattr(error, "exit_code", REFUSED))
    return REFUSED if isinstance(ours(error), InvalidInput) else FAILED


def ours(error: BaseException) -> SecondPassError | None:
    """Return the first secondpass error in the chain of causes: a pipeline wraps what its components raise."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, SecondPassError):
        seen = seen.__cause__
    return seen


def forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail once more on the closed pipe."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")


class PipeConsole(Console):
    """rich's console on stdout that leaves a closed pipe to the program instead of exiting on its own."""

    def on_broken_pipe(self) -> None:
        """Raise what the write raised."""
        raise BrokenPipeError


def _one_line(text: str) -> str:
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


# ---- Rows.
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
