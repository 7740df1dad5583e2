"""What counts in groups of uneven size, by hand."""

from __future__ import annotations

import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.losses.masks import (
    ahead,
    better,
    both,
    cleaned,
    contrasted,
    differences,
    log_shares,
    others,
    places,
    several,
)

NAN = float("nan")
MASK = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [False, False, False]])
VALUES = torch.tensor([[1.0, 3.0, 1.0], [2.0, 2.0, 9.0], [5.0, 9.0, 9.0], [9.0, 8.0, 7.0]])


def test_cleaned():
    """What does not stand is 0, whatever it was; labels take the dtype of the logits; gradients stop there."""
    logits = torch.where(MASK, VALUES, NAN).double().requires_grad_()
    clean, labels = cleaned(logits, torch.where(MASK, VALUES, float("inf")), MASK)
    assert torch.equal(clean, torch.where(MASK, VALUES, 0.0).double())
    assert torch.equal(labels, clean)
    clean.exp().sum().backward()
    assert torch.equal(logits.grad != 0, MASK)


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (2, 3), (3, 2)), ((2, 3), (2, 1), (2, 3)), ((3,), (3,), (3,)), ((2, 3, 1), (2, 3, 1), (2, 3, 1))],
)
def test_other_shapes_are_refused(shapes):
    """Nothing is broadcast by accident; the message has the shapes."""
    logits, labels, mask = (torch.ones(shape) for shape in shapes)
    with pytest.raises(InvalidInput, match=r"not all \[groups, documents\]: logits \[.*, labels \[.*, mask \["):
        cleaned(logits, labels, mask.bool())


def test_pairs():
    """First axis against second, by hand."""
    assert differences(VALUES)[0].tolist() == [[0, -2, 0], [2, 0, 2], [0, -2, 0]]
    assert better(VALUES, MASK)[0].tolist() == [[False] * 3, [True, False, True], [False] * 3]
    assert not better(VALUES, MASK)[1:].any()
    assert both(MASK)[1].tolist() == [[True, True, False], [True, True, False], [False] * 3]
    assert others(MASK)[1].tolist() == [[False, True, False], [True, False, False], [False] * 3]


def test_groups():
    """Which have several documents, and which have unequal labels among those that stand."""
    assert several(MASK).tolist() == [True, True, False, False]
    assert contrasted(VALUES, MASK).tolist() == [True, False, False, False]


def test_places():
    """By falling value, equal ones in the group's order, whatever stands at masked places."""
    assert places(VALUES, MASK)[0].tolist() == [2, 1, 3]
    assert places(VALUES, MASK)[1, :2].tolist() == [1, 2]
    assert ahead(VALUES, MASK)[0].tolist() == [[False, True, False], [False] * 3, [True, True, False]]
    assert places(VALUES.double(), MASK).dtype == torch.float64


def test_places_are_those_of_a_stable_sort():
    """On many values with ties."""
    values = torch.randint(5, (50, 9), generator=torch.Generator().manual_seed(0)).float()
    mask = torch.ones(values.shape, dtype=torch.bool)
    order = values.argsort(dim=1, descending=True, stable=True)
    assert torch.equal(places(values, mask), 1.0 + order.argsort(dim=1))


def test_log_shares():
    """A softmax over what stands, 0 elsewhere."""
    shares = log_shares(VALUES[:3], MASK[:3])
    assert torch.allclose(shares[1], torch.tensor([0.5, 0.5, 1.0]).log())
    assert shares[2].tolist() == [0, 0, 0]
