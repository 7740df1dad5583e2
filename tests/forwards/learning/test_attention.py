"""Attention of one sequence after the other equals torch's, and its gradients are right."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from secondpass.errors import InvalidInput
from secondpass.forwards.learning.attention import (
    Chunk,
    DropoutSource,
    Dropping,
    attend,
    dropped,
    factor,
    levels_dropped,
    zeroed,
)
from secondpass.training.checkpoints.state import random_state, restore_random_state

# The first two of one length, so that a chunk with and one without padding can be made.
LENGTHS = (5, 5, 4, 1)
TOKENS = sum(LENGTHS)
HEADS, SIZE = 2, 4


def parts(dtype=torch.float64, queries=TOKENS):
    """Random query, key and value that want gradients."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(rows, HEADS, SIZE, generator=generator) for rows in (queries, TOKENS, TOKENS)]
    return [part.to(dtype).requires_grad_() for part in made]


def places():
    """Rows of each sequence."""
    starts = [sum(LENGTHS[:row]) for row in range(len(LENGTHS))]
    return [slice(start, start + length) for start, length in zip(starts, LENGTHS, strict=True)]


def chunk(sequences, first_only=False, mask=None):
    """Sequences of these numbers, neighbours, as one chunk."""
    own = places()[sequences]
    lengths = np.array(LENGTHS[sequences])
    keys = slice(own[0].start, own[-1].stop)
    longest = int(lengths.max())
    real = np.arange(longest) < lengths[:, None]
    padded = None if real.all() else torch.from_numpy(np.flatnonzero(real))
    if padded is not None and mask is None:
        mask = torch.from_numpy(real)[:, None, None]
    queries, asking = (sequences, 1) if first_only else (keys, longest)
    return Chunk(len(own), queries, keys, (asking, longest), None if first_only else padded, padded, mask)


ALONE = [slice(row, row + 1) for row in range(4)]
LAYOUTS = {
    "alone": ALONE,
    "equal": [slice(0, 2), slice(2, 3), slice(3, 4)],
    "padded": [slice(0, 1), slice(1, 4)],
    "all": [slice(0, 4)],
}


def torchs(query, key, value, scale, first_only=False):
    """torch's own attention, a sequence at a time."""
    made = []
    for row, place in enumerate(places()):
        asking = slice(row, row + 1) if first_only else place
        q, k, v = (part.transpose(0, 1)[None] for part in (query[asking], key[place], value[place]))
        made.append(F.scaled_dot_product_attention(q, k, v, scale=scale)[0].transpose(0, 1))
    return torch.cat(made)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first_only", [False, True])
def test_equals_torchs(dtype, layout, first_only):
    """Values and all gradients, for whole sequences and for first tokens asking, however they lie together."""
    query, key, value = parts(dtype, len(LENGTHS) if first_only else TOKENS)
    chunks = [chunk(sequences, first_only) for sequences in LAYOUTS[layout]]
    ours, theirs = attend(query, key, value, chunks, 0.3), torchs(query, key, value, 0.3, first_only)
    assert torch.allclose(ours, theirs, atol=1e-6)
    weights = torch.randn_like(ours)
    for one, two in zip(
        torch.autograd.grad(ours, (query, key, value), weights),
        torch.autograd.grad(theirs, (query, key, value), weights),
        strict=True,
    ):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
@pytest.mark.parametrize("heads", [1, HEADS])
def test_masks(kind, heads):
    """A mask that hides keys from some queries, one for all heads or for each."""
    query, key, value = parts(torch.float32)
    seen = torch.rand(2, heads, 5, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    seen[..., 0] = True
    mask = seen if kind == torch.bool else torch.zeros(seen.shape).masked_fill(~seen, float("-inf"))
    chunks = [chunk(slice(0, 2), mask=mask), *(chunk(own) for own in ALONE[2:])]
    q, k, v = (part[:10].view(2, 5, HEADS, SIZE).transpose(1, 2) for part in (query, key, value))
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(10, HEADS, SIZE)
    ours = attend(query, key, value, chunks, SIZE**-0.5)[:10]
    assert torch.allclose(ours, theirs, atol=1e-6)
    for one, two in zip(
        torch.autograd.grad(ours.square().sum(), (query, key, value)),
        torch.autograd.grad(theirs.square().sum(), (query, key, value)),
        strict=True,
    ):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("share", [None, 0.3])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_by_finite_differences(share, layout):
    """With dropout too, the masks drawn anew from the same seed."""
    chunks = [chunk(sequences) for sequences in LAYOUTS[layout]]

    def again(query, key, value):
        return attend(query, key, value, chunks, 0.5, None if share is None else Dropping(DropoutSource(4), share))

    assert torch.autograd.gradcheck(again, parts())


def test_dropout_drops_probabilities():
    """With identity values the outcome shows the probabilities: masked as drawn, and scaled."""
    size = 16
    query, key = torch.randn(2, size, 1, size).unbind()
    value = torch.eye(size)[:, None]
    chunks = [Chunk(1, slice(0, size), slice(0, size), (size, size))]
    plain = attend(query, key, value, chunks, 0.25)
    ours = attend(query, key, value, chunks, 0.25, Dropping(DropoutSource(4), 0.3))
    keep = DropoutSource(4).keep((1, size, size), 0.3)[0]
    assert torch.allclose(ours[:, 0], torch.where(keep, plain[:, 0] * factor(0.3), 0.0), atol=1e-6)


def test_the_mean_stays():
    """Averaged over many masks, dropout changes nothing."""
    query, key, value = (part.detach() for part in parts(torch.float32))
    chunks = [chunk(sequences) for sequences in LAYOUTS["padded"]]
    source = DropoutSource(1)
    drawn = torch.stack([attend(query, key, value, chunks, 0.5, Dropping(source, 0.2)) for _ in range(4000)])
    deviation = drawn.std(0) / 4000**0.5
    assert bool(((drawn.mean(0) - attend(query, key, value, chunks, 0.5)).abs() <= 5 * deviation + 1e-6).all())


def test_a_row_that_sees_nothing_is_no_nan():
    """Padding that sees nothing, as in local attention, gives finite values and gradients."""
    query, key, value = parts(torch.float32)
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[0, 0, 2] = False
    chunks = [chunk(slice(0, 2), mask=mask), *(chunk(own) for own in ALONE[2:])]
    made = attend(query, key, value, chunks, 0.5)
    grads = torch.autograd.grad(made.sum(), (query, key, value))
    assert all(bool(torch.isfinite(part).all()) for part in (made, *grads))


def test_bfloat16_under_autocast_stays_bfloat16():
    """Close to float64, and the gradients have the type of what they are for."""
    query, key, value = parts(torch.bfloat16)
    exact = [part.detach().double() for part in (query, key, value)]
    chunks = [chunk(sequences) for sequences in LAYOUTS["padded"]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = attend(query, key, value, chunks, 0.5, None)
    made.sum().backward()
    assert made.dtype == query.grad.dtype == torch.bfloat16
    assert torch.allclose(made.double(), attend(*exact, chunks, 0.5), atol=0.05)


def test_only_what_wants_gradients():
    """No gradient is asked for, none is kept: scoring through it works in inference mode."""
    query, key, value = parts(torch.float32)
    chunks = [chunk(sequences) for sequences in LAYOUTS["padded"]]
    with torch.inference_mode():
        assert not attend(query, key, value, chunks, 0.5).requires_grad


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


def test_gradients_by_finite_differences_of_masks():
    """Torch's own check, the mask drawn anew from the same seed."""
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: dropped(x, 0.4, DropoutSource(2)), (x,))
