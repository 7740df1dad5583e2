"""Errors as the user meets them: one line on stderr and an exit code, never a traceback unless asked for."""

from __future__ import annotations

import os
import sys
import traceback

from rich.console import Console

from secondpass.errors import InvalidInput, SecondPassError

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
