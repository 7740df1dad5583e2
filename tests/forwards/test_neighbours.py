"""A pair's score is its own: padding and the other pairs of a batch do not change it, whatever the architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from secondpass import CallRecord, CrossEncoder
from secondpass.errors import ModelLoadError
from secondpass.forwards.contract import Logits, plan
from secondpass.forwards.padded import BatchProbe
from secondpass.tokens import Tokens
from tests.tiny_models import LENGTH, SIZES, make_tokenizer

QUERY = "how do i reset"
DOCUMENTS = ["cat", "my password in the account page", "dog sat on the mat" * 6, "london", "the big house" * 4, "dog"]
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LENGTH, "eos_token_id": 2}
STARCODER2 = SIZES | {"num_key_value_heads": 2}
FUNNEL = {"d_model": 32, "block_sizes": [2, 2, 2], "n_head": 2, "d_head": 16, "d_inner": 64}
SPARSE = SIZES | {"block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse"}
LEFT = {"padding_side": "left"}
END = {"pad_token": "</s>"}


def _folder(
    path: Path, kind: str, config: dict[str, Any], pad: int | None, like: str = "bert", **options: Any
) -> CrossEncoder:
    tokenizer = make_tokenizer(like)
    for name, value in options.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value
    made = AutoConfig.for_model(kind, **config, vocab_size=len(tokenizer), num_labels=1, pad_token_id=pad)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(made)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.3)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return CrossEncoder(str(path), device="cpu")


def _logits(encoder: CrossEncoder, documents: Sequence[str], records: list[CallRecord] | None = None) -> Any:
    pairs = [(QUERY, document) for document in documents]
    return encoder.predict(pairs, activation_fct=nn.Identity(), records=records)


@pytest.mark.parametrize(
    ("kind", "config", "pad", "like", "options", "batching"),
    [
        ("fnet", SIZES, 0, "bert", {}, "equal"),
        ("mobilebert", SIZES | {"embedding_size": 32, "intra_bottleneck_size": 32}, 0, "bert", {}, "equal"),
        ("funnel", FUNNEL, 0, "bert", {}, "equal"),
        ("big_bird", SPARSE, 0, "bert", {}, "equal"),
        ("albert", SIZES | {"embedding_size": 16}, 0, "bert", LEFT, "equal"),
        ("gpt2", GPT2, 1, "roberta", LEFT, "equal"),
        ("gpt2", GPT2, None, "roberta", END, "single"),
        ("gpt2", GPT2, 2, "roberta", END, "any"),
        ("starcoder2", STARCODER2, 3, "roberta", {}, "equal"),
        ("starcoder2", STARCODER2, None, "roberta", {}, "any"),
    ],
)
def test_scores_are_those_of_each_pair_alone(
    tmp_path: Path, kind: str, config: Any, pad: int | None, like: str, options: Any, batching: str
) -> None:
    """All at once, one by one and in another order; batches are as mixed as the model bears, and the record says so."""
    encoder, records = _folder(tmp_path, kind, config, pad, like, **options), list[CallRecord]()
    alone = []
    for document in DOCUMENTS:
        item = encoder.tokens([QUERY], [document])[0]
        ids, types = torch.tensor(item.ids[None]), torch.tensor(item.type_ids[None])
        named = {"token_type_ids": types} if "token_type_ids" in encoder.tokenizer.model_input_names else {}
        untouched = copy.deepcopy(encoder.model)
        with torch.inference_mode():
            alone.append(untouched(input_ids=ids.long(), **{key: value.long() for key, value in named.items()}).logits)
    together = _logits(encoder, DOCUMENTS, records)
    assert together == pytest.approx(torch.cat(alone)[:, 0].numpy(), abs=2e-5)
    assert _logits(encoder, DOCUMENTS[::-1])[::-1] == pytest.approx(together, abs=2e-5)
    assert records[0].batching == batching
    lengths = {len(item) for item in encoder.tokens([QUERY] * len(DOCUMENTS), DOCUMENTS)}
    assert records[0].batches == {"any": 1, "equal": len(lengths), "single": len(DOCUMENTS)}[batching]
    assert (records[0].padding_share > 0) is (batching == "any")


def test_a_sparse_model_is_not_changed_by_a_short_input(tmp_path: Path) -> None:
    """BigBird goes over to full attention at a short input; here it goes back for the next long one."""
    encoder = _folder(tmp_path, "big_bird", SPARSE, 0)
    long = ["dog sat on the mat" * 6]
    before = _logits(encoder, long)
    _logits(encoder, ["cat"])
    assert np.array_equal(_logits(encoder, long), before)


class Fake:
    """Logits of a model that mixes its inputs in some way."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.calls = 0

    def __call__(self, inputs: Sequence[Tokens]) -> Logits:
        self.calls += 1
        own = np.array([[float(item.ids.sum())] for item in inputs], np.float32)
        changes = {"random": self.calls, "across": own.sum(), "nan": np.nan, "own": 0}
        made: Logits = own + np.float32(changes[self.how])
        return made


def _tokens(length: int, first: int = 5) -> Tokens:
    ids = np.arange(first, first + length, dtype=np.int32)
    return Tokens(ids, np.zeros_like(ids))


@pytest.mark.parametrize(
    ("how", "says"), [("random", "another score each time"), ("across", "depends on the other pairs of its batch")]
)
def test_a_model_that_batches_of_equal_length_do_not_help_is_refused(how: str, says: str) -> None:
    """Two reasons, two sentences."""
    probe = BatchProbe((_tokens(6), _tokens(6, 7)), (_tokens(7), _tokens(23)))
    with pytest.raises(ModelLoadError, match=says):
        probe.batching(Fake(how), torch.float32)
    assert probe.batching(Fake("nan"), torch.float32) == "any", "that is told when it scores"
    assert probe.batching(Fake("own"), torch.float16) == "any"


def test_a_model_that_cannot_score_is_refused_at_load(tmp_path: Path) -> None:
    """What its class raises becomes a ModelLoadError that names the class."""
    sizes = {"d_model": 32, "num_layers": 1, "num_heads": 2, "d_ff": 64, "d_kv": 16}
    with pytest.raises(ModelLoadError, match="T5ForSequenceClassification cannot score a pair: "):
        _folder(tmp_path, "t5", sizes | {"eos_token_id": 4, "n_positions": LENGTH}, 0)


def test_batches_of_equal_length() -> None:
    """A batch ends where the length changes, where the budget does, and at the most pairs."""
    assert plan([3, 5, 3, 5, 3], 100, 9, padded=False, equal=True) == [(1, 3), (0, 2, 4)]
    assert plan([3, 5, 3, 5, 3], 6, 9, padded=False, equal=True) == [(1,), (3,), (0, 2), (4,)]
    assert plan([3, 3, 3], 100, 2, equal=True) == [(0, 1), (2,)]
