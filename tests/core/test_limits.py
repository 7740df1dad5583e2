"""Rules of `secondpass.limits`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.limits import choice, positive_int, whole_number


@pytest.mark.parametrize("value", [1, 7, 10**12, np.int64(3), np.uint8(3)])
def test_whole_numbers_above_zero_become_int(value: Any) -> None:
    """Numpy's integers too, as sizes are often read off arrays."""
    number = positive_int(value, "top_k")
    assert type(number) is int
    assert number == value


@pytest.mark.parametrize("value", [0, -1, True, False, np.bool_(1), 1.0, np.float32(2), "3", None, [], np.arange(2)])
def test_anything_else_is_refused_by_name(value: Any) -> None:
    """A bool is a mistake, not a one; a float is not rounded."""
    with pytest.raises(InvalidInput, match=r"^top_k=.* is not a positive int$"):
        positive_int(value, "top_k")


@pytest.mark.parametrize("value", [0, 1, np.int64(3)])
def test_zero_is_a_whole_number(value: Any) -> None:
    """Where none at all makes sense."""
    number = whole_number(value, "overhead")
    assert type(number) is int
    assert number == value


@pytest.mark.parametrize("value", [-1, True, np.bool_(0), 1.0, "3", None])
def test_a_negative_or_broken_number_is_refused_by_name(value: Any) -> None:
    """As for numbers above zero."""
    with pytest.raises(InvalidInput, match=r"^overhead=.* is not a whole number from 0 on$"):
        whole_number(value, "overhead")


def test_a_choice_is_one_of_what_is_listed() -> None:
    """Letter by letter; anything else is refused with the list, values that are no text too."""
    assert choice("b", ("a", "b"), "kind") == "b"
    for value in ("B", "", None, 1, ["a"]):
        with pytest.raises(InvalidInput, match=r"^kind=.* is none of a, b$"):
            choice(value, ("a", "b"), "kind")
