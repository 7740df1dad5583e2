"""Scores as JSON numbers that OpenSearch's Java reads as a Double."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as some

from secondpass.serving.numbers import json_number


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1.0, "1.0"), (0.0, "0.0"), (-0.0, "0.0"), (-1e-12, "0.0"), (0.93, "0.93"), (4.2e-6, "0.0000042"),
        (0.6231455039478934, "0.6231455"), (-12.5, "-12.5"), (0.99999999, "1.0"), (100.0, "100.0"),
    ],
)  # fmt: skip
def test_numbers_are_plain(value: float, written: str) -> None:
    """A point, no exponent, at most seven decimals."""
    assert json_number(value) == written


@given(some.floats(width=32, allow_nan=False, allow_infinity=False))
def test_any_float32_is_a_short_json_float(value: float) -> None:
    """It reads back as a float within the rounding, in at most 18 characters."""
    written = json_number(value)
    read = json.loads(written)
    assert type(read) is float
    assert len(written) <= 18
    assert read == pytest.approx(value, rel=1e-7, abs=5.1e-8)
    assert abs(value) >= 1e9 or re.fullmatch(r"-?\d+\.\d{1,7}", written)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_has_not_is_refused(value: float) -> None:
    """Never NaN."""
    with pytest.raises(ValueError, match="not finite"):
        json_number(value)
