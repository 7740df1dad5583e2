"""What is changed for training is changed for training only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.training.running.preparation import (
    autocast_for,
    dropout_for,
    dropout_set_to,
    recomputed_activations,
    seeded,
)
from secondpass.training.settings import TrainingSettings

ARCHITECTURES = ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"]
PAIRS = [["how to reset", "the password"], ["cat", "the mat on the river in london"]]


def logits(encoder):
    """In training mode, dropout included if there is any."""
    encoder.model.train()
    return encoder.model(**encoder.collate(PAIRS)).logits.detach()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_dropout_means_none(tiny_model_folder, architecture):
    """In every architecture a training forward is then the scoring forward, and afterwards drops as before."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    shares = [module.p for module in encoder.model.modules() if isinstance(module, nn.Dropout)]
    encoder.model.eval()
    expected = encoder.model(**encoder.collate(PAIRS)).logits.detach()
    with dropout_set_to(encoder.model, 0.0):
        torch.testing.assert_close(logits(encoder), expected, rtol=1e-5, atol=1e-6)
    with dropout_set_to(encoder.model, 0.5):
        assert not torch.allclose(logits(encoder), logits(encoder))
    assert [module.p for module in encoder.model.modules() if isinstance(module, nn.Dropout)] == shares


def test_dropout_is_put_back_after_an_error(own_tiny):
    """Whatever happens inside."""
    with pytest.raises(KeyError), dropout_set_to(own_tiny.model, 0.0):
        raise KeyError
    assert own_tiny.model.dropout.p == 0.1


@pytest.mark.parametrize(("wish", "device", "share"), [(None, "cpu", 0.0), (None, "cuda", None), (0.3, "cpu", 0.3)])
def test_which_dropout(wish, device, share):
    """Off on a CPU unless asked for, the model's own elsewhere."""
    assert dropout_for(TrainingSettings(dropout=wish), torch.device(device)) == share


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_recomputed_activations_give_the_same_gradient(tiny_model_folder, architecture):
    """Less memory, nothing else."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    made = []
    for wanted in (False, True):
        encoder.model.zero_grad()
        with recomputed_activations(encoder.model, wanted), dropout_set_to(encoder.model, 0.0):
            encoder.model.train()
            encoder.model(**encoder.collate(PAIRS)).logits.sum().backward()
        made.append([weight.grad.clone() for weight in encoder.model.parameters() if weight.grad is not None])
    for plain, recomputed in zip(*made, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_model_that_cannot_recompute_is_refused():
    """Any module without the methods."""
    with pytest.raises(InvalidInput, match="gradient_checkpointing"), recomputed_activations(nn.Linear(1, 1), True):
        pass


def test_autocast():
    """Products in the asked type; float32 changes nothing."""
    product = nn.Linear(4, 4)
    cpu = torch.device("cpu")
    with autocast_for(torch.bfloat16, cpu)():
        assert product(torch.ones(1, 4)).dtype == torch.bfloat16
    with autocast_for(torch.float32, cpu)():
        assert product(torch.ones(1, 4)).dtype == torch.float32


def test_seeded_gives_the_callers_numbers_back():
    """Inside the same numbers each time, outside as if nothing had been."""
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    inside = []
    for _ in range(2):
        with seeded(7, torch.device("cpu")):
            inside.append(torch.rand(3))
    assert torch.equal(inside[0], inside[1])
    assert torch.equal(torch.rand(2), expected)
