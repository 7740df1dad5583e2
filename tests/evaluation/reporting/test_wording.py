"""wording: numbers as people read them."""

from __future__ import annotations

import math

import pytest

from secondpass.evaluation.findings import Interval
from secondpass.evaluation.reporting.wording import (
    NOTHING,
    counted,
    listed,
    milliseconds,
    number,
    p_cell,
    p_value,
    percent,
    shortened,
    signed,
    signed_span,
    span,
)


@pytest.mark.parametrize(
    ("value", "plain", "with_sign"),
    [
        (0.49349, "0.493", "+0.493"),
        (-0.0804, "-0.080", "-0.080"),
        (-0.0001, "0.000", "0.000"),
        (0.0001, "0.000", "0.000"),
        (1234.0, "1,234", "+1,234"),
        (-10.25, "-10.2", "-10.2"),
        (None, NOTHING, NOTHING),
        (math.nan, NOTHING, NOTHING),
        (math.inf, NOTHING, NOTHING),
    ],
)
def test_numbers(value: float | None, plain: str, with_sign: str) -> None:
    """Three decimals, no negative zero, a dash for what is no number."""
    assert (number(value), signed(value)) == (plain, with_sign)


def test_intervals() -> None:
    """Both ends; a difference's with signs; none is a dash."""
    interval = Interval(-0.01, 0.05, 0.95)
    assert (span(interval), signed_span(interval), span(None)) == ("-0.010 to 0.050", "-0.010 to +0.050", NOTHING)


def test_shares() -> None:
    """Whole percents, no negative zero."""
    assert [percent(share) for share in (0.413, -0.12, -0.001, 1.0, None)] == ["41 %", "-12 %", "0 %", "100 %", NOTHING]


@pytest.mark.parametrize(
    ("p", "said", "cell"),
    [
        (0.0, "< 0.001", "< 0.001"),
        (0.0321, "= 0.032", "0.032"),
        (1.0, "= 1.000", "1.000"),
        (math.nan, NOTHING, NOTHING),
    ],
)
def test_p_values(p: float, said: str, cell: str) -> None:
    """Never "p = 0.000": a test by resampling cannot say so."""
    assert (p_value(p), p_cell(p)) == (said, cell)


def test_milliseconds() -> None:
    """As many digits as matter."""
    assert [milliseconds(ms) for ms in (0.0, 3.44, 193.2, 1500, None)] == ["0", "3.4", "193", "1,500", NOTHING]


def test_lists_and_counts() -> None:
    """Long ones are cut and say so; one is singular."""
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg")) == "a, b, c, d, e, ..."
    assert (counted(1, "query", "queries"), counted(1000, "query", "queries")) == ("1 query", "1,000 queries")
    assert (shortened("abcdef", 6), shortened("abc defg", 5)) == ("abcdef", "abc…")
