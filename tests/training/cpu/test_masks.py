"""Dropout's masks: statistics, determinism, state, gradients."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.cpu.masks import DropoutSource, dropped, factor, levels_dropped, zeroed
from secondpass.training.survival.random_state import random_state, restore_random_state

N = 400_000


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.001])
def test_mean_and_variance(share):
    """Kept elements are as many as the exact probability says, within five standard deviations."""
    keep = DropoutSource(3).keep((N,), share).double()
    probability = 1 - levels_dropped(share) / 2**16
    assert abs(probability - (1 - share)) <= 2**-17
    deviation = (probability * (1 - probability) / N) ** 0.5
    assert abs(float(keep.mean()) - probability) < 5 * deviation
    made = dropped(torch.ones(N, dtype=torch.float64), share, DropoutSource(3))
    assert abs(float(made.mean()) - 1) < 5 * deviation / probability
    variance = (1 - probability) / probability
    assert float(made.var()) == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 64, 4096])
def test_elements_are_independent(lag):
    """No correlation with the element `lag` places on: four share a word of 64 bits."""
    keep = DropoutSource(5).keep((N,), 0.5).double().numpy()
    correlation = np.corrcoef(keep[:-lag], keep[lag:])[0, 1]
    assert abs(correlation) < 5 / N**0.5


def test_draws_and_seeds_are_independent():
    """Two masks of one source, and those of two seeds, agree in as many places as chance says."""
    source = DropoutSource(5)
    first, second, other = source.keep((N,), 0.5), source.keep((N,), 0.5), DropoutSource(6).keep((N,), 0.5)
    for one, two in ((first, second), (first, other)):
        assert abs(float((one == two).double().mean()) - 0.5) < 5 * 0.5 / N**0.5
    assert not torch.equal(DropoutSource([5, 0]).keep((64,), 0.5), DropoutSource([5, 1]).keep((64,), 0.5))


def test_runs_of_dropped_elements():
    """Lengths of runs follow the geometric distribution: chi-square of 8 classes below its 99.99th percentile."""
    keep = DropoutSource(7).keep((N,), 0.5).numpy()
    runs = np.diff(np.flatnonzero(np.diff(keep.astype(np.int8))))
    counts = np.array([np.sum(runs == length) for length in range(1, 8)] + [np.sum(runs >= 8)])
    expected = len(runs) * np.array([2.0**-length for length in range(1, 8)] + [2.0**-7])
    assert float(((counts - expected) ** 2 / expected).sum()) < 29.9


def test_the_seed_decides_whatever_the_threads():
    """The same with one thread and two."""
    made = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        source = DropoutSource(1)
        made.append([dropped(torch.ones(33, 129), 0.1, source) for _ in range(3)])
    assert all(torch.equal(one, two) for one, two in zip(*made, strict=True))


def test_state_is_json_and_goes_on_exactly():
    """Written down and read back, the next masks are the same."""
    source = DropoutSource(1)
    source.keep((7,), 0.1)
    state = json.loads(json.dumps(source.as_json()))
    ahead = [source.keep((5, 3), 0.3) for _ in range(4)]
    other = DropoutSource(99)
    other.load(state)
    assert all(torch.equal(one, other.keep((5, 3), 0.3)) for one in ahead)


def test_a_checkpoint_of_the_run_has_it():
    """The run's own way to keep random numbers takes the generator, and goes on exactly."""
    source = DropoutSource((1, 0))
    source.keep((7,), 0.1)
    tensors, state = random_state({"dropout": source.generator})
    ahead = source.keep((999,), 0.3)
    other = DropoutSource((1, 1))
    restore_random_state(tensors, json.loads(json.dumps(state)), {"dropout": other.generator})
    assert torch.equal(other.keep((999,), 0.3), ahead)


GOOD = DropoutSource(1).as_json()


@pytest.mark.parametrize(
    "state",
    [
        {},
        GOOD | {"words": [1, 2, 3]},
        GOOD | {"words": [1, 2, 3, 2**64]},
        GOOD | {"words": [1, 2, 3, -1]},
        GOOD | {"words": ["a", "b", "c", "d"]},
        GOOD | {"words": None},
        GOOD | {"bit_generator": "PCG64"},
        GOOD | {"uinteger": "x"},
    ],
)
def test_a_state_that_is_none_changes_nothing(state):
    """A broken file is told, and the source stays where it was."""
    source = DropoutSource(1)
    with pytest.raises(InvalidInput, match="no state of a dropout source"):
        source.load(state)
    assert source.as_json() == GOOD


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing(share):
    """0 keeps everything, 1 nothing: zeros, not NaN."""
    x = torch.randn(100).requires_grad_()
    made = dropped(x, share, DropoutSource(0))
    made.sum().backward()
    assert torch.equal(made, x if share == 0 else torch.zeros(100))
    assert torch.equal(x.grad, torch.full((100,), 1 - share))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5,), (2, 3, 5)])
def test_any_shape(shape):
    """Shapes that are no multiple of four, empty ones, and numbers."""
    assert DropoutSource(0).keep(shape, 0.1).shape == shape
    assert dropped(torch.ones(shape), 0.5, DropoutSource(0)).shape == shape


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_zeroed_for_every_width_and_layout(dtype):
    """What is kept keeps its bits, what is not is zero, also NaN and in a transposed tensor."""
    whole = torch.randn(6, 4).to(dtype)
    whole[0, 0] = float("nan")
    x, keep = whole.T, torch.rand(4, 6) < 0.5
    keep[0, 0] = False
    expected = torch.where(keep, x, torch.zeros((), dtype=dtype))
    assert zeroed(x, keep) is x
    assert torch.equal(x.abs(), expected.abs())


def test_the_gradient_meets_the_same_mask():
    """Elements that were zero get none, the others are scaled alike."""
    x = torch.randn(64, 31).requires_grad_()
    made = dropped(x, 0.1, DropoutSource(2))
    made.backward(torch.ones_like(made))
    keep = DropoutSource(2).keep(x.shape, 0.1)
    assert torch.equal(made, torch.where(keep, x * factor(0.1), 0.0))
    assert torch.equal(x.grad, keep * factor(0.1))
    assert x.grad.unique().tolist() == [0.0, pytest.approx(2**16 / (2**16 - 6554))]


def test_gradients_by_finite_differences():
    """Torch's own check, the mask drawn anew from the same seed."""
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dropped(x, 0.4, DropoutSource(2)), (x,))
