"""Numbers that callers set."""

from __future__ import annotations

import operator
from typing import Any

from secondpass.errors import InvalidInput


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
