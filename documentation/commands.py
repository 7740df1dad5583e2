"""The reference of the command line: a page for each command, read from the program itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main

from secondpass.cli import app
from secondpass.cli.program import COMMANDS

PROGRAM = "secondpass"
KINDS = {bool: "", float: "*number*", int: "*whole number*", Path: "*path*", str: "*text*"}


def program() -> Any:
    """The program as click has it."""
    return typer.main.get_command(app)


def commands() -> Iterator[tuple[str, Any]]:
    """(words after `secondpass`, command) of each, those of groups behind their group."""
    root = program()
    for name in COMMANDS:
        command = root.get_command(None, name)
        yield name, command
        for inner, one in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", one


def page_of(words: str) -> str:
    """The page of a command; those of a group stand on the group's."""
    return f"commands/{words.split(maxsplit=1)[0]}.md"


def pages() -> dict[str, str]:
    """Markdown by page."""
    rows = [f"| [`{PROGRAM} {words}`]({_link(words)}) | {_first(command)} |" for words, command in commands()]
    head = (
        "# Commands\n\nEvery command with its options, as `--help` tells them. Exit codes: 0 done, 1 the run failed,\n"
    )
    head += "2 the command line or the input was refused, 130 interrupted.\n\n| command | |\n|---|---|\n"
    made = {"commands/index.md": head + "\n".join(rows) + "\n"}
    for words, command in commands():
        made[page_of(words)] = made.get(page_of(words), "") + _section(words, command)
    return made


def navigation() -> list[object]:
    """What stands below "Commands"."""
    return ["commands/index.md", *({name: page_of(name)} for name in COMMANDS)]


def _link(words: str) -> str:
    name, _, inner = words.partition(" ")
    return f"{name}.md" + (f"#{PROGRAM}-{name}-{inner}" if inner else "")


def _first(command: Any) -> str:
    return " ".join(_plain(command.help or "").split("\n\n")[0].split()).replace("|", r"\|")


def _plain(text: str) -> str:
    """Help without rich's marks."""
    return re.sub(r"\[/?(bold|dim|italic)\]", "", text)


def _section(words: str, command: Any) -> str:
    level = "#" * (1 + words.count(" "))
    parts = [f"{level} {PROGRAM} {words}"]
    said, _, examples = _plain(command.help or "").partition("\n\nExamples\n\n")
    parts.append(_escaped(said))
    if examples:
        lines = [line for line in examples.splitlines() if line.strip()]
        parts.append("```\n" + "\n".join(lines) + "\n```")
    rows = [_row(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
    if rows:
        parts.append("\n".join(["| option | | default |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n\n"


def _row(parameter: Any) -> str:
    argument = parameter.opts[0] == parameter.name
    names = [parameter.name.upper()] if argument else [*parameter.opts, *parameter.secondary_opts]
    shown = "<br>".join(f"`{name}`" for name in names)
    kind = _kind(parameter.type_descriptor.annotation)
    text = " ".join(_plain(parameter.help or "").split())
    default = "required" if parameter.required else _default(parameter)
    return f"| {shown}{f'<br>{kind}' if kind else ''} | {_escaped(text).replace('|', chr(92) + '|')} | {default} |"


def _kind(annotation: Any) -> str:
    """What a value is, or which there are."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is list:
        return f"{_kind(get_args(annotation)[0])}, several times"
    if issubclass(annotation, Enum):
        return ", ".join(f"`{choice.value}`" for choice in annotation)
    return KINDS[annotation]


def _default(parameter: Any) -> str:
    value = parameter.default
    if value in (None, False, (), []) or callable(value):
        return ""
    if isinstance(value, bool):
        return "on"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def _escaped(text: str) -> str:
    """What Markdown would take for marks: angle brackets outside of code."""
    return text.replace("<", "&lt;").replace("[", r"\[")
