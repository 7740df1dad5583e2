"""Rules of `secondpass.precision`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.precision import (
    PRECISIONS,
    SAMPLE_DOCUMENTS,
    SAMPLE_QUERIES,
    TOLERANCE,
    agrees,
    checked_precision,
)


@pytest.mark.parametrize("known", PRECISIONS)
def test_known_names_are_taken(known: str) -> None:
    """As they are."""
    assert checked_precision(known) == known


@pytest.mark.parametrize("wrong", ["", "BF16", "fp16", None, 32, torch.bfloat16, ["bf16"]])
def test_other_values_are_refused(wrong: Any) -> None:
    """The message names the argument and what it may be."""
    with pytest.raises(InvalidInput, match=r"precision=.* is none of auto, fp32, bf16, int8"):
        checked_precision(wrong)


def test_samples_are_pairs() -> None:
    """Every query with every document, each pair once."""
    pairs = list(zip(SAMPLE_QUERIES, SAMPLE_DOCUMENTS, strict=True))
    assert len(set(pairs)) == len(pairs) == 12


def test_scores_agree_within_a_share_of_their_spread() -> None:
    """The bound grows with the spread, so that it means the same for every scale."""
    exact = torch.tensor([[0.0], [3.0], [10.0]])
    for scale in (1e-3, 1.0, 1e3):
        close = exact * scale
        assert agrees(close + 0.99 * TOLERANCE * 10 * scale, close)
        assert not agrees(close + 1.01 * TOLERANCE * 10 * scale, close)


def test_each_label_has_its_own_spread() -> None:
    """One label that is off is enough."""
    exact = torch.tensor([[0.0, 0.0], [100.0, 1.0]])
    assert agrees(exact + torch.tensor([0.9, 0.0]), exact)
    assert not agrees(exact + torch.tensor([0.0, 0.9]), exact)


def test_what_is_not_a_number_never_agrees() -> None:
    """Overflow in bfloat16 means float32; equal scores for everything leave no room."""
    exact = torch.tensor([[0.0], [1.0]])
    assert not agrees(torch.tensor([[0.0], [torch.nan]]), exact)
    assert not agrees(exact, torch.tensor([[0.0], [torch.inf]]))
    assert not agrees(torch.tensor([[1.0], [1.001]]), torch.ones(2, 1))
