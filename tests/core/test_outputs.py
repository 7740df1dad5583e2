"""Rules of `secondpass.outputs`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.outputs import BLOCK, Bar, activated, by_label, converted

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


@pytest.mark.parametrize(
    "activation",
    [
        nn.Sigmoid(),
        nn.Tanh(),
        nn.LogSigmoid(),
        nn.Softplus(),
        nn.GELU(),
        nn.SiLU(),
        nn.Mish(),
        nn.ELU(),
        nn.Sequential(),
        nn.Sequential(nn.Tanh(), nn.Sequential(nn.Sigmoid(), nn.Identity())),
        torch.sigmoid,
        nn.functional.silu,
    ],
    ids=repr,
)
@pytest.mark.parametrize(("labels", "threads"), [(1, 1), (1, 2), (3, 2)])
def test_a_score_goes_by_its_logit_alone(
    activation: Callable[[torch.Tensor], torch.Tensor], labels: int, threads: int
) -> None:
    """Neither its place nor the number of pairs changes a bit, nor does softmax over the labels."""
    torch.set_num_threads(threads)
    count = 2 * 40_000  # beyond where torch shares an array out among threads
    logits = torch.randn((count, labels), generator=torch.Generator().manual_seed(3)) * 6
    for softmax in (False, True):
        whole = activated(logits, activation, softmax)
        assert whole.dtype == torch.float32
        for size in (1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2000):
            for start in (0, 1, 40_003, count - size):
                part = activated(logits[start : start + size], activation, softmax)
                assert torch.equal(part, whole[start : start + size])


def test_known_activations_are_those_of_torch() -> None:
    """To the last digit or two."""
    logits = torch.linspace(-30, 30, 4001)[:, None]
    for activation in (nn.Sigmoid(), nn.Tanh(), nn.LogSigmoid(), nn.SELU(), nn.Hardswish(), nn.LeakyReLU(0.2)):
        assert torch.allclose(activated(logits, activation, False), activation(logits), rtol=1e-5, atol=1e-7)


@given(values=st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=50))
def test_scores_rise_with_their_logits(values: list[float]) -> None:
    """Rounding turns no two of them round, so that an order by logits is one by scores."""
    logits = torch.tensor(sorted(values))[:, None]
    for activation in (nn.Sigmoid(), nn.Tanh(), nn.LogSigmoid(), nn.Softplus(), nn.SELU()):
        scores = activated(logits, activation, False)[:, 0]
        assert bool((scores[1:] >= scores[:-1]).all())


def test_equal_logits_have_equal_scores_whatever_the_callable_does() -> None:
    """Of equal rows the first one's, for one label and for several."""

    def by_place(logits: torch.Tensor) -> torch.Tensor:
        return logits + torch.arange(len(logits))[:, None]

    assert activated(torch.tensor([[1.0], [0.0], [1.0], [0.0]]), by_place, False)[:, 0].tolist() == [1, 1, 1, 1]
    rows = torch.tensor([[1.0, 2.0], [1.0, 3.0], [1.0, 2.0]])
    assert activated(rows, by_place, False).tolist() == [[1.0, 2.0], [2.0, 4.0], [1.0, 2.0]]


def test_an_error_of_the_activation_names_the_pairs_as_its_caller_does() -> None:
    """Where only some pairs are activated."""
    with pytest.raises(NonFiniteScore) as caught:
        activated(LOGITS, torch.sqrt, False, [3, 5, 7])
    assert caught.value.indices == (5,)
