"""What the contract promises, for every loss there is."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.training.losses.contract import Loss
from secondpass.training.losses.named import LOSSES, make_loss
from secondpass.training.losses.pairwise import WEIGHTINGS
from tests.training.losses.ragged import CLASSES, SIZES, Ragged, drawn, padded, units
from tests.training.losses.references import REFERENCES, of_all

OTHERS = {
    "margin_mse first": make_loss("margin_mse", {"pairs": "first"}),
    "margin_mse highest": make_loss("margin_mse", {"pairs": "highest"}),
    **{f"lambda {name}": make_loss("lambda_loss", {"weighting": name, "k": 2}) for name in WEIGHTINGS},
}
EVERY = {name: make_loss(name, REFERENCES[name][0]) for name in LOSSES} | OTHERS
each = pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("ties", [True, False])
def test_units_are_those_of_the_formula(name: str, ties: bool) -> None:
    """Every unit equals the paper's formula in plain loops, on groups of one to seven documents."""
    options, reference = REFERENCES[name]
    loss = make_loss(name, options)
    for seed in range(20):
        ragged = drawn(loss, seed, ties=ties)
        expected = of_all(reference, ragged.groups)
        np.testing.assert_allclose(units(loss, ragged), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(units(loss, ragged, torch.float32), expected, rtol=1e-4, atol=1e-5)


@each
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    """In float64, with groups of all sizes and NaN where nothing stands."""
    logits, labels, mask = padded(drawn(loss, 3), torch.float64)
    assert torch.autograd.gradcheck(lambda values: loss(values, labels, mask), logits)


@each
@pytest.mark.parametrize("fill", [float("nan"), float("inf"), float("-inf"), 1e30, -7.0])
def test_what_stands_at_masked_places_is_nothing(loss: Loss, fill: float) -> None:
    """It changes no unit, and gets a gradient of exactly 0, whatever it is."""
    ragged = drawn(loss, 5)
    clean, labels, mask = padded(ragged, fill=0.0)
    expected = loss(clean, labels, mask)
    dirty, labels, mask = padded(ragged, fill=fill)
    found = loss(dirty, labels, mask)
    assert torch.equal(found, expected)
    found.sum().backward()
    expected.sum().backward()
    assert torch.equal(dirty.grad, clean.grad)
    assert not dirty.grad[~mask].any()


@each
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_groups_do_not_feel_their_neighbours(loss: Loss, data: st.DataObject) -> None:
    """Units of groups side by side are those of each alone: a step may be cut anywhere."""
    sizes = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    ragged = drawn(loss, data.draw(st.integers(0, 10**6)), sizes)
    alone = [units(loss, ragged.only(row), torch.float32) for row in range(len(sizes))]
    np.testing.assert_allclose(units(loss, ragged, torch.float32), np.concatenate(alone), rtol=1e-5, atol=1e-6)


@each
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_no_units_still_depend_on_the_logits(loss: Loss, shape: tuple[int, int]) -> None:
    """Without any document the units are empty, and their sum has gradient 0: other processes may have some."""
    logits = torch.full((*shape, CLASSES) if loss.labels == "class" else shape, float("nan"), requires_grad=True)
    found = loss(logits, torch.full(shape, float("nan")), torch.zeros(shape, dtype=torch.bool))
    assert found.shape == (0,)
    found.sum().backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@each
def test_the_shortest_group_gives_units_and_shorter_ones_none(loss: Loss) -> None:
    """`shortest` says truly how many documents it takes, before the loop adds any."""
    if getattr(loss, "in_batch_negatives", 0):
        loss = replace(loss, in_batch_negatives=0)
    for size in (1, 2, 3):
        ragged = drawn(loss, 0, (size,))
        found = units(loss, Ragged(ragged.logits, [np.array([1.0, 0.0, 0.0][:size])]))
        assert bool(len(found)) == (size >= loss.shortest)


@each
def test_groups_without_contrast(loss: Loss) -> None:
    """Equal labels give units without NaN, and none if `needs_contrast`."""
    for label in (0.0, 1.0):
        ragged = drawn(loss, 1, (4, 2))
        found = units(loss, Ragged(ragged.logits, [np.full(size, label) for size in (4, 2)]))
        assert np.isfinite(found).all()
        if loss.needs_contrast:
            assert found.shape == (0,)


@each
@pytest.mark.parametrize("ties", [True, False])
def test_logits_of_any_size(loss: Loss, ties: bool) -> None:
    """Logits of 1e4 give finite units and gradients in float32, near those in float64."""
    ragged = drawn(loss, 7, ties=ties, scale=1e4)
    logits, labels, mask = padded(ragged)
    found = loss(logits, labels, mask)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logits.grad).all()
    np.testing.assert_allclose(found.detach(), units(loss, ragged), rtol=1e-3, atol=1e-3)


@each
def test_equal_logits(loss: Loss) -> None:
    """A model that says 0 to everything is judged too."""
    ragged = drawn(loss, 8)
    logits, labels, mask = padded(Ragged([0 * group for group in ragged.logits], ragged.labels))
    found = loss(logits, labels, mask)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logits.grad).all()


@each
def test_a_logit_that_is_no_number_shows(loss: Loss) -> None:
    """NaN where a document stands reaches the mean, so that the loop can stop."""
    ragged = drawn(loss, 2, (4,), ties=False)
    ragged.labels[0][0] = 0
    for place in range(4):
        logits, labels, mask = padded(ragged)
        with torch.no_grad():
            logits[0, place] = float("nan")
        mean = loss(logits, labels, mask).mean()
        counted = getattr(loss, "k", None) is None or place < 2
        assert torch.isnan(mean) or not counted


@each
def test_inputs_stay_as_they_are(loss: Loss) -> None:
    """Nothing is written into logits, labels or mask; twice gives the same bits, and a copy of the loss too."""
    given = padded(drawn(loss, 4), fill=9.0)
    before = [tensor.detach().clone() for tensor in given]
    first, second, third = loss(*given), loss(*given), copy.deepcopy(loss)(*given)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(given, before, strict=True))
    assert first.dtype == torch.float32


@each
def test_every_loss_keeps_the_contract(loss: Loss) -> None:
    """It has what the loop asks for."""
    assert isinstance(loss, Loss)
    assert loss.labels in ("relevance", "grade", "score", "class")
    assert loss.shortest in (1, 2)
    assert isinstance(loss.needs_contrast, bool)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each
def test_cuda_gives_the_same(loss: Loss) -> None:
    """Units and gradients."""
    ragged = drawn(loss, 6, SIZES)
    logits, labels, mask = padded(ragged)
    loss(logits, labels, mask).sum().backward()
    there = logits.detach().cuda().requires_grad_()
    found = loss(there, labels.cuda(), mask.cuda())
    found.sum().backward()
    np.testing.assert_allclose(found.detach().cpu(), units(loss, ragged), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(there.grad.cpu(), logits.grad, rtol=1e-4, atol=1e-5)
