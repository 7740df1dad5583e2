"""The compiled forward: transformers' numbers in float32, near ones in short precisions, nothing of its neighbours."""

from __future__ import annotations

import copy
import dataclasses
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.forwards import kernel as kernel_package
from secondpass.forwards.description import Encoder, Linear, Norm, Pooling, Readout, ReadoutStep
from secondpass.forwards.families import describe
from secondpass.forwards.kernel import KernelEncoder, chunk_ends, evenly, kernel_forward, native
from secondpass.forwards.kernel.native import Routine
from secondpass.forwards.kernel.weights import packed, up_to
from secondpass.forwards.packed import PackedEncoder
from secondpass.forwards.plain import PlainEncoder
from secondpass.tokens import Tokens
from tests.forwards.kernel.encoders import FAMILIES, arrays, expected, made, sized, tokens
from tests.forwards.models import tensors

FOUND = native.routines()
ROUTINES = [] if isinstance(FOUND, str) else list(FOUND)
FULL = [routine for routine in ROUTINES if routine.precision == "fp32"]
pytestmark = pytest.mark.skipif(not ROUTINES, reason=str(FOUND))

LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 100, 127, 128, 3, 90)


def named(routine: Routine) -> str:
    """An id for a test."""
    return f"{routine.instructions}-{routine.precision}"


@pytest.fixture(params=ROUTINES, ids=named)
def routine(request: pytest.FixtureRequest) -> Routine:
    """Each precision on each instruction set of this processor."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=FULL, ids=named)
def full(request: pytest.FixtureRequest) -> Routine:
    """float32 on each instruction set."""
    return request.param  # type: ignore[no-any-return]


def kernel(encoder: Encoder, routine: Routine) -> Callable[[Sequence[Tokens]], torch.Tensor]:
    """The forward of a routine, whose logits are compared with torch's."""
    return tensors(KernelEncoder(packed(arrays(encoder), routine)))


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_gives_the_logits_of_transformers(family: str, labels: int, full: Routine) -> None:
    """Every family, at every length around the edges of blocks, to 1e-5 of the logits' size."""
    model, encoder = made(family, labels)
    inputs = tokens(*LENGTHS, types=2 if family in {"bert", "electra"} else 1)
    wanted = expected(model, inputs)
    torch.testing.assert_close(kernel(encoder, full)(inputs), wanted, rtol=1e-5, atol=1e-5)


ROTARY: dict[str, dict[str, Any]] = {
    "mean": {"classifier_pooling": "mean"},
    "biases": {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
    "narrow windows": {"local_attention": 4, "num_hidden_layers": 3, "classifier_pooling": "mean"},
    "local last": {"global_attn_every_n_layers": 3, "num_hidden_layers": 2, "local_attention": 8},
    "one layer": {"num_hidden_layers": 1, "hidden_activation": "silu", "classifier_activation": "relu"},
    "odd widths": {"hidden_size": 120, "num_attention_heads": 5, "intermediate_size": 300, "local_attention": 70},
}


@pytest.mark.parametrize("config", ROTARY)
def test_rotary_models_are_those_of_transformers(config: str, routine: Routine) -> None:
    """Poolings, biases, both kinds of attention, inputs beyond a window and a block; in each precision, bit for bit
    alone as together, whatever the longest input so far was and however many threads there are.
    """
    model, encoder = made("modernbert", 2, **ROTARY[config])
    inputs = tokens(1, 17, 32, 33, 65, 128, 200)
    wanted, forward = expected(model, inputs), kernel(encoder, routine)
    alone = torch.cat([forward([item]) for item in inputs])
    near = {"fp32": 1e-5, "bf16": 0.1, "int16": 0.025, "int8": 0.3}[routine.precision] * max(
        1.0, float(wanted.abs().max())
    )
    assert bool(((alone - wanted).abs() < near).all())
    for threads in (1, 2):
        torch.set_num_threads(threads)
        assert torch.equal(forward(inputs), alone)


STEPS: dict[str, Callable[[Callable[[int, int], Linear], Norm], tuple[ReadoutStep, ...]]] = {
    "as Ettin": lambda linear, norm: (
        ReadoutStep(replace(linear(48, 32), bias=None), "gelu", norm),
        ReadoutStep(linear(1, 48)),
    ),
    "wider": lambda linear, norm: (ReadoutStep(linear(200, 32), "relu"), ReadoutStep(linear(3, 200), "tanh")),
    "a norm first": lambda linear, norm: (
        ReadoutStep(None, "silu"),
        ReadoutStep(linear(48, 32), "gelu_tanh", norm, unit=True),
        ReadoutStep(None, unit=True),
        ReadoutStep(linear(40, 48)),
        ReadoutStep(None, "relu"),
    ),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("pooling", ["first", "mean", "max", "last"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_readouts_are_those_of_torch(family: str, pooling: Pooling, steps: str, full: Routine) -> None:
    """Every pooling through linear layers of other widths, activations, norms and lengths of 1."""
    torch.manual_seed(0)
    _, encoder = made(family)
    chain = STEPS[steps](
        lambda out, width: Linear(torch.randn(out, width) * 0.3, torch.randn(out)),
        Norm(torch.randn(48), torch.randn(48), 1e-5),
    )
    encoder = dataclasses.replace(encoder, readout=Readout(pooling, chain))
    inputs = tokens(*LENGTHS)
    wanted = tensors(PackedEncoder(encoder))(inputs)
    found = kernel(encoder, full)(inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-5)
    if full is FULL[0]:
        torch.testing.assert_close(tensors(PlainEncoder(encoder))(inputs), wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_what_is_no_number_is_pooled_as_none(pooling: Pooling, full: Routine) -> None:
    """In the pair of that token alone."""
    _, encoder = made("modernbert")
    words = encoder.embeddings.words.clone()
    words[7] = float("nan")
    encoder = dataclasses.replace(
        encoder,
        embeddings=dataclasses.replace(encoder.embeddings, words=words),
        readout=dataclasses.replace(encoder.readout, pooling=pooling),
    )
    spoiled, whole = tokens(9, 20)
    spoiled.ids[4] = 7
    assert torch.isfinite(kernel(encoder, full)([spoiled, whole])).flatten().tolist() == [False, True]


@pytest.mark.parametrize(
    ("hidden", "heads", "inner"),
    [(32, 1, 40), (48, 3, 100), (120, 5, 300), (312, 12, 1200), (384, 12, 1536), (768, 12, 1024), (1024, 8, 256)],
)
def test_widths_need_not_suit_the_processor(hidden: int, heads: int, inner: int, full: Routine) -> None:
    """Head sizes from 16 to 128 and widths that are no multiple of a register give the same logits."""
    model, encoder = sized(hidden, heads, inner)
    inputs = tokens(5, 40, 77, types=2)
    wanted = expected(model, inputs)
    torch.testing.assert_close(kernel(encoder, full)(inputs), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pruned", [0, 1])
def test_feed_forwards_may_be_of_several_widths(pruned: int, routine: Routine) -> None:
    """A layer that was pruned in memory, in front of a wider one or behind it."""
    model: Any = made(intermediate_size=200)[0]
    layer = model.bert.encoder.layer[pruned]
    inner, outer = layer.intermediate.dense, layer.output.dense
    inner.weight, inner.bias, outer.weight = (
        torch.nn.Parameter(weight.detach()) for weight in (inner.weight[:40], inner.bias[:40], outer.weight[:, :40])
    )
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    inputs = tokens(20, 60, types=2)
    near = {"fp32": 1e-5, "bf16": 0.1, "int16": 0.025, "int8": 0.2}[routine.precision]
    torch.testing.assert_close(kernel(encoder, routine)(inputs), expected(model, inputs), rtol=near, atol=near)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu"])
def test_activations_are_those_of_the_model(activation: str, routine: Routine) -> None:
    """Each hidden activation in each precision; a wrong one would be far off."""
    model, encoder = made(hidden_act=activation)
    inputs = tokens(20, 60, types=2)
    near = 1e-5 if routine.precision == "fp32" else 0.15
    torch.testing.assert_close(kernel(encoder, routine)(inputs), expected(model, inputs), rtol=near, atol=near)


@cache
def of_real_width(family: str) -> tuple[Encoder, list[Tokens], torch.Tensor, torch.Tensor]:
    """An encoder, its inputs, and torch's logits in float32 and in float64: once for all routines."""
    model, encoder = sized(384, 12, 1536, family, num_hidden_layers=4 if family == "bert" else 2)
    inputs = tokens(*range(30, 60), types=2) if family == "bert" else tokens(*range(30, 80, 5))
    return encoder, inputs, expected(model, inputs), expected(copy.deepcopy(model).double(), inputs)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_float32_is_as_near_to_the_truth_as_torch(family: str, full: Routine) -> None:
    """Against float64, whatever float32 is multiplied as: no more than four times torch's own rounding error."""
    encoder, inputs, rounded, truth = of_real_width(family)
    found = kernel(encoder, full)(inputs)
    assert (found - truth).square().mean().sqrt() < 4 * (rounded - truth).square().mean().sqrt()


def test_the_longest_input_is_as_good(routine: Routine) -> None:
    """512 tokens, more than any block."""
    model, encoder = made(max_position_embeddings=512)
    inputs = tokens(512, 300, 511, types=2)
    near = {"fp32": 1e-5, "bf16": 0.05, "int16": 0.0125, "int8": 0.1}[routine.precision]
    torch.testing.assert_close(kernel(encoder, routine)(inputs), expected(model, inputs), rtol=near, atol=near)


def coarser(routine: Routine) -> float:
    """How many times the error of bytes that may be: where they have 7 bits, their steps are twice as long."""
    return 2.2 if routine.precision == "int8" and routine.most_byte < 127 else 1.0


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_that_is_certain_or_spread_is_near(heads: int, routine: Routine) -> None:
    """Scores that leave a few keys, and such that leave all 1,000 of them equal; heads of 32 to 128."""
    _, encoder = sized(128, heads, 64, "modernbert", num_hidden_layers=1, classifier_pooling="mean")
    inputs = tokens(1000, 40)
    for times in (0.0, 4.0):
        weight = encoder.layers[0].qkv.weight.clone()
        weight[:256] *= times
        layer = replace(encoder.layers[0], qkv=replace(encoder.layers[0].qkv, weight=weight), window=None)
        own = replace(encoder, layers=(layer,))
        wanted = tensors(PackedEncoder(own))(inputs)
        near = {"fp32": 1e-4, "bf16": 0.05, "int16": 0.0125, "int8": 0.1}[routine.precision] * float(wanted.abs().max())
        near *= coarser(routine)
        torch.testing.assert_close(kernel(own, routine)(inputs), wanted, rtol=0, atol=near)


@cache
def of_layers(layers: int) -> tuple[Encoder, list[Tokens], torch.Tensor]:
    """An encoder, its inputs and transformers' logits: once for all routines."""
    model, encoder = sized(128, 4, 512, num_hidden_layers=layers)
    inputs = tokens(*range(20, 60), types=2)
    return encoder, inputs, expected(model, inputs)


def test_short_precisions_are_near(routine: Routine) -> None:
    """bfloat16 keeps 8 bits and int8 little less: the error is a small part of the spread of logits, in the mean of two
    models, because that of one is larger or smaller by a tenth as chance rounds.
    """
    errors = []
    for encoder, inputs, wanted in map(of_layers, (3, 4)):
        error = (kernel(encoder, routine)(inputs) - wanted).square().mean().sqrt()
        errors.append(float(error / wanted.std()))
    allowed = {"fp32": 1e-5, "bf16": 0.04, "int16": 0.01, "int8": 0.08}[routine.precision]
    assert sum(errors) / len(errors) < allowed * coarser(routine)


def test_the_bias_of_a_norm_costs_int8_nothing(routine: Routine) -> None:
    """A channel at 1000 in every row, its weights small: beside it a step of bytes leaves nothing of the others."""
    _, encoder = made("modernbert", norm_bias=True)

    def spoiled(norm: Norm | None, linear: Linear) -> tuple[Norm | None, Linear]:
        if norm is None or norm.bias is None:
            return norm, linear
        bias, weight = norm.bias.clone(), linear.weight.clone()
        bias[5] += 1000
        weight[:, 5] *= 1e-3
        return replace(norm, bias=bias), replace(linear, weight=weight)

    layers = []
    for layer in encoder.layers:
        attention_norm, qkv = spoiled(layer.attention_norm, layer.qkv)
        output_norm, up = spoiled(layer.output_norm, layer.up)
        layers.append(replace(layer, attention_norm=attention_norm, qkv=qkv, output_norm=output_norm, up=up))
    encoder = replace(encoder, layers=tuple(layers))
    inputs = tokens(*range(20, 40))
    wanted = tensors(PackedEncoder(encoder))(inputs)
    error = (kernel(encoder, routine)(inputs) - wanted).square().mean().sqrt()
    assert error < {"fp32": 1e-3, "bf16": 0.5, "int16": 0.5, "int8": 0.1}[routine.precision] * wanted.std()


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_neighbours_and_threads_change_nothing(family: str, routine: Routine) -> None:
    """Bit for bit: alone, in a batch, in another order, on one thread, two or five."""
    _, encoder = made(family, labels=3)
    forward = kernel(encoder, routine)
    inputs = tokens(*LENGTHS * 3, types=2 if family == "bert" else 1)
    together = forward(inputs)
    order = np.random.default_rng(1).permutation(len(inputs))
    assert torch.equal(forward([inputs[place] for place in order]), together[order])
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        assert torch.equal(torch.cat([forward([item]) for item in inputs]), together)
        assert torch.equal(forward(inputs), together)


def test_routines_of_one_precision_agree() -> None:
    """What a processor computes with must not be seen in the ranking."""
    _, encoder = made()
    inputs = tokens(*LENGTHS, types=2)
    for precision, near in (("fp32", 2e-5), ("bf16", 0.1), ("int16", 0.02), ("int8", 0.2)):
        made_by = [kernel(encoder, routine)(inputs) for routine in ROUTINES if routine.precision == precision]
        for other in made_by[1:]:
            torch.testing.assert_close(other, made_by[0], rtol=near, atol=near)


def test_several_threads_may_call_at_once(routine: Routine) -> None:
    """Each call has its own memory."""
    _, encoder = made()
    forward = kernel(encoder, routine)
    batches = [tokens(*LENGTHS, types=2, seed=seed) for seed in range(6)]
    wanted = [forward(batch) for batch in batches]
    given: dict[int, list[torch.Tensor]] = {number: [] for number in range(6)}

    def call(number: int) -> None:
        given[number] = [forward(batches[number]) for _ in range(5)]

    callers = [threading.Thread(target=call, args=(number,)) for number in given]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(torch.equal(one, wanted[number]) for number, found in given.items() for one in found)


def test_a_forked_child_computes(routine: Routine) -> None:
    """Nothing of the parent's threads is waited for."""
    _, encoder = made()
    forward = kernel(encoder, routine)
    inputs = tokens(*LENGTHS, types=2)
    torch.set_num_threads(2)
    wanted = forward(inputs)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(forward(inputs), wanted) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_weights_that_are_no_numbers_give_no_numbers(routine: Routine) -> None:
    """A spoiled weight must be heard of, not rounded away."""
    _, encoder = made()
    for part in ("qkv", "attention_out", "up", "down"):
        linear = getattr(encoder.layers[0], part)
        weight = linear.weight.clone()
        weight[3, 5] = float("nan")
        changed: dict[str, Any] = {part: Linear(weight, linear.bias)}
        layer = dataclasses.replace(encoder.layers[0], **changed)
        spoiled = dataclasses.replace(encoder, layers=(layer, *encoder.layers[1:]))
        assert bool(torch.isnan(kernel(spoiled, routine)(tokens(20, types=2))).all()), part


def test_huge_activations_are_not_cut_in_silence(routine: Routine) -> None:
    """Values of 1e6 in one column: still near transformers, because rows carry their own scale; infinity is NaN.

    The step of such a segment is four thousand in int8, in words 244: of its other columns nothing is left, and the
    column is exact.
    """
    model: Any = made(hidden_act="relu")[0]
    layer = model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.intermediate.dense.bias[0] = 1e6
        layer.output.dense.weight[:, 0] *= 1e-6
    kept = copy.deepcopy(model)
    if routine.precision in ("int16", "int8"):
        kept.bert.encoder.layer[0].output.dense.weight.data[:, 1:] = 0
    inputs = tokens(30, 50, types=2)
    near = {"fp32": 1e-4, "bf16": 0.2, "int16": 0.4, "int8": 0.4}[routine.precision]
    found = kernel(_again(model), routine)(inputs)
    assert bool(((found - expected(kept, inputs)).abs() < near).all())
    with torch.no_grad():
        layer.intermediate.dense.bias[0] = float("inf")
    assert not bool(torch.isfinite(kernel(_again(model), routine)(inputs)).any())


def _again(model: torch.nn.Module) -> Encoder:
    encoder = describe(model)
    assert isinstance(encoder, Encoder)
    return encoder


@pytest.mark.parametrize(
    ("ids", "types"),
    [([], []), ([1] * 129, [0] * 129), ([200], [0]), ([-1], [0]), ([5], [2]), ([5], [-1]), ([5, 6], [0])],
    ids=["empty", "long", "id", "negative id", "type", "negative type", "uneven"],
)
def test_inputs_beyond_the_tables_are_refused(ids: list[int], types: list[int], routine: Routine) -> None:
    """Nothing reaches the library that would read outside its memory."""
    _, encoder = made()
    wrong = Tokens(np.array(ids, np.int32), np.array(types, np.int32))
    for forward in (kernel(encoder, routine), PlainEncoder(encoder)):
        with pytest.raises(InvalidInput):
            forward([*tokens(4), wrong])


def test_no_inputs_give_no_logits(routine: Routine) -> None:
    """Zero rows, not a crash."""
    _, encoder = made(labels=3)
    assert kernel(encoder, routine)([]).shape == PlainEncoder(encoder)([]).shape == (0, 3)


def test_chunks_hold_every_sequence_once() -> None:
    """Boundaries rise from 0 to the number of sequences, and chunks have about as many tokens."""
    lengths = np.random.default_rng(0).integers(1, 200, 100)
    ends = chunk_ends(lengths, 12)
    assert ends[0] == 0
    assert ends[-1] == 100
    assert (np.diff(ends) > 0).all()
    assert np.add.reduceat(lengths, ends[:-1]).max() < lengths.sum() / 12 + 200


def test_a_chunk_for_each_thread_is_as_long_as_the_others() -> None:
    """Ten documents on two threads: the slower one is waited for; every sequence is in one chunk."""
    lengths = np.array([96, 96, 96, 67, 67, 67, 38, 38, 38, 38])
    order, ends = evenly(lengths, 2)
    assert sorted(order.tolist()) == list(range(10))
    assert np.add.reduceat(lengths[order], ends[:-1]).tolist() == [335, 306]
    order, ends = evenly(np.array([5, 7]), 3)
    assert (order.tolist(), ends.tolist()) == ([1, 0], [0, 1, 2])


def test_no_thread_is_started_that_would_have_no_work(monkeypatch: pytest.MonkeyPatch, routine: Routine) -> None:
    """A short pair is for one thread, one of three blocks for three at most, whatever is allowed."""
    forward = KernelEncoder(packed(arrays(made()[1]), routine))
    monkeypatch.setattr(kernel_package, "thread_count", lambda: 8)
    tiles = routine.instructions == "amx"
    one = 8 if not tiles else 16 if routine.precision == "fp32" else 32
    block = 16 if tiles else 8
    assert [forward._threads(count) for count in (1, one, 3 * block, 200)] == [1, 1, 3 if 3 * block > one else 1, 8]
    # as `for_blocks` of source/encoder.hpp deals them out: whole tiles, or evenly by four rows
    for count in range(1, 300):
        threads = forward._threads(count)
        step = up_to(-(-count // threads), 16 if tiles else 4)
        assert -(-count // step) == threads or count > 8 * block


def test_without_a_library_there_is_no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner computes with torch then, and hears why."""
    _, encoder = made()
    given = arrays(encoder)
    assert isinstance(kernel_forward(lambda: given, "fp32"), KernelEncoder)
    monkeypatch.setenv(native.CHOSEN, "none such")
    assert kernel_forward(lambda: given, "fp32") == "the kernel has no fp32 for this processor among none such"
