"""What a loss is told by name, checked when it is made."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from secondpass.errors import InvalidInput


def chosen(value: object, known: Iterable[str], argument: str) -> str:
    """Return the one of `known` that `value` names, whatever its case, hyphens, underscores and spaces.

    Raises:
        InvalidInput: none of them; the message names `argument`, lists them and suggests the nearest.
    """
    names = {plain(name): name for name in known}
    wanted = plain(value) if isinstance(value, str) else ""
    if wanted in names:
        return names[wanted]
    near = get_close_matches(wanted, names, n=1)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    raise InvalidInput(f"{argument}={value!r} is none of {', '.join(names.values())}{hint}")


def plain(name: str) -> str:
    """Lower case without hyphens, underscores and spaces: what two spellings of a name have in common."""
    return "".join(sign for sign in name.lower() if sign not in "-_ ")
