"""What a command says: rows on stdout (a table for people, JSON lines for programs), cuts and errors on stderr."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from secondpass.display import stacked
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
        note(line)
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
    """rich's console on stdout that leaves a closed pipe to the program instead of exiting on its own.

    Texts are printed as they are, without markup, emoji or highlighting. With NO_COLOR (https://no-color.org) there
    are no escape sequences at all: rich alone would leave out colours, and still write bold.
    """

    def __init__(self, **options: Any) -> None:
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
        colours: dict[str, Any] = {"color_system": None} if os.environ.get("NO_COLOR") else {}
        super().__init__(**plain | colours | options)

    def on_broken_pipe(self) -> None:
        """Raise what the write raised."""
        raise BrokenPipeError


def without_folders(text: str) -> str:
    """One line of 300 characters at most, without the folders of paths: what is shown to others has nothing private."""
    return re.sub(r"(?<![\w.])/(?:[^\s/:'\"]+/)+", ".../", " ".join(text.split()).replace(str(Path.home()), "~"))[:300]


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
    console = PipeConsole()
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
NUMBERS = ("rank", "was", "score", "probability", "index", "times")
# Beside them every column of figures that a command names so.
FIGURES = ("pairs/s", "median ms", "one ms", "spread", "differs", "top 10")
# What may be cut, with a mark, so that there is room for the text.
NAMES = ("id", "data", "contender")
WIDEST = 32
NARROWEST = 10
PADDING = 2
# JSON lets them stand as they are, but some readers of lines would break a line there.
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\u0085\u2028\u2029"}


class Format(StrEnum):
    """Forms of output."""

    table = "table"
    jsonl = "jsonl"


def one_form(output: Format, as_json: bool) -> None:
    """Refuse lines of JSON together with one JSON object; raises InvalidInput."""
    if as_json and output is Format.jsonl:
        raise InvalidInput("--json prints one object and --format jsonl one a line: give either")


def print_json(value: object) -> None:
    """Print one JSON object or list in a line, UTF-8 as it is; dataclasses are objects, what is not finite is null."""
    from secondpass.evaluation.reporting.files import dumped

    sys.stdout.write(dumped(value).translate(LINE_ENDS) + "\n")


def print_json_list(head: Mapping[str, object], name: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Print one JSON object: `head`, and under `name` a list whose rows, a line each, are written as they come.

    The first row is waited for: where it fails, nothing is printed.
    """
    from secondpass.evaluation.reporting.files import dumped

    made = (dumped(row).translate(LINE_ENDS) for row in rows)
    first = next(made, None)
    opening = dumped(head).translate(LINE_ENDS)
    sys.stdout.write(f"{opening[:-1]}{', ' if head else ''}{json.dumps(name)}: [")
    if first is not None:
        sys.stdout.write(f"\n{first}")
        sys.stdout.writelines(f",\n{row}" for row in made)
    sys.stdout.write("\n]}\n")


def print_json_lines(rows: Iterable[dict[str, object]]) -> None:
    """Print one JSON object a line, UTF-8 as it is."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False).translate(LINE_ENDS) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table no wider than the terminal: the last column gives way, then names, each with an ellipsis.

    Figures are never cut. Where they do not fit beside each other, each row is printed line by line.
    """
    console = PipeConsole()
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(cell_len, (name, *(row[place] for row in cells)))) for place, name in enumerate(columns)]
    widths = [min(WIDEST, width) if name in NAMES else width for name, width in zip(columns, widths, strict=True)]
    needed = min(NARROWEST, widths.pop())
    over = sum(widths) + PADDING * len(widths) + needed - console.width
    for place, name in enumerate(columns[:-1]):
        cut = min(over, widths[place] - NARROWEST) if name in NAMES else 0
        widths[place], over = (widths[place] - cut, over - cut) if cut > 0 else (widths[place], over)
    if over > 0:
        console.print(Text("\n".join(stacked(columns, cells)), overflow="fold"))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, width in zip(columns[:-1], widths, strict=True):
        justify: JustifyMethod = "right" if name in (*NUMBERS, *FIGURES) else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=width, justify=justify)
    table.add_column(columns[-1], no_wrap=True)
    left = console.width - sum(widths) - PADDING * len(widths)
    for row in cells:
        shown = [Text(cell) for cell in row]
        # rich would take from every column alike if the whole were too wide
        shown[-1].truncate(max(needed, left), overflow="ellipsis")
        table.add_row(*shown)
    console.print(table)


def print_explained(explanations: Sequence[Explanation]) -> None:
    """Print the texts of the best documents, best first, their parts in the colours of what they contribute."""
    console = PipeConsole()
    for place, explanation in enumerate(explanations, start=1):
        console.print(Text(f"\n{place}. score {explanation.score:.4f}", style="bold"))
        console.print(explanation)


def progress_bar(what: str, total: int | None, unit: str = "it", done: int = 0) -> Any:
    """A bar on stderr with what is done of the total, the rate and the time left; none where stderr is no terminal.

    It is tqdm's, and goes when it is closed. A `total` that is not known yet is set by `reset(total=...)`.
    """
    from tqdm import tqdm

    return tqdm(total=total, desc=what, unit=unit, initial=done, leave=False, disable=not sys.stderr.isatty())


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
