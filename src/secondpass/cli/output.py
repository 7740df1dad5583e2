"""What a command says: rows on stdout (a table for people, JSON lines for programs), cuts and errors on stderr."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secondpass.errors import InvalidInput, SecondPassError
from secondpass.lazy import without_torch

if TYPE_CHECKING:
    from secondpass.explanation import Explanation
    from secondpass.record import CallRecord

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
        lacking = without_torch("this", seen) if isinstance(seen, ImportError) else None
        seen = lacking or seen.__cause__
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


# ---- Help: within the width of the terminal, options in groups by the words of their names.
GROUPS = {
    "Input": r"corpus|dataset|quer(y|ies)|data-queries|qrels|clicks|split|run|pipeline|documents|input-format|indexed"
    r"|index|add|set|files|filter|.*fields?|resume",
    "Model": r"model|device|precision|max-length|batch-size|embedder|rescore|.*-prefix|truncat.*|token-cache-mb"
    r"|long|window-.*|max-windows|select|score-cache.*|keep|calibration",
    "Selection": r"negatives|first|last|.*margin|max-score|against|sampling|positives|graded|from|depth|top-k|passages"
    r"|limit|relevance|measure|level|seed|budget-ms|min-probability|refuse",
    "Limits": r"max-.*|deadline.*|.*-s|.*-ms|in-flight|batch.*|patience",
    "Server": r"url|.*timeout|host|port|.*keys.*|open-metrics|docs|playground|trace-texts|http|service.*|on-failure"
    r"|private-address|check|shards|replicas",
    "Output": r"output|format|json|csv|html|examples?|explain.*|rows|storage|dry-run|quiet",
}
OTHERS = "Options"
WIDEST_OPTION = 30


def print_help(command: Any, context: Any) -> None:
    """Print a command's help: usage, text, commands, and parameters in groups; an unknown option has a group too."""
    console = PipeConsole(highlight=False, emoji=False)
    console.print(Text(command.get_usage(context), style="bold"))
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        console.print()
        console.print(Text.from_markup(" ".join(paragraph.split())))
    groups: dict[str, list[tuple[str, str]]] = {}
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, name)
        about = inspect.cleandoc(inner.short_help or inner.help or "").split("\n\n")[0]
        groups.setdefault("Commands", []).append((name, re.split(r"(?<=\.)\s", " ".join(about.split()))[0]))
    known: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Arguments", *GROUPS, OTHERS)}
    for parameter in command.get_params(context):
        record = None if getattr(parameter, "hidden", False) else parameter.get_help_record(context)
        if record is not None:
            names = re.sub(r"<list\[(\w+)\]>", r"<\1>", record[0].replace(" range>", ">"))
            known[group_of(parameter)].append((names, " ".join(record[1].split())))
    shown = {title: rows for title, rows in (groups | known).items() if rows}
    width = min(WIDEST_OPTION, max(cell_len(name) for rows in shown.values() for name, _ in rows))
    for title, rows in shown.items():
        console.print(Text(f"\n{title}", style="bold"))
        table = Table.grid(padding=(0, PADDING, 0, 0))
        table.add_column(width=width + PADDING, overflow="fold", style="cyan")
        table.add_column(overflow="fold")
        for name, about in rows:
            table.add_row(Padding(Text(name), (0, 0, 0, PADDING)), Text(about))
        console.print(table)


def group_of(parameter: Any) -> str:
    """The title under which the help shows a parameter: a new one finds its place by its name."""
    if parameter.param_type_name == "argument":
        return "Arguments"
    name = max(parameter.opts, key=len).lstrip("-")
    return next((title for title, words in GROUPS.items() if re.fullmatch(words, name)), OTHERS)


# ---- Rows.
NUMBERS = ("rank", "was", "score", "probability", "index")
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


def print_explained(explanations: Sequence[Explanation]) -> None:
    """Print the texts of the best documents, best first, their parts in the colours of what they contribute."""
    console = PipeConsole(highlight=False, markup=False, emoji=False)
    for place, explanation in enumerate(explanations, start=1):
        console.print(Text(f"\n{place}. score {explanation.score:.4f}", style="bold"))
        console.print(explanation)


def note_cuts(record: CallRecord, max_length: int | None, names: Sequence[int]) -> None:
    """Say on stderr which inputs were cut to fit the model; `names` are their indices as the user counts."""
    cut = [names[cut.index] for cut in record.truncated]
    if cut:
        size = "the model" if max_length is None else f"{max_length} tokens"
        note(f"{len(cut)} of {len(names)} cut to fit {size} (index {_few(cut)})")


def note(text: str) -> None:
    """Say something on stderr."""
    print(f"secondpass: {text}", file=sys.stderr)  # noqa: T201


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def lost_tokens(record: CallRecord) -> dict[int, int]:
    """Tokens cut by position in the call."""
    return {cut.index: cut.query_tokens + cut.document_tokens for cut in record.truncated}
