"""Tiny models, model inputs of every length, and transformers' own answer for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from secondpass.forwards.contract import Compute
from secondpass.tokens import Tokens
from tests.tiny_models import LENGTH, make_model

FAMILIES = ("bert", "electra", "distilbert", "roberta", "xlm-roberta")
# described by the same weights, and what distances add
ENCODERS = (*FAMILIES, "deberta-v2")
VOCABULARY = 80
# one token, the edges of blocks of 16, equal ones, the longest there is
LENGTHS = (1, 2, 5, 15, 16, 17, 17, 17, 30, 31, 33, 64, LENGTH, 90, 2, LENGTH)


def model_of(family: str, num_labels: int = 1, **config: Any) -> Any:
    """A tiny random model that is ready to score."""
    return make_model(family, VOCABULARY, num_labels, **config).eval()


def inputs_of(lengths: Sequence[int], model: Any, seed: int = 0) -> list[Tokens]:
    """Random ids, none of them padding, and random types as far as the model has them."""
    rng = np.random.default_rng(seed)
    types = max(1, getattr(model.config, "type_vocab_size", 1))
    return [
        Tokens(rng.integers(5, VOCABULARY, n).astype(np.int32), rng.integers(0, types, n).astype(np.int32))
        for n in lengths
    ]


def reference(model: Any, inputs: Sequence[Tokens]) -> torch.Tensor:
    """transformers' logits float32 [pairs, labels], one input at a time, without padding."""
    typed = getattr(model.config, "type_vocab_size", 0) > 0
    made = []
    with torch.no_grad():
        for item in inputs:
            named = {"input_ids": torch.from_numpy(item.ids)[None].long()}
            if typed:
                named["token_type_ids"] = torch.from_numpy(item.type_ids)[None].long()
            named = {name: tensor.to(model.device) for name, tensor in named.items()}
            made.append(model(**named).logits[0].float().cpu())
    return torch.stack(made)


def tensors(compute: Compute) -> Callable[[Sequence[Tokens]], torch.Tensor]:
    """Its logits as torch's, to be compared."""
    return lambda inputs: torch.from_numpy(compute(inputs))
