"""What a loss function gets, and what it must give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.training.fitting.objective import Objective
from tests.tiny_models import make_model

VOCABULARY = 60
IDENTITY = nn.Identity()


def features(rows: int = 4) -> dict[str, torch.Tensor]:
    """Make model inputs [rows, 6]."""
    ids = torch.arange(rows * 6).reshape(rows, 6) % VOCABULARY
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Heard:
    """A loss that remembers what it was given."""

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Remember, and give a loss."""
        self.logits, self.labels = logits, labels
        return logits.sum()


@pytest.mark.parametrize("use_amp", [False, True])
@pytest.mark.parametrize(("num_labels", "shape"), [(1, (4,)), (3, (4, 3))])
def test_shapes_and_types(num_labels, shape, use_amp):
    """A loss gets float32 logits, flat for one label, whatever the model computes in, and the labels untouched."""
    loss, labels = Heard(), torch.zeros(4)
    Objective(make_model("bert", VOCABULARY, num_labels), loss, IDENTITY, use_amp)(features(), labels)
    assert loss.logits.shape == shape
    assert loss.logits.dtype == torch.float32
    assert loss.labels is labels


def test_mixed_precision_computes_in_bfloat16_on_the_cpu():
    """With use_amp the forward is coarser than float32 and near it."""
    model, labels = make_model("bert", VOCABULARY), torch.zeros(4)
    exact, coarse = (Objective(model, None, IDENTITY, amp)(features(), labels).item() for amp in (False, True))
    assert exact != coarse
    assert coarse == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize(
    ("num_labels", "labels", "reference"),
    [(1, torch.tensor([0.0, 1.0, 0.5, 1.0]), nn.BCEWithLogitsLoss()), (3, torch.arange(4) % 3, nn.CrossEntropyLoss())],
)
def test_default_losses(num_labels, labels, reference):
    """Without a loss: binary cross-entropy on logits for one label, cross-entropy for several."""
    model = make_model("bert", VOCABULARY, num_labels)
    logits = model(**features()).logits
    expected = reference(logits.view(-1) if num_labels == 1 else logits, labels)
    torch.testing.assert_close(Objective(model, None, IDENTITY, False)(features(), labels), expected)


def test_activation_comes_first():
    """The activation sees logits [examples, labels], before they are flattened for one label."""
    seen, loss = [], Heard()

    def activation(logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape)
        return torch.sigmoid(logits)

    Objective(make_model("bert", VOCABULARY), loss, activation, False)(features(), torch.zeros(4))
    assert seen == [(4, 1)]
    assert bool(((loss.logits > 0) & (loss.logits < 1)).all())


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (nn.MSELoss, "the class MSELoss: give an object"),
        (lambda logits, labels: 0.5, "gives float, not a scalar tensor"),
        (nn.BCEWithLogitsLoss(reduction="none"), r"gives a tensor of shape \(4,\), not a scalar"),
        (lambda logits, labels: logits.detach().sum(), "does not depend on the model's weights"),
    ],
)
def test_refused_losses(loss, words):
    """What cannot be lowered is refused with the reason, before backward fails obscurely."""
    with pytest.raises(InvalidInput, match=words):
        Objective(make_model("bert", VOCABULARY), loss, IDENTITY, False)(features(), torch.zeros(4))


def test_loss_of_shape_one():
    """A loss [1] counts as the scalar it is."""
    loss = Objective(make_model("bert", VOCABULARY), lambda logits, _: logits[:1], IDENTITY, False)
    assert loss(features(), torch.zeros(4)).shape == ()


def test_module_goes_to_the_device_of_the_model():
    """A loss module with buffers (class weights) is moved to where the logits are."""
    weighted = nn.CrossEntropyLoss(weight=torch.ones(3))
    Objective(make_model("bert", VOCABULARY, 3).to("meta"), weighted, IDENTITY, False)
    assert weighted.weight.device.type == "meta"


@pytest.mark.parametrize(("loss", "told"), [(nn.Bilinear(1, 1, 1), True), (nn.MSELoss(), False)])
def test_parameters_of_a_loss_are_not_trained_in_silence(loss, told, caplog):
    """A loss with parameters of its own is warned about: the seed's fit trains the model's only."""
    Objective(make_model("bert", VOCABULARY), loss, IDENTITY, False)
    assert ("parameters of its own" in caplog.text) is told


def test_an_empty_module_is_a_loss_that_was_asked_for():
    """Its length is 0, so it is false; no default takes its place."""

    class Sum(nn.Sequential):
        def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return (logits + labels).sum()

    loss = Sum()
    assert not loss
    model = make_model("bert", VOCABULARY)
    given = Objective(model, loss, IDENTITY, use_amp=False)(features(), torch.full((4,), 100.0))
    assert given.item() > 300
