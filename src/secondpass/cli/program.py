"""The program: global options, the commands, and one place where every error becomes a line and a code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import zip_longest
from pkgutil import resolve_name
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from secondpass.cli.output import PIPE_CLOSED, forget_stdout, print_help, report
from secondpass.errors import MissingExtra

# Each a function or an application of typer, in the order of the help, with the extra that brings what it needs where
# another import package of this distribution has it. A module is imported when its command is asked for, and all of
# them for the help.
COMMANDS = {
    "rank": ("secondpass.cli.rank:rank", None),
    "score": ("secondpass.cli.rank:score", None),
    "rescore": ("secondpass.cli.rescore:rescore", None),
    "evaluate": ("secondpass.cli.evaluate:evaluate", None),
    "compare": ("secondpass.cli.compare:compare", None),
    "train": ("secondpass.cli.train:train", None),
    "mine": ("secondpass.cli.train:mine", None),
    "calibrate": ("secondpass.cli.calibrate:calibrate", None),
    "tune": ("secondpass.cli.tune:tune", None),
    "label": ("secondpass.cli.label:commands", None),
    "export": ("secondpass.cli.export:export", None),
    "serve": ("secondpass.cli.serve:serve", None),
    "play": ("secondpass.cli.serve:play", None),
    "mcp": ("secondpass.cli.mcp:mcp", None),
    "bench": ("secondpass.cli.bench:bench", None),
    "doctor": ("secondpass.cli.doctor:doctor", None),
    "ask": ("secondpass_pipelines.commands:ask", "haystack"),
    "demo": ("secondpass_pipelines.commands:demo", "haystack"),
    "elasticsearch": ("secondpass_servers.elasticsearch.cli:commands", "elasticsearch"),
    "index": ("secondpass_pipelines.commands:index", "haystack"),
    "opensearch": ("secondpass_servers.opensearch.cli:commands", "opensearch"),
    "search": ("secondpass_pipelines.commands:search", "haystack"),
}


class Program(TyperGroup):
    """A command group whose errors are one line on stderr: exit code 2 for refused input, 1 for a failed run."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name, imported when it is asked for; a name that is none imports all, for a suggestion."""
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands[name] = _ours(_imported(name))
        return super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help as every command does."""
        print_help(self, ctx)

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

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the program; a bad global option is an error of the same form."""
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except typer.Abort:
            code = 1
        except BrokenPipeError:
            forget_stdout()
            code = PIPE_CLOSED
        except Exception as error:
            code = report(error, debug=False)
        if not options.get("standalone_mode", True):
            return code
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="secondpass",
    cls=Program,
    no_args_is_help=True,
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


def _imported(name: str) -> Any:
    """A command; one of another import package that cannot be loaded says so when it is called, not before."""
    place, extra = COMMANDS[name]
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    try:
        found = resolve_name(place)
    except Exception as error:
        if extra is None:
            raise
        settings = {"ignore_unknown_options": True, "allow_extra_args": True}
        reason = f"{type(error).__name__}: {error}"
        alone.command(name, context_settings=settings)(_unavailable(name, place, extra, reason))
        return typer.main.get_command(alone)
    if isinstance(found, typer.Typer):
        group = typer.main.get_command(found)
        group.name = name
        return group
    alone.command(name)(found)
    return typer.main.get_command(alone)


def _ours(command: Any) -> Any:
    """The command with our ways, whatever package it is of, and so the commands in it.

    Its help is printed by `print_help`, and `--json` of a command that takes a file with it may stand alone.
    """
    command.format_help = lambda ctx, formatter: print_help(command, ctx)
    if any("--json" in each.opts and not each.is_flag for each in command.params if hasattr(each, "is_flag")):
        parse = command.parse_args
        command.parse_args = lambda ctx, args: parse(ctx, list(_with_stdout(args)))
    for inner in getattr(command, "commands", {}).values():
        _ours(inner)
    return command


def _with_stdout(args: Sequence[str]) -> Iterator[str]:
    """The arguments, "-" behind a `--json` that no file follows."""
    for word, behind in zip_longest(args, args[1:], fillvalue="--"):
        yield word
        if word == "--json" and behind != "-" and behind.startswith("-"):
            yield "-"


def _unavailable(name: str, place: str, extra: str, reason: str) -> Callable[[], None]:
    def command() -> None:
        raise MissingExtra(
            f"the command {name!r} cannot be loaded from {place}: {reason}; is it installed? "
            f'pip install "secondpass[{extra}]"'
        )

    command.__doc__ = f"(Cannot be loaded: {reason})"
    return command


def main() -> None:
    """Run the program as `secondpass` does: UTF-8 whatever the locale, quiet when the reader goes away."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A lone surrogate can come in through the command line or JSON; printing it must not end the run.
            reconfigure(encoding="utf-8", errors="backslashreplace")
    code: object = 0
    try:
        app(prog_name="secondpass")
    except SystemExit as ended:
        code = ended.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        forget_stdout()
        code = PIPE_CLOSED
    sys.exit(code if isinstance(code, int) else 0)
