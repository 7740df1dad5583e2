"""The program: global options, the commands, and one place where every error becomes a line and a code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from secondpass.cli.evaluate import evaluate
from secondpass.cli.failures import PIPE_CLOSED, forget_stdout, report
from secondpass.cli.mine import mine
from secondpass.cli.rank import rank
from secondpass.cli.score import score
from secondpass.cli.serve import serve
from secondpass.cli.train import train
from secondpass.errors import MissingExtra

COMMANDS = "secondpass.commands"
GROUPS = "secondpass.command_groups"


class Program(TyperGroup):
    """A command group whose errors are one line on stderr: exit code 2 for refused input, 1 for a failed run."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; errors end here."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            forget_stdout()
            raise typer.Exit(PIPE_CLOSED) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            raise typer.Exit(report(error, bool(ctx.params.get("debug")))) from None
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program; a bad global option is an error of the same form."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except typer.Abort:
            code = 1
        except Exception as error:
            code = report(error, debug=False)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="secondpass",
    cls=Program,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secondpass {version('secondpass')}")
        raise typer.Exit()


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Second-pass ranking: re-order what a first search found by how well each document answers the query.

    Exit codes: 0 done, 1 the run failed, 2 the command line or the input was refused.
    """


app.command("rank")(rank)
app.command("score")(score)
app.command("evaluate")(evaluate)
app.command("train")(train)
app.command("mine")(mine)
app.command("serve")(serve)


def _unavailable(entry: EntryPoint, reason: str) -> Callable[[], None]:
    def command() -> None:
        raise MissingExtra(f"the command {entry.name!r} cannot be loaded from {entry.value}: {reason}")

    command.__doc__ = f"(Cannot be loaded: {reason})"
    return command


def _add_commands() -> None:
    """Add the commands of installed packages; one that cannot be loaded says so when it is called, not before."""
    taken = {command.name for command in app.registered_commands}
    entries = [*entry_points(group=COMMANDS), *entry_points(group=GROUPS)]
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.name in taken:
            continue
        taken.add(entry.name)
        try:
            command: Any = entry.load()
        except Exception as error:
            settings = {"ignore_unknown_options": True, "allow_extra_args": True}
            app.command(entry.name, context_settings=settings)(_unavailable(entry, f"{type(error).__name__}: {error}"))
            continue
        if entry.group == GROUPS:
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


_add_commands()


def main() -> None:
    """Run the program as `secondpass` does: UTF-8 whatever the locale, quiet when the reader goes away."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A lone surrogate can come in through the command line or JSON; printing it must not end the run.
            reconfigure(encoding="utf-8", errors="backslashreplace")
    code: object = 0
    try:
        app()
    except SystemExit as ended:
        code = ended.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
        code = PIPE_CLOSED
    sys.exit(code if isinstance(code, int) else 0)
