"""Numbers and choices that callers set."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection
from numbers import Real
from typing import Any, TypeVar

from secondpass.errors import InvalidInput

Choice = TypeVar("Choice", bound=str)


def positive_int(value: Any, argument: str) -> int:
    """Return `value` as an int if it is a whole number above zero, numpy's included.

    Raises:
        InvalidInput: anything else, bool too; the message names `argument`.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise InvalidInput(f"{argument}={value!r} is not a positive int")
    return number


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


def choice(value: object, choices: Collection[Choice], argument: str) -> Choice:
    """Return the one of `choices` that `value` is.

    Raises:
        InvalidInput: none of them; the message names `argument` and lists them.
    """
    for known in choices:
        if isinstance(value, str) and known == value:
            return known
    raise InvalidInput(f"{argument}={value!r} is none of {', '.join(choices)}")
