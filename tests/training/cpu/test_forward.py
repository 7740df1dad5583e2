"""Which forward pass a model gets, and that it is transformers' own but for rounding."""

from __future__ import annotations

import pytest
import torch

from secondpass import CrossEncoder
from secondpass.training.cpu.forward import PaddedForward, has_amx_bf16, training_forward
from secondpass.training.cpu.masks import DropoutSource
from secondpass.training.cpu.packed import PackedForward
from tests.tiny_models import ARCHITECTURES

QUERIES = ["what is new", "how to reset the password", "sun"]
DOCUMENTS = ["the river in the city", "a book", "cat and dog sat on a mat in the garden where water is red"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_scoring(tiny_model_folder, architecture):
    """With dropout off, every architecture learns from the logits that it is scored by, to 1e-5."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    forward = training_forward(encoder.model, encoder.tokenizer.model_input_names, encoder.padding, DropoutSource(0))
    logits = forward(encoder.tokens(QUERIES, DOCUMENTS))
    assert logits.dtype == torch.float32
    scores = encoder.predict(list(zip(QUERIES, DOCUMENTS, strict=True)), activation_fct=torch.nn.Identity())
    assert torch.allclose(logits.detach()[:, 0], torch.as_tensor(scores), atol=1e-5)
    logits.sum().backward()
    assert sum(weight.grad is not None for weight in encoder.model.parameters()) > 10


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("bert", PackedForward),
        ("roberta", PackedForward),
        ("xlm-roberta", PackedForward),
        ("electra", PackedForward),
        ("distilbert", PaddedForward),
        ("modernbert", PaddedForward),
        ("deberta-v2", PaddedForward),
    ],
)
def test_the_choice(tiny_model_folder, architecture, kind):
    """BERT's layers are packed, others are padded."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    names = encoder.tokenizer.model_input_names
    assert type(training_forward(encoder.model, names, encoder.padding, DropoutSource(0))) is kind
    if kind is PackedForward:
        model = encoder.model
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        assert type(training_forward(encoder.model, names, encoder.padding, DropoutSource(0))) is PaddedForward


def test_matrix_unit(monkeypatch):
    """What the CPU says; a torch that cannot tell means no."""
    with open("/proc/cpuinfo") as file:
        assert has_amx_bf16() is (" amx_bf16" in file.read() and torch.cpu._is_amx_tile_supported())
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert has_amx_bf16() is False
