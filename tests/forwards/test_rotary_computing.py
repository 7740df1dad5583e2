"""Rules of `secondpass.forwards.families.modernbert`: ModernBERT's numbers without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from secondpass.forwards.description import Encoder
from secondpass.forwards.families import describe
from secondpass.forwards.packed import PackedEncoder
from secondpass.forwards.plain import PlainEncoder
from secondpass.tokens import Tokens
from tests.forwards.models import LENGTHS, inputs_of, model_of, reference, tensors


def _computation(model: Any, dtype: torch.dtype | None = None) -> Callable[[Sequence[Tokens]], torch.Tensor]:
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    return tensors(PackedEncoder(encoder, dtype))


def _plain(model: Any) -> Callable[[Sequence[Tokens]], torch.Tensor]:
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    return tensors(PlainEncoder(encoder))


CONFIGS: dict[str, dict[str, Any]] = {
    "as released": {},
    "mean": {"classifier_pooling": "mean"},
    "biases everywhere": {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
    "narrow windows": {"local_attention": 4, "num_hidden_layers": 4},
    "local last": {"global_attn_every_n_layers": 3, "num_hidden_layers": 3, "local_attention": 8},
    "one layer": {"num_hidden_layers": 1},
    "relu": {"hidden_activation": "relu", "classifier_activation": "silu"},
}


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("config", CONFIGS)
def test_float32_equals_transformers(config: str, labels: int) -> None:
    """Both poolings, both kinds of attention, with and without biases."""
    model = model_of("modernbert", labels, **CONFIGS[config])
    inputs = inputs_of(LENGTHS, model)
    wanted = reference(model, inputs)
    for made in (_computation(model)(inputs), _plain(model)(inputs)):
        assert torch.allclose(made, wanted, rtol=1e-5, atol=1e-5)


def test_long_texts_see_windows_by_blocks() -> None:
    """Beyond a block of queries."""
    model = model_of("modernbert", local_attention=16, max_position_embeddings=1024)
    inputs = inputs_of((900, 513, 300, 4), model)
    wanted = reference(model, inputs)
    for made in (_computation(model)(inputs), _plain(model)(inputs)):
        assert torch.allclose(made, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_scores_do_not_depend_on_batch_mates(pooling: str) -> None:
    """But for the order of summation."""
    model = model_of("modernbert", 2, classifier_pooling=pooling)
    compute = _computation(model)
    inputs = inputs_of(LENGTHS, model)
    alone = torch.cat([compute([item]) for item in inputs])
    assert torch.allclose(alone, compute(inputs), rtol=0, atol=5e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
def test_half_precision_is_near_float32(dtype: torch.dtype, tolerance: float) -> None:
    """Layers in the half type, or all weights; logits are float32."""
    model = model_of("modernbert")
    inputs = inputs_of(LENGTHS, model)
    exact = reference(model, inputs)
    for compute in (_computation(model, dtype), _computation(model.to(dtype))):
        made = compute(inputs)
        assert made.dtype == torch.float32
        assert torch.allclose(made, exact, rtol=0, atol=tolerance)
