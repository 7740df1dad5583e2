"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from secondpass.evaluation.findings import Interval

NOTHING = "\u2013"
SHOWN = 5


def number(value: float | None) -> str:
    """Three decimals; one from ten up, where measures are counts."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}".removesuffix(".0")
    return text.removeprefix("-") if not text.strip("-0.") else text


def signed(value: float | None) -> str:
    """The same with a plus before a gain."""
    text = number(value)
    return text if text == NOTHING or text.startswith("-") or not text.strip("0.") else f"+{text}"


def span(interval: Interval | None) -> str:
    """Both ends of an interval."""
    return NOTHING if interval is None else f"{number(interval.low)} to {number(interval.high)}"


def signed_span(interval: Interval) -> str:
    """Both ends of a difference's interval."""
    return f"{signed(interval.low)} to {signed(interval.high)}"


def percent(share: float | None) -> str:
    """A share of one in percent, without decimals."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{share * 100:.0f} %".replace("-0 %", "0 %")


def p_value(p: float) -> str:
    """What follows "p": a sign and a number."""
    if not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def p_cell(p: float) -> str:
    """The same for a table's cell."""
    return p_value(p).removeprefix("= ")


def milliseconds(ms: float | None) -> str:
    """Two or three digits that matter."""
    if ms is None or not math.isfinite(ms):
        return NOTHING
    return f"{ms:,.0f}" if ms >= 10 or ms == 0 else f"{ms:.1f}"


def listed(names: Sequence[str], shown: int = SHOWN) -> str:
    """The first of many, and that there are more."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def shortened(text: str, longest: int) -> str:
    """A text cut to so many characters, the last of them an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def counted(number_of: int, one: str, many: str) -> str:
    """A number with its noun."""
    return f"{number_of:,} {one if number_of == 1 else many}"
