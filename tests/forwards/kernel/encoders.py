"""Tiny random encoders of every shape the kernel meets, and inputs for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from secondpass.forwards.description import Encoder, mapped
from secondpass.forwards.families import describe
from secondpass.tokens import Tokens
from tests.tiny_models import make_model

VOCABULARY = 200
FAMILIES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "modernbert")


def made(architecture: str = "bert", labels: int = 1, **config: Any) -> tuple[PreTrainedModel, Encoder]:
    """A seeded model and its description."""
    model = make_model(architecture, VOCABULARY, labels, **config)
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    return model, encoder


def sized(
    hidden: int, heads: int, inner: int, architecture: str = "bert", **config: Any
) -> tuple[PreTrainedModel, Encoder]:
    """A model of other widths, its weights small enough that wide layers do not saturate."""
    model, _ = made(architecture, hidden_size=hidden, num_attention_heads=heads, intermediate_size=inner, **config)
    return calmed(model, hidden)


def calmed(model: PreTrainedModel, hidden: int) -> tuple[PreTrainedModel, Encoder]:
    """The model with weights as small as those of one that is 32 wide, and its description."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_((32 / hidden) ** 0.5)
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    return model, encoder


def arrays(encoder: Encoder) -> Encoder:
    """A description as the kernel reads it: of float32 arrays, which share the memory of float32 tensors."""
    return mapped(encoder, _array)


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().float().numpy()


def tokens(*lengths: int, types: int = 1, seed: int = 0) -> list[Tokens]:
    """Inputs of these lengths; ids from 10 on, types below `types`, the second half of the last type."""
    random = np.random.default_rng(seed)
    return [
        Tokens(
            random.integers(10, VOCABULARY, length).astype(np.int32),
            np.where(np.arange(length) < length // 2, 0, types - 1).astype(np.int32),
        )
        for length in lengths
    ]


def expected(model: Any, inputs: list[Tokens]) -> torch.Tensor:
    """transformers' logits float32 [pairs, labels], each input by itself."""
    logits = []
    typed = getattr(model.config, "type_vocab_size", 0) > 1
    with torch.inference_mode():
        for item in inputs:
            given = {"input_ids": torch.from_numpy(item.ids.astype(np.int64))[None]}
            given["attention_mask"] = torch.ones_like(given["input_ids"])
            if typed:
                given["token_type_ids"] = torch.from_numpy(item.type_ids.astype(np.int64))[None]
            logits.append(model(**given).logits.float())
    return torch.cat(logits)
