"""Rules of `secondpass.outputs`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.outputs import Bar, activated, by_label, converted, top

LOGITS = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.0, 0.0]])
CPU = torch.device("cpu")


def test_the_logits_are_left_alone() -> None:
    """An activation that works in place does not change what documents are ranked by."""
    logits = LOGITS.clone()
    scores = activated(logits, nn.ReLU(inplace=True), False)
    assert torch.equal(logits, LOGITS)
    assert torch.equal(scores, torch.relu(LOGITS))


def test_scores_are_ordinary_tensors() -> None:
    """Not inference tensors: they may be changed and enter autograd."""
    for activation in (nn.Identity(), nn.Sigmoid()):
        scores = activated(LOGITS, activation, False)
        assert not scores.is_inference()
        assert not scores.requires_grad


def test_an_activation_with_weights_needs_no_gradient() -> None:
    """Scoring records no graph."""
    assert not activated(LOGITS, nn.PReLU(), False).requires_grad


@pytest.mark.parametrize(
    "activation",
    [
        lambda logits: logits[:-1],
        lambda logits: logits.sum(),
        lambda logits: logits.tolist(),
        lambda logits: None,
    ],
)
def test_an_activation_must_keep_the_rows(activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Scores of other pairs, or of none, are not handed out."""
    with pytest.raises(InvalidInput, match="does not give one row for each of 3 pairs"):
        activated(LOGITS, activation, False)


def test_nan_of_an_activation_names_the_pairs() -> None:
    """NaN has no place in an order; infinity has one, at an end."""
    with pytest.raises(NonFiniteScore, match=r"gave NaN for pairs \[1\]$") as caught:
        activated(LOGITS, torch.sqrt, False)
    assert caught.value.indices == (1,)
    assert torch.isinf(activated(LOGITS[2:], torch.log, False)).all()


def test_softmax_is_over_the_labels_after_the_activation() -> None:
    """For several labels only."""
    assert torch.allclose(activated(LOGITS, nn.Tanh(), True), torch.softmax(torch.tanh(LOGITS), 1))
    assert torch.equal(activated(LOGITS[:, :1], nn.Identity(), True), LOGITS[:, :1])


@pytest.mark.parametrize(("labels", "shape"), [(1, (3,)), (2, (3, 2))])
def test_one_label_loses_its_axis(labels: int, shape: tuple[int, ...]) -> None:
    """One number for each pair, or a row."""
    assert by_label(LOGITS[:, :labels], labels).shape == shape


def test_an_activation_may_drop_the_axis_itself() -> None:
    """What is already one number for each pair stays."""
    assert by_label(torch.zeros(3), 1).shape == (3,)


@pytest.mark.parametrize(
    ("to_numpy", "to_tensor", "kind"),
    [(True, True, torch.Tensor), (False, True, torch.Tensor), (True, False, np.ndarray), (False, False, list)],
)
def test_a_tensor_wins_over_an_array(to_numpy: bool, to_tensor: bool, kind: type) -> None:
    """The seed's precedence, also for nothing."""
    for rows in (3, 0):
        made = converted(LOGITS[:rows, 0], CPU, to_numpy, to_tensor)
        assert type(made) is kind
        assert len(made) == rows


def test_the_bar_counts_batches_that_were_halved(capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that is split makes the bar longer: it ends full, at the number of batches that ran."""
    with Bar(True) as bar:
        for remaining in (2, 2, 1, 0):
            bar(remaining)
    shown = capsys.readouterr().err
    assert "0/2" in shown
    assert "3/3" in shown
    with Bar(False) as bar:
        bar(1)
        bar(0)
    assert capsys.readouterr().err == ""


def test_top_takes_any_iterable() -> None:
    """All when None, else the first so many; nothing that counts nothing."""
    assert top(iter("abc"), None) == ["a", "b", "c"]
    assert top("abc", 2) == ["a", "b"]
    assert top("abc", 9) == ["a", "b", "c"]
    for wrong in (0, -1, True):
        with pytest.raises(InvalidInput, match="top_k="):
            top("abc", wrong)
