"""How exactly a model computes, and the rule by which "auto" may compute less exactly than float32."""

from __future__ import annotations

from typing import Literal

import torch

from secondpass.errors import InvalidInput

Precision = Literal["auto", "fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "int8")

# The share of the spread of a model's scores by which a score may differ from float32's under "auto". Two documents
# whose scores are further apart than twice that cannot change places.
TOLERANCE = 0.01

# Neutral pairs, some of them answers and some not, that a model's own scores are compared on.
_QUERIES = (
    "How long does it take to boil an egg?",
    "What is the capital of a country?",
    "opening hours of the city library",
)
_DOCUMENTS = (
    "Put the egg into boiling water: after five minutes it is soft, after nine minutes it is hard.",
    "The library in the town hall is open from Monday to Friday between ten and six, and on Saturdays until two.",
    "A capital is the city in which the government of a country has its seat.",
    "Trains leave every hour from platform three; tickets are sold at the counter and in the app.",
)
SAMPLE_QUERIES = tuple(query for query in _QUERIES for _ in _DOCUMENTS)
SAMPLE_DOCUMENTS = _DOCUMENTS * len(_QUERIES)


def checked_precision(value: object) -> Precision:
    """Return `value` if it is one of `PRECISIONS`.

    Raises:
        InvalidInput: it is none.
    """
    for known in PRECISIONS:
        if isinstance(value, str) and value == known:
            return known
    raise InvalidInput(f"precision={value!r} is none of {', '.join(PRECISIONS)}")


def agrees(logits: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether logits [pairs, labels] rank as the exact ones do.

    No logit may be further from the exact one than `TOLERANCE` of the spread (largest minus smallest) of its label.
    """
    spread = exact.amax(dim=0) - exact.amin(dim=0)
    return bool(torch.isfinite(exact).all() and ((logits - exact).abs() <= TOLERANCE * spread).all())
