"""Listwise losses: their options, ties, and sentence-transformers' values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers.cross_encoder import losses as st_losses

from secondpass.errors import InvalidInput
from secondpass.training.losses.contract import Teachings
from secondpass.training.losses.listwise import ADRMSE, KLDistillation, LabelledDistillation, ListMLE, ListNet, PListMLE
from tests.training.losses.ragged import Ragged, drawn, padded, units
from tests.training.losses.references import kl_distillation, of_all, taught
from tests.training.losses.theirs import assert_same, given, of_lists

LISTS = (5, 2, 7, 3)


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [
        (ListNet(), st_losses.ListNetLoss),
        (ListMLE(), lambda model: st_losses.ListMLELoss(model, respect_input_order=False)),
        (PListMLE(), lambda model: st_losses.PListMLELoss(model, respect_input_order=False)),
        (ADRMSE(), st_losses.ADRMSELoss),
        (ADRMSE(2.5), lambda model: st_losses.ADRMSELoss(model, alpha=2.5)),
    ],
    ids=["listnet", "listmle", "p_listmle", "adr_mse", "adr_mse steep"],
)
def test_equal_to_sentence_transformers(loss, theirs):
    """Means and gradients are equal on lists of two documents or more with no equal labels.

    Both divide by the number of lists, and for ADR-MSE by that of documents.
    """
    ragged = drawn(loss, 1, LISTS, ties=False)
    model = given(ragged)
    assert_same(loss, ragged, model, of_lists(theirs(model), ragged))


@pytest.mark.parametrize(("loss", "more"), [(ListNet(), 5 / 4), (ADRMSE(), 18 / 17)], ids=["listnet", "adr_mse"])
def test_lists_of_one_document(loss, more):
    """They say nothing: sentence-transformers divides by them too, so theirs is smaller by as much."""
    ragged = drawn(loss, 1, (*LISTS, 1), ties=True)
    model = given(ragged)
    theirs = of_lists({ListNet: st_losses.ListNetLoss, ADRMSE: st_losses.ADRMSELoss}[type(loss)](model), ragged)
    assert_same(loss, ragged, model, theirs * more)


@pytest.mark.parametrize(
    ("loss", "theirs"),
    [(ListMLE(), st_losses.ListMLELoss), (PListMLE(), st_losses.PListMLELoss)],
    ids=["plain", "position"],
)
def test_equal_labels_keep_the_order_of_the_group(loss, theirs):
    """The earlier document counts as the better: with labels sorted, that is their default of trusting the order."""
    ragged = drawn(loss, 2, (6, 4, 3))
    ragged = Ragged(ragged.logits, [np.sort(labels)[::-1].copy() for labels in ragged.labels])
    assert all(len(set(labels)) in range(2, len(labels)) for labels in ragged.labels[:2])
    ragged.labels[2][:] = 1.0, 1.0, 0.0
    model = given(ragged)
    assert_same(loss, ragged, model, of_lists(theirs(model), ragged))


@pytest.mark.parametrize("loss", [ListNet(), KLDistillation(), ADRMSE()], ids=["listnet", "kl", "adr_mse"])
def test_the_order_of_the_group_is_no_matter_elsewhere(loss):
    """Shuffled groups with equal labels give the same loss."""
    ragged = drawn(loss, 3)
    order = [np.random.default_rng(0).permutation(len(labels)) for labels in ragged.labels]
    shuffled = Ragged(*([group[o] for group, o in zip(x, order, strict=True)] for x in (ragged.logits, ragged.labels)))
    assert units(loss, shuffled).sum() == pytest.approx(units(loss, ragged).sum(), rel=1e-12)


def test_equal_logits_meet_equal_labels():
    """ADR-MSE is 0 if all labels and all logits are equal: a mean rank can be met."""
    logits, mask = torch.full((1, 4), 3.0), torch.ones(1, 4, dtype=torch.bool)
    assert ADRMSE()(logits, torch.ones(1, 4), mask).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4])
def test_kl_distillation(temperature):
    """It equals the formula and torch's divergence, and is 0 for a student like its teacher but for a constant."""
    loss = KLDistillation(temperature)
    ragged = drawn(loss, 4, LISTS, ties=False)
    np.testing.assert_allclose(units(loss, ragged), of_all(kl_distillation(temperature), ragged.groups), rtol=1e-9)
    torchs = [
        torch.nn.functional.kl_div(
            (torch.tensor(logits) / temperature).log_softmax(0),
            (torch.tensor(labels) / temperature).softmax(0),
            reduction="sum",
        )
        for logits, labels in ragged.groups
    ]
    np.testing.assert_allclose(units(loss, ragged), np.array(torchs) * temperature**2, rtol=1e-9)
    alike = Ragged([labels + 5 for labels in ragged.labels], ragged.labels)
    np.testing.assert_allclose(units(loss, alike), 0, atol=1e-12)


def test_long_lists():
    """Of 400 documents, where 2^n is no float32: the first places count, and the value is that in float64."""
    for loss in (PListMLE(), ListMLE(), ListNet()):
        ragged = drawn(loss, 5, (400,), ties=False)
        logits, labels, mask = padded(ragged)
        found = loss(logits, labels, mask)
        found.sum().backward()
        assert torch.isfinite(logits.grad).all()
        np.testing.assert_allclose(found.detach(), units(loss, ragged), rtol=1e-5)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "hot", None, True])
def test_refused_options(value):
    """Neither can be anything but a number above 0."""
    with pytest.raises(InvalidInput, match=r"^temperature="):
        KLDistillation(value)
    with pytest.raises(InvalidInput, match=r"^alpha="):
        ADRMSE(value)


def teachings(ragged: Ragged, weights: list[float], label_weights: list[float]) -> tuple[Teachings, list[np.ndarray]]:
    """Random scores for every document, rubbish at masked places, and the scores of each group."""
    random = np.random.default_rng(9)
    scores = [random.normal(size=len(labels)) for labels in ragged.labels]
    _, grid, _ = padded(Ragged(ragged.logits, scores), torch.float64)
    return Teachings(grid, *(torch.tensor(made, dtype=torch.float64) for made in (weights, label_weights))), scores


def test_a_teacher_and_labels_at_once() -> None:
    """The weighted sum that the class states, list by list; a weight of 0 leaves its term out, bit for bit."""
    loss = LabelledDistillation(margin=0.3)
    ragged = drawn(loss, 3)
    weights, label_weights = [1.0, 0.5, 0.0, 1.0, 2.0, 0.25], [0.5, 1.0, 1.0, 1.0, 0.0, 2.0]
    given, scores = teachings(ragged, weights, label_weights)
    logits, labels, mask = padded(ragged, torch.float64)
    found = loss(logits, labels, mask, given)
    expected = [
        taught(*group, score, *counts, 0.3)
        for group, score, *counts in zip(ragged.groups, scores, weights, label_weights, strict=True)
        if len(score) > 1
    ]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-9)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~mask].any()
    nobody = Teachings(torch.zeros_like(labels), torch.zeros(6), torch.ones(6))
    assert torch.equal(loss(logits, labels, mask, nobody), loss(logits, labels, mask))


def test_a_student_that_agrees_with_its_teacher_is_left_alone() -> None:
    """Logits that differ from the scores by a constant have no loss and no gradient; labels move them."""
    loss = LabelledDistillation()
    logits = torch.tensor([[1.0, -2.0, 0.5]], requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    given = Teachings(logits.detach() + 7, torch.ones(1), torch.ones(1))
    value = loss(logits, torch.zeros(1, 3), mask, given)
    value.sum().backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-6, rtol=0)
    loss(logits, torch.tensor([[0.0, 1.0, 0.0]]), mask, given).sum().backward()
    assert logits.grad[0, 1] < 0 < logits.grad[0, 0]


def test_a_margin_below_zero_is_refused() -> None:
    """It would reward distance from the teacher."""
    with pytest.raises(InvalidInput, match=r"margin=-0\.1 is below 0"):
        LabelledDistillation(margin=-0.1)
