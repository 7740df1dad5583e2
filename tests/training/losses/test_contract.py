"""What the contract promises, for every loss there is."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass.errors import InvalidInput
from secondpass.text import finite_number, positive_number, whole_number
from secondpass.training.losses import LOSSES, make_loss
from secondpass.training.losses.loss import (
    Loss,
    ahead,
    better,
    both,
    chosen,
    cleaned,
    contrasted,
    differences,
    log_shares,
    others,
    places,
    several,
)
from secondpass.training.losses.ranking import WEIGHTINGS
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
def test_groups_without_a_negative(loss: Loss) -> None:
    """Of labels 2 and 1 alone a loss makes units, unless it says that it needs a negative: then none."""
    found = units(loss, Ragged(drawn(loss, 1, (3,)).logits, [np.array([2.0, 1.0, 1.0])]))
    assert bool(len(found)) != getattr(loss, "needs_negative", False)


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


KNOWN = ("margin_mse", "ndcg_loss2++", "listmle")


@pytest.mark.parametrize("value", ["margin_mse", "Margin-MSE", "MARGINMSE", "margin mse", "_margin__mse_"])
def test_spellings_of_a_name(value):
    """Case, hyphens, underscores and spaces are no matter."""
    assert chosen(value, KNOWN, "loss") == "margin_mse"
    assert chosen("NDCGLoss2++", KNOWN, "weighting") == "ndcg_loss2++"


@pytest.mark.parametrize(
    ("value", "end"),
    [
        ("list_mlee", "; did you mean listmle?"),
        ("ndcgloss2", "; did you mean ndcg_loss2++?"),
        ("", ""),
        ("\u200blistmle!?\n" * 9, ""),
        ("xyz", ""),
        (None, ""),
        (3, ""),
        (["listmle"], ""),
    ],
)
def test_unknown_names(value, end):
    """The message repeats the value, lists the names, and suggests one only if it is near."""
    whole = f"loss={value!r} is none of margin_mse, ndcg_loss2++, listmle{end}"
    with pytest.raises(InvalidInput, match=f"^{re.escape(whole)}$"):
        chosen(value, KNOWN, "loss")


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.float64(2)])
def test_numbers(value):
    """Python's and numpy's pass, as a float."""
    for check in (finite_number, positive_number):
        assert check(value, "sigma") == 2.0
        assert type(check(value, "sigma")) is float
    assert finite_number(-0.5, "mu") == -0.5


@pytest.mark.parametrize("value", [True, False, "1", None, float("nan"), float("inf"), 10**400, 1j, [1.0]])
def test_what_is_no_finite_number(value):
    """It is refused by name."""
    for check in (finite_number, positive_number):
        with pytest.raises(InvalidInput, match=r"^sigma=.* is not a finite number$"):
            check(value, "sigma")


@pytest.mark.parametrize("value", [0, 0.0, -1, np.float32(-3)])
def test_numbers_not_above_zero(value):
    """They are refused where there is nothing to divide by."""
    with pytest.raises(InvalidInput, match=r"^sigma=.* is not above 0$"):
        positive_number(value, "sigma")


def test_whole_numbers():
    """From 0 on, numpy's too; nothing else."""
    assert whole_number(np.int32(3), "count") == 3
    assert whole_number(0, "count") == 0
    for value in (-1, True, 1.0, "1", None, float("nan")):
        with pytest.raises(InvalidInput, match=r"^count=.* is not a whole number from 0 on$"):
            whole_number(value, "count")
