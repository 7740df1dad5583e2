"""Weights in the routine's order: nothing lost, padding zero, tables shared."""

from __future__ import annotations

import dataclasses
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch

from secondpass.forwards.description import Encoder
from secondpass.forwards.families import describe
from secondpass.forwards.kernel import native
from secondpass.forwards.kernel.weights import (
    alternating,
    angles,
    bfloat16,
    digits_of,
    own_positions,
    packed,
    put,
    smoothing,
    unsupported,
    widened,
)
from tests.forwards.kernel.encoders import arrays, made, sized
from tests.tiny_models import make_model


@pytest.mark.parametrize(("kind", "group"), [(np.float32, 1), (np.uint16, 2), (np.int8, 4)])
def test_panels_hold_each_weight_in_its_place(kind: Any, group: int) -> None:
    """[columns, depth] -> [panel number, group of depth, column in the panel, place in the group]."""
    values = np.arange(64 * 8).reshape(64, 8).astype(kind)
    panels = np.empty((2, 8 // group, 32), np.uint32)
    put(values, panels)
    found = panels[..., None].view(kind)
    assert all(found[c // 32, d // group, c % 32, d % group] == values[c, d] for c in range(64) for d in range(8))


def test_bfloat16_is_that_of_torch() -> None:
    """The nearest, of two as near the even one; so for tiny numbers, those beyond the largest, and no numbers."""
    random = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16) + 0x8000
    values = np.concatenate([random, ties, ties - 1, ties + 1]).view(np.float32)
    wanted = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    found = (bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(found, wanted)


def test_widened_adds_zeros_or_shares() -> None:
    """An array of the right size is not copied."""
    values = np.ones((2, 3), np.float32)
    assert widened(values, 2, 3) is values
    assert widened(values, 3, 4).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_the_table_of_words_is_shared() -> None:
    """The largest tensor is not held twice."""
    found = native.find("fp32")
    if isinstance(found, str):
        pytest.skip(found)
    _, encoder = sized(64, 2, 64)
    assert packed(arrays(encoder), found).model.words == encoder.embeddings.words.data_ptr()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int16", "int8"])
def test_packing_holds_no_second_copy_of_the_weights(precision: native.Precision) -> None:
    """Beside what is kept there is room for parts of one matrix, whatever the model's size; tables are shared."""
    found = native.find(precision)
    if isinstance(found, str):
        pytest.skip(found)
    _, encoder = sized(384, 12, 1536, num_hidden_layers=3)
    given = arrays(encoder)
    tracemalloc.start()
    try:
        weights = packed(given, found)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert weights.model.layer_count == 3
    assert most - kept < 4 * 4 * 384 * 1536


def test_digits_make_the_number_again() -> None:
    """Three signed digits of 8 bits, the highest first, for all that the scale lets through."""
    most = int(127.4 * 65536)
    whole = np.concatenate([np.arange(-most, most, 991), [-most, -32769, -129, -1, 0, 127, 128, most]])
    high, middle, low = digits_of(whole.astype(np.int32)).astype(np.int64)
    assert np.array_equal(high * 65536 + middle * 256 + low, whole)


def test_halves_lie_in_turn_by_registers() -> None:
    """Rows of the first half, then as many of the second."""
    halves = np.arange(16, dtype=np.float32).reshape(2, 8, 1)
    assert alternating(halves, 4).flatten().tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]


def test_angles_do_not_depend_on_how_many_there_are() -> None:
    """A longer table begins with the shorter one; numbers are those of float32 angles."""
    frequencies = (1.0 / 160000.0 ** (np.arange(0, 64, 2, dtype=np.float32) / 64)).astype(np.float32)
    short, long = angles(frequencies, 16, 48), angles(frequencies, 8192, 48)
    assert np.array_equal(short, long[:16])
    assert not short[:, :, 32:].any()
    turned = torch.arange(8192)[:, None].float() * torch.from_numpy(frequencies)
    assert np.abs(long[:, 0, :32] - turned.cos().numpy()).max() < 1e-7
    assert np.abs(long[:, 1, :32] - turned.sin().numpy()).max() < 1e-7


def test_smoothing_is_exact_and_leaves_out_what_is_no_number() -> None:
    """Powers of two, so that dividing by them rounds nothing."""
    weight = np.array([[4.0, 0.0, 1e-6, np.nan], [-1.0, 0.0, 1e-7, 1.0]], np.float32)
    assert smoothing(weight).tolist() == [2.0, 1.0, 2.0**-10, 1.0]


def test_an_encoder_with_relative_positions_is_refused() -> None:
    """DeBERTa is described by the same weights and more."""
    encoder = describe(make_model("deberta-v2", 80))
    assert isinstance(encoder, Encoder)
    assert unsupported(encoder) == "the kernel has no relative positions"
    with pytest.raises(ValueError, match="absolute positions"):
        own_positions(dataclasses.replace(encoder.embeddings, positions=None))


def test_rows_of_bytes_are_freed_of_the_bias_of_the_norm_below_alone() -> None:
    """In each layer what queries and inner values are made of; not where embeddings are widened in between."""
    found = native.find("int8")
    if isinstance(found, str):
        pytest.skip(found)
    for family, config in (("bert", {}), ("electra", {"embedding_size": 16})):
        _, encoder = made(family, **config)
        layers = packed(arrays(encoder), found).model.layers
        assert bool(layers[0].qkv.change) == (encoder.embeddings.projection is None)
        assert all(bool(matrix.change) for matrix in (layers[1].qkv, layers[0].up, layers[1].up))
        assert not layers[0].down.change
