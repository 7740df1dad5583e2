"""Pointwise losses: their options, and sentence-transformers' values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.cross_encoder import losses as st_losses

from secondpass.errors import InvalidInput
from secondpass.training.losses.pointwise import MSE, BinaryCrossEntropy, CrossEntropy
from tests.training.losses.ragged import drawn, padded, units
from tests.training.losses.references import binary_cross_entropy, cross_entropy, of_all
from tests.training.losses.theirs import assert_same, given, of_pairs


@pytest.mark.parametrize("weight", [None, 0.25, 7])
def test_binary_cross_entropy_is_sentence_transformers(weight):
    """Means and gradients are equal: both divide by the number of documents, whatever the weight."""
    loss = BinaryCrossEntropy(weight)
    ragged = drawn(loss, 1)
    model = given(ragged)
    theirs = st_losses.BinaryCrossEntropyLoss(model, pos_weight=None if weight is None else torch.tensor(float(weight)))
    assert_same(loss, ragged, model, of_pairs(theirs, ragged))


def test_mse_is_sentence_transformers():
    """Means and gradients are equal."""
    ragged = drawn(MSE(), 1)
    model = given(ragged)
    assert_same(MSE(), ragged, model, of_pairs(st_losses.MSELoss(model), ragged))


def test_cross_entropy_is_sentence_transformers():
    """Means and gradients are equal without weights."""
    ragged = drawn(CrossEntropy(), 1)
    model = given(ragged)
    assert_same(CrossEntropy(), ragged, model, of_pairs(st_losses.CrossEntropyLoss(model), ragged, torch.int64))


def test_weighted_cross_entropy_is_sentence_transformers():
    """Sums are equal; theirs is divided by the weights met in the batch, so it is multiplied by them here."""
    weights = [0.5, 2.0, 1.0]
    loss = CrossEntropy(weights)
    ragged = drawn(loss, 1)
    model = given(ragged)
    theirs = st_losses.CrossEntropyLoss(model, weight=torch.tensor(weights))
    met = sum(weights[int(label)] for labels in ragged.labels for label in labels)
    assert_same(loss, ragged, model, of_pairs(theirs, ragged, torch.int64) * met, "sum")


def test_balanced_weights_make_both_kinds_count_alike():
    """With as many negatives as the weight says, a model that knows nothing gets gradients that cancel out."""
    loss = BinaryCrossEntropy("balanced").balanced(2, 6)
    assert loss == BinaryCrossEntropy(3.0)
    logits = torch.zeros(1, 8, requires_grad=True)
    loss(logits, torch.tensor([[1.0] * 2 + [0.0] * 6]), torch.ones(1, 8, dtype=torch.bool)).sum().backward()
    assert logits.grad.sum() == 0
    assert logits.grad.abs().max() == 1.5
    ragged = drawn(loss, 2)
    np.testing.assert_allclose(units(loss, ragged), of_all(binary_cross_entropy(3.0), ragged.groups))


def test_balanced_must_be_resolved():
    """Used as it is, it says what to do; nothing to balance is refused."""
    loss = BinaryCrossEntropy("balanced")
    with pytest.raises(InvalidInput, match=r'^pos_weight="balanced" needs the counts of the labels'):
        loss(*padded(drawn(loss, 0)))
    with pytest.raises(InvalidInput, match=r"^positives=0 is not above 0$"):
        loss.balanced(0, 3)
    with pytest.raises(InvalidInput, match=r"^negatives=0.0 is not above 0$"):
        loss.balanced(3, 0.0)


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf"), "Balanced", "2", True, [1.0]])
def test_refused_pos_weights(weight):
    """Neither None, "balanced" nor a number above 0."""
    with pytest.raises(InvalidInput, match=r"^pos_weight="):
        BinaryCrossEntropy(weight)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([], "below 0, or none above"),
        ([0.0, 0], "below 0, or none above"),
        ([1, -1], "below 0, or none above"),
        ([1, float("nan")], r"^weights\[1\]=nan is not a finite number"),
        (["a"], r"^weights\[0\]='a' is not a finite number"),
        ("123", "is not a list of numbers"),
        (3.0, "is not a list of numbers"),
    ],
)
def test_refused_class_weights(weights, words):
    """The message names the weight."""
    with pytest.raises(InvalidInput, match=words):
        CrossEntropy(weights)


def test_classes_of_weight_zero_count_nothing():
    """A class may be left out by its weight."""
    loss = CrossEntropy((0.0, 1.0, 1.0))
    ragged = drawn(loss, 3)
    np.testing.assert_allclose(units(loss, ragged), of_all(cross_entropy((0.0, 1.0, 1.0)), ragged.groups))
    assert (units(loss, ragged) == 0).any()


def test_cross_entropy_refuses_other_shapes():
    """Logits of one label, and a number of weights that is not that of the classes."""
    labels, mask = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(InvalidInput, match=r"^logits \[2, 3\] are not \[groups, documents, classes\]$"):
        CrossEntropy()(torch.zeros(2, 3), labels, mask)
    with pytest.raises(InvalidInput, match=r"^logits \[2, 4, 5\] are not"):
        CrossEntropy()(torch.zeros(2, 4, 5), labels, mask)
    with pytest.raises(InvalidInput, match=r"^weights are 2, the classes of the model 5$"):
        CrossEntropy([1, 1])(torch.zeros(2, 3, 5), labels, mask)
