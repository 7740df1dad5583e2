"""Rules of `secondpass.forwards.causal` and `prefixes`: decoders' numbers, without padding and without repetition."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secondpass.forwards import causal
from secondpass.forwards.causal import Decoder, PackedDecoder
from secondpass.forwards.contract import Padding
from secondpass.forwards.families import describe
from secondpass.forwards.module import ModelForward
from secondpass.forwards.padded import as_numpy, padded_logits
from secondpass.forwards.prefixes import Prefix, PrefixCache, shared_beginnings
from secondpass.scoring import score_rows
from secondpass.tokens import Tokens
from tests.forwards.models import DECODERS, decoder_of, inputs_of, reference, sharing, tensors
from tests.tiny_models import ROUNDING

NAMES = ("input_ids", "attention_mask")


def _packed(model: Any, dtype: torch.dtype | None = None) -> PackedDecoder:
    decoder = describe(model)
    assert isinstance(decoder, Decoder)
    return PackedDecoder(decoder, dtype)


ROPE = {"rope_theta": 1e4, "original_max_position_embeddings": 32, "factor": 4.0}
FREQUENCIES = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in DECODERS},
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu_pytorch_tanh"}),
    "yarn": ("qwen3", {"rope_parameters": {"rope_type": "yarn", **ROPE}}),
    "llama3": ("llama", {"rope_parameters": {"rope_type": "llama3", **ROPE, **FREQUENCIES}}),
    "one layer, one key head": ("qwen3", {"num_hidden_layers": 1, "num_key_value_heads": 1}),
    "a window of three": ("mistral", {"sliding_window": 3}),
    "no window": ("mistral", {"sliding_window": None}),
    "no caps": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "a cap that is not read": ("gemma3_text", {"attn_logit_softcapping": 1.0}),
}


@pytest.mark.parametrize("labels", [None, 2])
@pytest.mark.parametrize("option", OPTIONS)
def test_shared_beginnings_change_no_logits(option: str, labels: int | None) -> None:
    """Of several queries under one system text; windows end inside what is shared, or do not reach it."""
    family, config = OPTIONS[option]
    model = decoder_of(family, labels, **config)
    inputs = [*sharing(2, 4), *inputs_of((1, 17, 40), model)]
    compute = _packed(model)
    wanted = reference(model, inputs)
    assert torch.allclose(tensors(compute)(inputs), wanted, rtol=0, atol=1e-5)
    assert len(compute.prefixes) == 3
    for item, row in zip(inputs[::3], wanted[::3], strict=True):
        assert torch.allclose(tensors(compute)([item]), row[None], rtol=0, atol=1e-5)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("labels", [None, 1])
def test_the_side_of_padding_does_not_matter(left: bool, labels: int | None) -> None:
    """Padded rectangles of either side have the logits that are computed without padding."""
    model = decoder_of("qwen3", labels)
    inputs = sharing(2, 3)
    with torch.no_grad():
        theirs = padded_logits(model, inputs, NAMES, Padding(0, left=left))
    assert torch.allclose(tensors(_packed(model))(inputs), theirs, rtol=0, atol=1e-5)


def test_padding_tokens_at_the_end_are_read_as_transformers_reads_them() -> None:
    """A classifier scores at the last token that is not padding; a language model at the last one there is."""
    inputs = [Tokens(np.array(ids, np.int32), np.zeros(len(ids), np.int32)) for ids in ([7, 0, 9, 0, 0], [0], [8, 6])]
    for labels in (1, None):
        model = decoder_of("qwen2", labels)
        assert torch.allclose(tensors(_packed(model))(inputs), reference(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral"])
def test_long_inputs_are_read_by_blocks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of queries, and of fewer where there are more keys; masks are not all kept."""
    monkeypatch.setattr(causal, "SCORES", 2**14)
    monkeypatch.setattr(causal, "MASKS", 2**15)
    model = decoder_of(family, 1, max_position_embeddings=2048)
    inputs = sharing(1, 3, system=300, most=200)
    assert torch.allclose(tensors(_packed(model))(inputs), reference(model, inputs), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)])
@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_half_precision_is_near_float32(family: str, dtype: torch.dtype, tolerance: float) -> None:
    """Linear layers and attention in the half type, or all weights of it; logits are float32."""
    model, inputs = decoder_of(family), sharing(2, 4)
    exact = reference(model, inputs)
    for compute in (_packed(model, dtype), _packed(model.to(dtype))):
        made = tensors(compute)(inputs)
        assert made.dtype == torch.float32
        assert torch.allclose(made, exact, rtol=0, atol=tolerance)


def test_what_the_family_does_not_have_is_not_described() -> None:
    """Rotations that go by the length, attention to both sides, replaced and added parts."""
    assert describe(decoder_of("llama", 1, rope_parameters={"rope_type": "dynamic", **ROPE})) is None
    assert describe(decoder_of("gemma3_text", 1, use_bidirectional_attention=True)) is None
    model = decoder_of("qwen3", 1)
    model.model.layers[0].mlp.down_proj = nn.Bilinear(64, 64, 32)
    assert describe(model) is None
    model = decoder_of("qwen3", 1)
    model.model.layers[1].self_attn.sinks = nn.Linear(2, 2)
    assert describe(model) is None


# ---- What is shared, and what is kept.
def test_beginnings_are_told_where_they_spare_enough() -> None:
    """Each level counts what it adds; the last token of an input is never in one; none is longer than there is room."""
    a = np.arange(100, 150, dtype=np.int32)
    under = [np.concatenate([a[:20], np.array(end, np.int32)]) for end in ([1, 2, 3], [1, 2, 4], [1, 2, 5, 6], [9])]
    assert shared_beginnings(under, 1000, 4) == [(20, 22), (20, 22), (20, 22), (20,)]
    assert shared_beginnings(under, 1000, 5) == [(20,)] * 4
    assert shared_beginnings(under, 7, 4) == [(7,)] * 4
    assert shared_beginnings(under, 1000, 61) == [()] * 4
    assert shared_beginnings([a, a, a[:1]], 1000, 1) == [(49,), (49,), ()]
    assert shared_beginnings([a], 1000, 1) == [()]


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens of every run from now on."""
    counts: list[int] = []

    class Counting(causal._Layout):
        def __init__(self, tails: Sequence[Any], *rest: Any) -> None:
            super().__init__(tails, *rest)
            counts.append(self.tokens)

    monkeypatch.setattr(causal, "_Layout", Counting)
    return counts


def test_every_shared_token_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the batches of a query, and of several queries in one; the next call finds what is kept."""
    ready, counts = ModelForward(decoder_of("qwen3"), NAMES, Padding(0), "fp32").ready, _counted(monkeypatch)
    for queries, budget in ((1, 500), (3, 10000)):
        inputs = sharing(queries, 12)
        inputs = [inputs[place] for place in np.random.default_rng(1).permutation(len(inputs))]
        compute, documents = ready(), sum(len(item) - 70 for item in inputs)
        wanted, spent = score_rows(compute, inputs, range(len(inputs)), budget)
        assert (spent.batches > 2) == (queries == 1)
        assert sum(counts) == 40 + queries * 30 + documents
        counts.clear()
        again, _ = score_rows(compute, inputs, range(len(inputs)), budget)
        assert np.array_equal(again, wanted)
        assert sum(counts) == documents
        counts.clear()
        ready.__self__._choice = None  # type: ignore[attr-defined]  # as a changed model does


def test_beginnings_are_found_one_pair_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second pair shows what it shares with the first, the third finds it."""
    compute, counts = _packed(decoder_of("qwen3")), _counted(monkeypatch)
    inputs = sharing(3, 1, system=70)
    for item in inputs:
        compute([item])
    assert counts == [len(inputs[0]), 70, len(inputs[1]) - 70, len(inputs[2]) - 70]


def test_what_is_kept_belongs_to_the_weights() -> None:
    """A changed model is computed anew, and a copy of it begins without anything kept."""
    model, inputs = decoder_of("qwen3"), sharing(1, 4)
    forward = ModelForward(model, NAMES, Padding(0), "fp32")
    before = forward.ready().logits(inputs)
    with torch.no_grad():
        model.body.model.layers[0].self_attn.v_proj.weight.mul_(1.5)
    after = torch.from_numpy(forward.ready().logits(inputs))
    assert torch.allclose(after, reference(model, inputs), rtol=0, atol=1e-5)
    assert not np.allclose(before, after, atol=1e-3)
    compute = _packed(model)
    compute(inputs)
    assert len(compute.prefixes) == 1
    assert len(copy.deepcopy(compute).prefixes) == 0
    assert copy.deepcopy(compute).prefixes.max_bytes == compute.prefixes.max_bytes


def test_scores_do_not_depend_on_batch_mates() -> None:
    """But for the order of summation: alone, twice in a batch, behind a beginning that is kept or computed."""
    model, inputs = decoder_of("gemma2"), sharing(2, 4)
    compute = tensors(_packed(model))
    alone = torch.cat([tensors(_packed(model))([item]) for item in inputs])
    for _ in range(2):
        assert torch.allclose(compute([inputs[2], *inputs]), alone[[2, *range(8)]], rtol=0, atol=ROUNDING)
    assert torch.allclose(torch.cat([compute([item]) for item in inputs]), alone, rtol=0, atol=ROUNDING)


def _prefix(first: int, tokens: int) -> Prefix:
    """40 bytes a token, the ids beside."""
    return Prefix(np.arange(first, first + tokens, dtype=np.int32), (torch.zeros(2, tokens, 1, 5),))


def test_kept_beginnings_are_bounded_by_bytes() -> None:
    """Those used longest ago make room; one that has no room is not kept."""
    cache = PrefixCache(1000)
    for first in (0, 100, 200):
        cache.keep(_prefix(first, 10))
    assert cache.bytes_held == 800  # two of 400
    assert cache.whole(np.arange(100, 120, dtype=np.int32)) is not None
    cache.keep(_prefix(300, 10))
    cache.keep(_prefix(400, 30))
    assert (cache.bytes_held, len(cache)) == (800, 2)
    assert cache.whole(np.arange(200, 220, dtype=np.int32)) is None
    assert cache.whole(np.arange(100, 110, dtype=np.int32)) is None  # its last token must be left
    near = cache.nearest(np.array([100, 101, 102, 7], np.int32))
    assert near is not None
    assert (len(near), near.states[0].shape) == (3, (2, 3, 1, 5))
    assert cache.nearest(np.array([7], np.int32)) is None


def test_without_memory_what_is_kept_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the batch is computed once more; with nothing to let go it does not fit."""
    compute, inputs = _packed(decoder_of("qwen3")), sharing(1, 4)
    wanted, tries = compute(inputs), list[int]()

    def full(*given: Any) -> Any:
        tries.append(len(compute.prefixes))
        if len(tries) in (1, 3):
            raise MemoryError
        return as_numpy(*given)

    monkeypatch.setattr(causal, "as_numpy", full)
    assert np.array_equal(compute(inputs), wanted)
    assert tries == [1, 0]
    compute.prefixes.renew()
    with pytest.raises(MemoryError):
        compute(inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_gpu_has_the_same_numbers(option: str, dtype: torch.dtype, tolerance: float) -> None:
    """Inputs of like length lie in one rectangle there."""
    family, config = OPTIONS[option]
    model, inputs = decoder_of(family, **config), sharing(2, 6)
    exact = reference(model, inputs)
    compute = _packed(model.to("cuda"), dtype)
    for _ in range(2):
        assert torch.allclose(tensors(compute)(inputs), exact, rtol=0, atol=tolerance)
