"""Rules of `secondpass.forwards.precision`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.forwards.precision import (
    PRECISIONS,
    SAMPLE_DOCUMENTS,
    SAMPLE_QUERIES,
    TOLERANCE,
    agrees,
    checked_precision,
    precision_of,
    recommended_precision,
)


@pytest.mark.parametrize("known", PRECISIONS)
def test_known_names_are_taken(known: str) -> None:
    """As they are."""
    assert checked_precision(known) == known


@pytest.mark.parametrize("wrong", ["", "BF16", "fp16", None, 32, torch.bfloat16, ["bf16"]])
def test_other_values_are_refused(wrong: Any) -> None:
    """The message names the argument and what it may be."""
    with pytest.raises(InvalidInput, match=r"precision=.* is none of auto, fp32, bf16, int16, int8"):
        checked_precision(wrong)


def test_samples_are_pairs() -> None:
    """Every query with every document, each pair once."""
    pairs = list(zip(SAMPLE_QUERIES, SAMPLE_DOCUMENTS, strict=True))
    assert len(set(pairs)) == len(pairs) == 12


def test_scores_agree_within_a_share_of_their_spread() -> None:
    """The bound grows with the spread, so that it means the same for every scale."""
    exact = np.array([[0.0], [3.0], [10.0]], np.float32)
    for scale in (1e-3, 1.0, 1e3):
        close = exact * scale
        assert agrees(close + 0.99 * TOLERANCE * 10 * scale, close)
        assert not agrees(close + 1.01 * TOLERANCE * 10 * scale, close)


def test_each_label_has_its_own_spread() -> None:
    """One label that is off is enough."""
    exact = np.array([[0.0, 0.0], [100.0, 1.0]], np.float32)
    assert agrees(exact + np.array([0.9, 0.0], np.float32), exact)
    assert not agrees(exact + np.array([0.0, 0.9], np.float32), exact)


def test_what_is_not_a_number_never_agrees() -> None:
    """Overflow in bfloat16 means float32; equal scores for everything leave no room."""
    exact = np.array([[0.0], [1.0]], np.float32)
    assert not agrees(np.array([[0.0], [np.nan]], np.float32), exact)
    assert not agrees(exact, np.array([[0.0], [np.inf]], np.float32))
    assert not agrees(np.array([[1.0], [1.001]], np.float32), np.ones((2, 1), np.float32))


class _Config:
    """A transformers config keeps keys that it does not know as attributes."""

    def __init__(self, **keys: Any) -> None:
        self.__dict__.update(keys)


@pytest.mark.parametrize(
    ("config", "weights", "expected"),
    [
        (_Config(), torch.float32, "fp32"),
        (_Config(), torch.float64, "fp32"),
        (_Config(), torch.bfloat16, "auto"),
        (_Config(), torch.float16, "auto"),
        (_Config(secondpass=None), torch.float32, "fp32"),
        (_Config(secondpass={}), torch.float32, "fp32"),
        (_Config(secondpass={"precision": None}), torch.float32, "fp32"),
        (_Config(secondpass={"precision": "auto"}), torch.float32, "auto"),
        (_Config(secondpass={"precision": "bf16", "of a later version": 1}), torch.float32, "bf16"),
        (_Config(secondpass={"precision": "fp32"}), torch.bfloat16, "fp32"),
    ],
)
def test_without_a_wish_the_model_decides_and_else_it_is_exact(
    config: _Config, weights: torch.dtype, expected: str
) -> None:
    """A config recommends; weights in a half type keep it; every other checkpoint is computed in float32."""
    assert (recommended_precision(config) or precision_of(weights)) == expected


@pytest.mark.parametrize("wrong", ["auto", ["auto"], {"precision": "fast"}, {"precision": 16}, {"precision": "int8"}])
def test_a_recommendation_that_is_none_is_refused(wrong: Any) -> None:
    """The message names the file and the key; int8 would keep the model from machines that lack the kernel."""
    with pytest.raises(ModelLoadError, match=r"^config\.json: '?secondpass"):
        recommended_precision(_Config(secondpass=wrong))
