"""Random numbers: after going back, every generator gives the same ones again."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.checkpoints.checkpoints import Checkpoint, Checkpoints
from secondpass.training.checkpoints.state import random_state, restore_random_state


@pytest.fixture(autouse=True)
def _kept():
    """Leave the global generators to other tests as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


def drawn(own) -> list[object]:
    """A few numbers of every generator, of kinds that leave half-used state behind."""
    made: list[object] = [random.random(), random.gauss(0, 1)]
    made += [np.random.rand(3).tolist(), np.random.normal()]  # noqa: NPY002
    made += [torch.rand(3).tolist(), torch.randn(1).item()]
    for generator in own.values():
        if isinstance(generator, random.Random):
            made += [generator.gauss(0, 1), generator.getrandbits(70)]
        elif isinstance(generator, np.random.Generator):
            # integers of 32 bits keep half a word
            made += [generator.integers(100, dtype=np.int32), generator.random(), generator.normal()]
        else:
            made.append(torch.rand(2, generator=generator).tolist())
    return made


def own_generators(seed: int = 0):
    """One of every kind."""
    kinds = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
    made: dict[str, object] = {kind.__name__: np.random.Generator(kind(seed)) for kind in kinds}
    return made | {"python": random.Random(seed), "torch": torch.Generator().manual_seed(seed)}


def test_every_generator_goes_on_where_it_was(tmp_path):
    """Through the files of a checkpoint, into other generators of the same kinds."""
    own = own_generators()
    drawn(own)
    tensors, state = random_state(own)
    Checkpoints(tmp_path, 1, {}).save(Checkpoint(1, {"random": tensors}, {"random": state}))
    expected = drawn(own)
    drawn(own)
    found = Checkpoints(tmp_path, 1, {}).newest()
    assert found is not None
    others = own_generators(5)
    restore_random_state(found.tensors["random"], found.state["random"], others)
    assert drawn(others) == expected


def test_reading_draws_nothing():
    """The run is not changed by being saved."""
    own = own_generators()
    tensors, state = random_state(own)
    first = drawn(own)
    restore_random_state(tensors, state, own)
    random_state(own)
    assert drawn(own) == first


def test_what_was_read_is_a_copy():
    """Drawing afterwards does not change it."""
    tensors, state = random_state(own_generators())
    before = {name: tensor.clone() for name, tensor in tensors.items()}, json.dumps(state)
    drawn(own_generators())
    assert all(torch.equal(tensors[name], tensor) for name, tensor in before[0].items())
    assert json.dumps(state) == before[1]


def test_global_ones_alone():
    """Without own generators."""
    tensors, state = random_state()
    first = drawn({})
    restore_random_state(tensors, state)
    assert drawn({}) == first


@pytest.mark.parametrize(
    ("here", "words"),
    [
        ({}, r"generators were order, and are none"),
        ({"other": np.random.default_rng(0)}, r"generators were order, and are other"),
        ({"order": np.random.Generator(np.random.MT19937(0))}, r"order was numpy's PCG64, and is numpy's MT19937"),
        ({"order": random.Random(0)}, r"order was numpy's PCG64, and is python's"),
        ({"order": torch.Generator()}, r"order was numpy's PCG64, and is torch's on cpu"),
    ],
)
def test_other_generators_are_refused_and_nothing_is_changed(here, words):
    """By name."""
    tensors, state = random_state({"order": np.random.default_rng(0)})
    drawn({})
    before, before_state = random_state()
    with pytest.raises(CheckpointError, match=words):
        restore_random_state(tensors, state, here)
    after, after_state = random_state()
    assert after_state == before_state
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_broken_state_changes_nothing():
    """All or none: what was put back before the broken part was met is taken back."""
    tensors, state = random_state()
    broken = tensors | {"random.global.torch": torch.zeros(3, dtype=torch.uint8)}
    expected = drawn({})
    restore_random_state(tensors, state)
    with pytest.raises(CheckpointError, match="cannot be put back"):
        restore_random_state(broken, state)
    assert drawn({}) == expected
    with pytest.raises(CheckpointError, match="no state of random numbers"):
        restore_random_state({}, {"a": 1})


def test_other_number_of_cuda_devices_is_told(caplog):
    """A run of two devices goes on with those that are there."""
    tensors, state = random_state()
    state["global"]["cuda"] = [*state["global"]["cuda"], state["global"]["torch"]]
    restore_random_state(tensors, state)
    assert "CUDA devices" in caplog.text


@pytest.mark.parametrize("generator", [None, 3, random.SystemRandom(), np.random.RandomState(0)])
def test_no_generators(generator):
    """By name."""
    with pytest.raises(InvalidInput, match=r"generators\['x'\] is "):
        random_state({"x": generator})
