"""How exactly a model computes, and the rule by which "auto" may compute less exactly than float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.text import choice

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16", "int16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "int16", "int8")
# What a config.json may recommend, as {"secondpass": {"precision": "auto"}}. int8 is not among it: a model that only
# some machines can compute could not be loaded on the others.
CONFIG_KEY = "secondpass"
RECOMMENDED: tuple[Precision, ...] = ("auto", "fp32", "bf16")

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
    """Return `value` if it is one of `PRECISIONS`; raises InvalidInput where it is none."""
    return choice(value, PRECISIONS, "precision")


def recommended_precision(config: Any) -> Precision | None:
    """What a model's config.json recommends, by its `secondpass`, as read or in a transformers config; None if nothing.

    Raises:
        ModelLoadError: it recommends something else than one of `RECOMMENDED`.
    """
    stored = config.get(CONFIG_KEY) if isinstance(config, dict) else getattr(config, CONFIG_KEY, None)
    if stored is not None and not isinstance(stored, dict):
        raise ModelLoadError(f"config.json: {CONFIG_KEY!r} is {type(stored).__name__}, not an object")
    recommended = (stored or {}).get("precision")
    if recommended is None:
        return None
    try:
        return choice(recommended, RECOMMENDED, f"config.json: {CONFIG_KEY}.precision")
    except InvalidInput as error:
        raise ModelLoadError(f"{error}; precision= overrides it") from None


def precision_of(weights: torch.dtype) -> Precision:
    """The precision where none is asked for or recommended: "fp32", or "auto" for a half type, which keeps that type.

    So a checkpoint that knows nothing of this library has the same scores on every machine.
    """
    return "fp32" if weights.itemsize >= 4 else "auto"


def agrees(logits: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> bool:
    """Whether logits [pairs, labels] rank as the exact ones do.

    No logit may be further from the exact one than `TOLERANCE` of the spread (largest minus smallest) of its label.
    """
    if not (np.isfinite(exact).all() and np.isfinite(logits).all()):
        return False
    spread = exact.max(axis=0) - exact.min(axis=0)
    return bool((np.abs(logits - exact) <= TOLERANCE * spread).all())


def has_fast_bf16() -> bool:
    """Whether this CPU multiplies faster in bfloat16: in a matrix unit (Intel AMX), or as AMD's Zen 4 and 5 do.

    Intel's processors with AMX, where that is hidden from a virtual machine, have AVX-512's product of bfloat16 too,
    at half the speed of float32's; they are told apart by AVX-512 FP16, which AMD's lack.
    """
    import torch

    ask: Callable[[], Mapping[str, Any]] | None = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:  # torch before it had that asked for AMX alone
        return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
    has = ask()
    return bool(has.get("amx_bf16") or (has.get("avx512_bf16") and not has.get("avx512_fp16")))
