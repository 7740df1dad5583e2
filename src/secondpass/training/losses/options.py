"""What a loss is told by name or number, checked when it is made."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real
from typing import Any

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


def positive_number(value: Any, argument: str) -> float:
    """Return `value` as a float if it is a finite number above zero, numpy's included.

    Raises:
        InvalidInput: anything else, bool too; the message names `argument`.
    """
    number = finite_number(value, argument)
    if number <= 0:
        raise InvalidInput(f"{argument}={value!r} is not above 0")
    return number


def finite_number(value: Any, argument: str) -> float:
    """Return `value` as a float if it is a finite number, numpy's included.

    Raises:
        InvalidInput: anything else, bool too; the message names `argument`.
    """
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an int beyond float64
            pass
    if not math.isfinite(number):
        raise InvalidInput(f"{argument}={value!r} is not a finite number")
    return number


def whole_number(value: Any, argument: str) -> int:
    """Return `value` as an int if it is a whole number from 0 on, numpy's included.

    Raises:
        InvalidInput: anything else, bool too; the message names `argument`.
    """
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise InvalidInput(f"{argument}={value!r} is not a whole number from 0 on")
    return number
