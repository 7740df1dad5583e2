"""Tiny models, model inputs of every length, and transformers' own answer for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from secondpass.forwards.contract import Compute
from secondpass.forwards.readout import ReadoutModel, VocabularyRows
from secondpass.tokens import Tokens
from tests.tiny_models import LENGTH, SIZES, make_model

FAMILIES = ("bert", "electra", "distilbert", "roberta", "xlm-roberta")
# described by the same weights, and what distances add
ENCODERS = (*FAMILIES, "deberta-v2")
VOCABULARY = 80
# one token, the edges of blocks of 16, equal ones, the longest there is
LENGTHS = (1, 2, 5, 15, 16, 17, 17, 17, 30, 31, 33, 64, LENGTH, 90, 2, LENGTH)


def model_of(family: str, num_labels: int = 1, **config: Any) -> Any:
    """A tiny random model that is ready to score."""
    return make_model(family, VOCABULARY, num_labels, **config).eval()


# What decoders have of their own, so that each part of them counts.
DECODERS: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    "qwen3": {},
    "llama": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "mistral": {"sliding_window": 24},
    "gemma": {},
    "gemma2": {"sliding_window": 20, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "sliding_window": 20,
        "layer_types": ["sliding_attention", "full_attention"],
        "final_logit_softcapping": 3.0,
    },
}


def decoder_of(family: str, num_labels: int | None = None, seed: int = 0, **config: Any) -> Any:
    """A tiny random decoder: a sequence classifier, or without labels a language model under rows of its vocabulary."""
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY}
    labels = {} if num_labels is None else {"num_labels": num_labels}
    own = (
        {"pad_token_id": 0, "query_pre_attn_scalar": 8} if family in ("gemma2", "gemma3_text") else {"pad_token_id": 0}
    )
    made = AutoConfig.for_model(family, **(SIZES | sizes | labels | own | DECODERS[family] | config))
    kind = AutoModelForCausalLM if num_labels is None else AutoModelForSequenceClassification
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(made)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight in model.parameters():
                # norms and biases too must count
                weight.add_(torch.randn_like(weight) * 0.2)
    return (model if num_labels else ReadoutModel(model, VocabularyRows(7, 9))).eval()


def sharing(queries: int, documents: int, seed: int = 0, system: int = 40, most: int = 60) -> list[Tokens]:
    """Inputs of queries whose beginnings are alike: a system text, then a query of 30 tokens, then a document."""
    rng = np.random.default_rng(seed)
    first, made = rng.integers(5, VOCABULARY, system), []
    for _ in range(queries):
        begun = np.concatenate([first, rng.integers(5, VOCABULARY, 30)])
        for length in rng.integers(1, most, documents):
            ids = np.concatenate([begun, rng.integers(5, VOCABULARY, length)]).astype(np.int32)
            made.append(Tokens(ids, np.zeros_like(ids)))
    return made


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
