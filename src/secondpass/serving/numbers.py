"""Scores as JSON numbers that every known reader takes.

OpenSearch's processor of Cohere-like answers casts each score to Java's Double. Its JSON reader makes an Integer of a
number without a point and a BigDecimal of one longer than 18 characters, and either ends the search. So a score has
a point, at most seven decimals and at most 18 characters.
"""

from __future__ import annotations

import json
import math
from typing import Any

DECIMALS = 7
LONGEST = 18
# From here on a plain number of seven decimals would be longer than 18 characters.
HUGE = 1e9


def json_number(value: float) -> str:
    """A finite number as a JSON literal with a decimal point: 0.93, 1.0, 0.0000042.

    Raises:
        ValueError: NaN or infinity, which JSON has not.
    """
    if not math.isfinite(value):
        raise ValueError("a score is not finite")
    if abs(value) >= HUGE:
        return f"{value:.8e}"
    plain = f"{value:.{DECIMALS}f}".rstrip("0")
    if plain.endswith("."):
        plain += "0"
    return "0.0" if plain == "-0.0" else plain


def json_text(value: Any) -> str:
    """Everything else as compact ASCII JSON."""
    return json.dumps(value, separators=(",", ":"))
