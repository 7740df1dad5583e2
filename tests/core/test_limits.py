"""Rules of `secondpass.limits`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int


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
