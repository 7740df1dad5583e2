"""Weights in the routine's order: nothing lost, padding zero, tables shared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from secondpass.forwards.description import Encoder
from secondpass.forwards.families import describe
from secondpass.forwards.kernel import native
from secondpass.forwards.kernel.weights import (
    PackedWeights,
    alternating,
    angles,
    digits_of,
    own_positions,
    panels,
    smoothing,
    unsupported,
    widened,
)
from tests.forwards.kernel.encoders import made, sized
from tests.tiny_models import make_model


def test_panels_hold_each_weight_in_its_place() -> None:
    """[columns, depth] -> [panel number, group of depth, column in the panel, place in the group]."""
    values = torch.arange(64 * 8).view(64, 8)
    made_panels = panels(values, 32, 4)
    assert made_panels.shape == (2, 2, 32, 4)
    assert all(made_panels[c // 32, d // 4, c % 32, d % 4] == values[c, d] for c in range(64) for d in range(8))


def test_widened_adds_zeros_or_shares() -> None:
    """A tensor of the right size and type is not copied."""
    tensor = torch.ones(2, 3)
    assert widened(tensor, 2, 3).data_ptr() == tensor.data_ptr()
    assert widened(tensor, 3, 4).tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]


def test_the_table_of_words_is_shared() -> None:
    """The largest tensor is not held twice."""
    found = native.find("fp32")
    if isinstance(found, str):
        pytest.skip(found)
    _, encoder = sized(64, 2, 64)
    assert PackedWeights(encoder, found).model.words == encoder.embeddings.words.data_ptr()


def test_an_encoder_elsewhere_is_refused() -> None:
    """The library reads memory of the processor."""
    _, encoder = made()
    assert unsupported(encoder) is None

    moved = dataclasses.replace(
        encoder, embeddings=dataclasses.replace(encoder.embeddings, words=encoder.embeddings.words.to("meta"))
    )
    assert unsupported(moved) is not None


def test_digits_make_the_number_again() -> None:
    """Three signed digits of 8 bits, the highest first, for all that the scale lets through."""
    most = int(127.4 * 65536)
    whole = torch.cat([torch.arange(-most, most, 991), torch.tensor([-most, -32769, -129, -1, 0, 127, 128, most])])
    high, middle, low = digits_of(whole.to(torch.int32)).to(torch.int64)
    assert torch.equal(high * 65536 + middle * 256 + low, whole)


def test_halves_lie_in_turn_by_registers() -> None:
    """Rows of the first half, then as many of the second."""
    halves = torch.arange(16).view(2, 8, 1)
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
    weight = torch.tensor([[4.0, 0.0, 1e-6, float("nan")], [-1.0, 0.0, 1e-7, 1.0]])
    assert smoothing(weight).tolist() == [2.0, 1.0, 2.0**-10, 1.0]


def test_an_encoder_with_relative_positions_is_refused() -> None:
    """DeBERTa is described by the same weights and more."""
    encoder = describe(make_model("deberta-v2", 80))
    assert isinstance(encoder, Encoder)
    assert unsupported(encoder) == "the kernel has no relative positions"
    with pytest.raises(ValueError, match="absolute positions"):
        own_positions(dataclasses.replace(encoder.embeddings, positions=None))
