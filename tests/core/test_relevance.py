"""Rules of `secondpass.relevance`."""

from __future__ import annotations

import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.relevance import checked_relevance, relevance_logits

LOGITS = torch.tensor([[1.0, 2.5], [0.0, -3.0]])


def test_two_labels_rank_by_the_difference_of_their_logits() -> None:
    """As monoBERT does; the sigmoid of it is the softmax probability."""
    logits = relevance_logits(LOGITS, 1)
    assert torch.allclose(logits, torch.tensor([1.5, -3.0]))
    assert torch.allclose(torch.sigmoid(logits), torch.softmax(LOGITS, 1)[:, 1])


def test_one_of_several_labels_ranks_by_its_log_odds() -> None:
    """The sigmoid of the log-odds is the softmax probability for any number of labels."""
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    for label in range(5):
        expected = torch.softmax(logits, 1)[:, label]
        assert torch.allclose(torch.sigmoid(relevance_logits(logits, label)), expected, atol=1e-6)


def test_expected_grade() -> None:
    """Labels are grades 0, 1, 2."""
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    assert relevance_logits(logits, "expected").item() == pytest.approx(0.75)


@pytest.mark.parametrize("rule", [None, -1, 2, True, "auto", 1.0])
def test_a_rule_that_fits_no_label_is_refused(rule: object) -> None:
    """Guessing a label would rank upside down half of the time."""
    with pytest.raises(InvalidInput, match="relevance="):
        checked_relevance(rule, 2)
