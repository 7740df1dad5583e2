"""Rules of `secondpass.forwards.plain` that no comparison of whole models shows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from secondpass.forwards import plain
from secondpass.forwards.families import describe
from secondpass.forwards.plain import ACTIVATIONS, PlainEncoder, activate, tail
from secondpass.tokens import Tokens
from tests.forwards.models import LENGTHS, inputs_of, model_of

SIZES = np.unique(np.concatenate([np.linspace(0, 13, 20_001), np.geomspace(1e-30, 1, 2000)]).astype(np.float32))


def test_the_tail_of_the_normal_distribution_is_exact() -> None:
    """Half of erfc(u / sqrt 2) to 2e-7, and relative to itself as far as float32 has such numbers; then nothing."""
    exact = np.array([math.erfc(u / math.sqrt(2)) / 2 for u in SIZES.tolist()])
    made = tail(SIZES)
    assert made.dtype == np.float32
    assert np.abs(made - exact).max() < 2e-7
    # the exponent of the exponential has float32's rounding too
    assert (np.abs(made - exact) <= exact * (6e-7 + 6e-8 * SIZES * SIZES)).all()
    with np.errstate(over="ignore"):
        assert tail(np.array([20, 1e30, np.inf], np.float32)).tolist() == [0, 0, 0]


def test_gelu_is_no_farther_from_the_truth_than_torchs() -> None:
    """In the largest error; and relative to the result also where it is small, with either sign."""
    x = np.concatenate([-SIZES, SIZES])
    exact = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.tolist()])
    made = ACTIVATIONS["gelu"](x)
    theirs = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    assert np.abs(made - exact).max() <= np.abs(theirs - exact).max()
    near = np.abs(x) < 9
    assert (np.abs(made - exact)[near] <= 1e-5 * np.abs(exact)[near]).all()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_those_of_torch(name: str) -> None:
    """Applied in place and some numbers at a time."""
    functional = torch.nn.functional
    theirs = {"gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"), "tanh": torch.tanh}
    x = np.linspace(-20, 20, 3 * plain.TOGETHER, dtype=np.float32).reshape(3, -1)
    expected = theirs.get(name, getattr(functional, name, None))(torch.from_numpy(x)).numpy()
    activate(name, x)
    assert np.allclose(x, expected, rtol=1e-5, atol=1e-6)
    before = x.copy()
    activate("none", x)
    assert np.array_equal(x, before)


BLOCKED: dict[str, dict[str, int]] = {"modernbert": {"local_attention": 8}, "bert": {}}


@pytest.mark.parametrize("family", BLOCKED)
def test_blocks_of_queries_change_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But the order of sums: windows go by places in the sequence."""
    model = model_of(family, 3, **BLOCKED[family])
    encoder, inputs = describe(model), inputs_of(LENGTHS, model)
    assert encoder is not None
    forward = PlainEncoder(encoder)
    whole = forward(inputs)
    monkeypatch.setattr(plain, "QUERIES", 7)
    assert np.allclose(forward(inputs), whole, rtol=0, atol=2e-6)


def test_what_is_no_number_stays_in_its_pair() -> None:
    """And reaches the caller, who refuses it."""
    encoder = describe(model_of("bert"))
    assert encoder is not None
    forward = PlainEncoder(encoder)
    forward._encoder.embeddings.words[7] = np.nan
    ids = [np.array([5, word, 9], np.int32) for word in (6, 7, 8)]
    made = forward([Tokens(row, np.zeros_like(row)) for row in ids])
    assert np.isfinite(made[:, 0]).tolist() == [True, False, True]
