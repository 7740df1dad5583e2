"""Which forward pass a model gets, and that it is transformers' own but for rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.forwards.learning.attention import CHUNK_BYTES, DropoutSource
from secondpass.forwards.learning.dropout import cheap_dropout
from secondpass.forwards.learning.packed import (
    ALIKE,
    PackedForward,
    PaddedForward,
    chunks_of,
    packable,
    recomputes,
    training_forward,
)
from secondpass.forwards.padded import pad
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_chain, make_folder

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
def test_the_choice(tiny_model_folder, architecture, kind, tmp_path):
    """BERT's layers are packed, others are padded; below a chain as well, where it reads first tokens alone."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    names = encoder.tokenizer.model_input_names
    assert type(training_forward(encoder.model, names, encoder.padding, DropoutSource(0))) is kind
    for pooling in ("cls", "mean"):
        model = CrossEncoder(str(make_chain(tmp_path / pooling, architecture, pooling)), device="cpu").model
        own = PaddedForward if pooling == "mean" else kind
        forward = training_forward(model, names, encoder.padding, DropoutSource(0))
        assert type(forward) is own
        if own is PaddedForward:
            continue
        inputs = encoder.tokens(QUERIES, DOCUMENTS)
        ours, theirs = (
            gradients(model, made(inputs)) for made in (forward, PaddedForward(model, names, encoder.padding))
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-5) for name in ours)
    if kind is PackedForward:
        model = encoder.model
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        assert type(training_forward(encoder.model, names, encoder.padding, DropoutSource(0))) is PaddedForward


PACKED = ("bert", "roberta", "xlm-roberta", "electra")
QUERIES_PACKED = ["what is new", "how to reset the password", "sun", "sun", ""]
DOCUMENTS_PACKED = ["the river", "a book", "cat and dog sat on a mat " * 6, "cat and dog sat on a mat " * 40, ""]


def own(encoder, tokens):
    """transformers' forward over a rectangle."""
    batch = pad(tokens, encoder.padding)
    return encoder.model(**batch.named(encoder.tokenizer.model_input_names, encoder.device)).logits


def loaded(tiny_model_folder, architecture, labels=1):
    """A private encoder in training mode without dropout, inputs of very different lengths, and the forward."""
    encoder = CrossEncoder(tiny_model_folder(architecture, labels), device="cpu")
    for module in encoder.model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    forward = PackedForward(encoder.model, encoder.tokenizer.model_input_names, DropoutSource(0))
    return encoder, encoder.tokens(QUERIES_PACKED, DOCUMENTS_PACKED), forward


def gradients(model, logits):
    """All gradients of a loss, by name."""
    model.zero_grad()
    logits.square().sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("architecture", PACKED)
@pytest.mark.parametrize("labels", [1, 3])
def test_equals_transformers(tiny_model_folder, architecture, labels):
    """Logits to 1e-5, and the same weights have the same gradients."""
    encoder, tokens, forward = loaded(tiny_model_folder, architecture, labels)
    ours, theirs = forward(tokens), own(encoder, tokens)
    assert ours.dtype == torch.float32
    assert ours.shape == (5, labels)
    assert torch.allclose(ours, theirs, atol=1e-5)
    mine, wanted = gradients(encoder.model, ours), gradients(encoder.model, theirs)
    assert mine.keys() == wanted.keys()
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in wanted.items():
        assert torch.allclose(mine[name], grad, atol=1e-6 * largest, rtol=1e-3), name


@pytest.mark.parametrize("architecture", PACKED)
def test_neighbours_do_not_matter(tiny_model_folder, architecture):
    """A pair alone gets the logit that it gets among others, in any order."""
    _, tokens, forward = loaded(tiny_model_folder, architecture)
    with torch.no_grad():
        together = forward(tokens)
        alone = torch.cat([forward([item]) for item in tokens])
        back = forward(tokens[::-1]).flip(0)
    assert torch.allclose(alone, together, atol=1e-5)
    assert torch.allclose(back, together, atol=1e-5)


def test_bfloat16_is_close_and_gradients_are_float32(tiny_model_folder):
    """Autocast decides the type; the weights and their gradients stay float32."""
    encoder, tokens, forward = loaded(tiny_model_folder, "bert")
    exact = forward(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, theirs = forward(tokens), own(encoder, tokens).detach()
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    error = float((theirs.float() - exact.detach()).abs().max())
    assert float((rough - exact).detach().abs().max()) < 2 * error + 0.02
    assert {grad.dtype for grad in gradients(encoder.model, rough).values()} == {torch.float32}


@pytest.mark.parametrize("architecture", PACKED)
def test_dropout_everywhere_and_repeatable(tiny_model_folder, architecture):
    """The source's seed decides all masks, whatever the number of threads; torch's random numbers are untouched.

    The same masks and threads give the same bits; products on another number of threads are rounded otherwise.
    """
    encoder, tokens, _ = loaded(tiny_model_folder, architecture)
    for module in encoder.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    found, sources = [], []
    before = torch.get_rng_state()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        source = DropoutSource(3)
        forward = PackedForward(encoder.model, encoder.tokenizer.model_input_names, source)
        with cheap_dropout(encoder.model, source):
            found.append(torch.stack([forward(tokens), forward(tokens)]))
        sources.append(source.as_json())
    assert torch.equal(torch.get_rng_state(), before)
    assert sources[0] == sources[1] == sources[2]
    assert torch.allclose(found[0], found[1], rtol=0, atol=ROUNDING)
    assert torch.equal(found[1], found[2])
    assert not torch.allclose(found[0][0], found[0][1], rtol=0, atol=100 * ROUNDING)


def test_dropout_has_the_mean_of_transformers_own(tiny_model_folder):
    """Attention's, the layers', the embeddings' and the head's: together they give torch's mean and spread."""
    encoder, tokens, _ = loaded(tiny_model_folder, "bert")
    for module in encoder.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
    source = DropoutSource(3)
    forward = PackedForward(encoder.model, encoder.tokenizer.model_input_names, source)
    with torch.no_grad():
        theirs = torch.stack([own(encoder, tokens[:3]) for _ in range(400)])
        with cheap_dropout(encoder.model, source):
            ours = torch.stack([forward(tokens[:3]) for _ in range(400)])
    error = ((theirs.var(0) + ours.var(0)) / 400).sqrt()
    assert bool(((theirs.mean(0) - ours.mean(0)).abs() < 5 * error).all())
    assert torch.allclose(theirs.std(0), ours.std(0), rtol=0.25)


def test_low_rank_additions_and_frozen_weights(tiny_model_folder):
    """The model's own modules are called: additions learn, and frozen weights get no gradient."""
    peft = pytest.importorskip("peft")
    encoder, tokens, _ = loaded(tiny_model_folder, "bert")
    config = peft.LoraConfig(target_modules=["query", "value", "dense"], lora_dropout=0.0, init_lora_weights=False)
    peft.inject_adapter_in_model(config, encoder.model)
    assert packable(encoder.model)
    forward = PackedForward(encoder.model, encoder.tokenizer.model_input_names, DropoutSource(0))
    ours, theirs = forward(tokens), own(encoder, tokens)
    assert torch.allclose(ours, theirs, atol=1e-4)
    names = set(gradients(encoder.model, ours))
    assert names
    assert all("lora_" in name for name in names)


@pytest.mark.parametrize("lengths", [[7], [9, 9, 9], [10, 9, 8, 7, 1, 1], [512, 500, 3], list(range(300, 0, -1))])
@pytest.mark.parametrize("score_bytes", [1, 48, 10**9])
@pytest.mark.parametrize("first_only", [False, True])
def test_chunks(lengths, score_bytes, first_only):
    """Every row is in one chunk, no chunk is above the limit but a sequence alone, and padding is hidden."""
    chunks = chunks_of(np.array(lengths), score_bytes, first_only)
    assert sum(chunk.size for chunk in chunks) == len(lengths)
    rows = [row for chunk in chunks for row in range(chunk.keys.start, chunk.keys.stop)]
    assert rows == list(range(sum(lengths)))
    asked = [row for chunk in chunks for row in range(chunk.queries.start, chunk.queries.stop)]
    assert asked == (list(range(len(lengths))) if first_only else rows)
    left = iter(lengths)
    for chunk in chunks:
        own = [next(left) for _ in range(chunk.size)]
        asking, longest = chunk.lengths
        assert (asking, longest) == (1 if first_only else own[0], own[0])
        assert chunk.size == 1 or chunk.size * asking * longest * score_bytes <= CHUNK_BYTES
        assert own[-1] >= ALIKE * longest
        assert (chunk.mask is None) == (own[-1] == longest)
        if chunk.mask is not None:
            assert chunk.mask.sum((1, 2, 3)).tolist() == own
            assert torch.equal(chunk.key_places, chunk.mask.flatten().nonzero()[:, 0])


@pytest.mark.parametrize("limit", [1, 4000, 10**9])
def test_the_size_of_chunks_does_not_matter(tiny_model_folder, limit, monkeypatch):
    """One sequence at a time or all of like length at once: the same logits and gradients."""
    encoder, _, forward = loaded(tiny_model_folder, "bert")
    words = "cat and dog sat on a mat in the garden where water is red".split()
    documents = [" ".join(words[:length]) for length in (13, 5, 12, 9, 13, 1, 12, 11)]
    tokens = encoder.tokens(["what is new"] * 8, documents)
    wanted = gradients(encoder.model, own(encoder, tokens))
    monkeypatch.setattr("secondpass.forwards.learning.packed.CHUNK_BYTES", limit)
    logits = forward(tokens)
    assert torch.allclose(logits, own(encoder, tokens), atol=1e-5)
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    for name, grad in gradients(encoder.model, logits).items():
        assert torch.allclose(grad, wanted[name], atol=1e-6 * largest, rtol=1e-3), name


@pytest.mark.parametrize("architecture", ["distilbert", "modernbert", "deberta-v2"])
def test_other_architectures_are_not_packed(tiny_model_folder, architecture):
    """Layers of another make."""
    assert not packable(CrossEncoder(tiny_model_folder(architecture), device="cpu").model)


def test_variants_of_bert_that_are_not_packed(tmp_path, tiny_model_folder):
    """Decoders, models that recompute activations, and classes that only have the name."""
    assert not packable(CrossEncoder(str(make_folder(tmp_path, "bert", is_decoder=True)), device="cpu").model)
    model = CrossEncoder(tiny_model_folder("bert"), device="cpu").model
    assert packable(model)
    assert not recomputes(model)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    assert recomputes(model)
    assert not packable(model)
    getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()
    assert packable(model)
    named = type("BertForSequenceClassification", (type(model),), {"__module__": "elsewhere"})
    model.__class__ = named
    assert not packable(model)
