"""A model made ready to learn."""

from __future__ import annotations

import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.running.model_state import low_rank, precision_for, ready_to_learn
from secondpass.training.settings import LoraSettings, TrainingSettings

CPU = torch.device("cpu")


@pytest.mark.parametrize(("wish", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(wish, dtype):
    """As asked; "auto" is one of the two on a CPU, and float16 needs CUDA."""
    assert precision_for(TrainingSettings(precision=wish), CPU) == dtype
    assert precision_for(TrainingSettings(), CPU) in (torch.float32, torch.bfloat16)
    with pytest.raises(InvalidInput, match="CUDA"):
        precision_for(TrainingSettings(precision="fp16"), CPU)


def test_forward_gives_the_scoring_logits(own_tiny):
    """Without dropout, with gradients, float32 [pairs, labels]."""
    queries, documents = ["cat", "how to reset"], ["the mat", "river"]
    expected = own_tiny.predict(list(zip(queries, documents, strict=True)), activation_fct=torch.nn.Identity())
    with ready_to_learn(own_tiny, TrainingSettings(precision="fp32"), 0) as ready:
        own_tiny.model.train()
        made = ready.forward(ready.tokenised(queries, documents))
    assert made.requires_grad
    assert made.shape == (2, 1)
    torch.testing.assert_close(made[:, 0].detach(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_rewinding_repeats_random_numbers(own_tiny):
    """Everything the forward draws from."""
    with ready_to_learn(own_tiny, TrainingSettings(dropout=0.3, precision="fp32"), 0) as ready:
        own_tiny.model.train()
        tokens = ready.tokenised(["cat"] * 3, ["mat", "river in london", "dog"])
        rewind = ready.rewinding()
        first = ready.forward(tokens).detach()
        second = ready.forward(tokens).detach()
        rewind()
        again = ready.forward(tokens).detach()
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_low_rank_additions_are_part_of_the_weights_afterwards(own_tiny):
    """Also when training fails: the model is its own class again."""
    kind = type(own_tiny.model)
    with pytest.raises(KeyError), low_rank(own_tiny.model, LoraSettings(rank=2)):
        raise KeyError
    assert type(own_tiny.model) is kind
    assert not any("lora" in name for name, _ in own_tiny.model.named_parameters())
