"""Nested states: taken apart into tensors and JSON, and put together again with equal types and values."""

from __future__ import annotations

import json
import math
from types import MappingProxyType

import numpy as np
import pytest
import torch

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.checkpoints.state import flattened, restored


def through_json(value):
    """Flatten, write as JSON text, restore."""
    tensors, state = flattened(value, "x")
    return restored(tensors, json.loads(json.dumps(state)))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        2**130,
        -0.0,
        "text",
        [],
        {},
        (),
        (1, (2,), [3]),
        {"a": {"b": [1, None]}},
        {0: "a", 1: {2: ()}},
        {"$tensor": 1},
        {"$tuple": [1], "b": 2},
        {"$pairs": []},
        [{"$x": {"$y": (1,)}}],
        {1: "int", "1": "text"},
    ],
    ids=repr,
)
def test_plain_values(value):
    """Types too: tuples stay tuples, int keys ints, and what looks like our own marks is taken as it is."""
    found = through_json(value)
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_not_a_number():
    """NaN and infinities are values."""
    found = through_json({"a": float("nan"), "b": float("-inf")})
    assert math.isnan(found["a"])
    assert found["b"] == float("-inf")


def test_tensors_and_arrays():
    """They are named by their places, and one place never hides another."""
    value = {
        "state": {0: {"exp_avg": torch.ones(2)}, "0": {"exp_avg": torch.zeros(3)}},
        "words": np.arange(3, dtype=np.uint32)[::-1],
        "key": (np.array(7, np.uint64), torch.tensor(2.0, dtype=torch.bfloat16)),
    }
    tensors, state = flattened(value, "x")
    assert sorted(tensors) == ["x.key.0", "x.key.1", "x.state.0.exp_avg", "x.state.0.exp_avg#2", "x.words"]
    found = restored(tensors, json.loads(json.dumps(state)))
    assert torch.equal(found["state"][0]["exp_avg"], torch.ones(2))
    assert torch.equal(found["state"]["0"]["exp_avg"], torch.zeros(3))
    assert found["words"].dtype == np.uint32
    assert found["words"].tolist() == [2, 1, 0]
    assert found["key"][0].dtype == np.uint64
    assert found["key"][1].dtype == torch.bfloat16


def test_tensors_are_not_copied_and_arrays_are():
    """An optimizer's state is large; an array of numpy's may change under us."""
    tensor, array = torch.ones(2), np.ones(2)
    tensors, state = flattened({"t": tensor, "a": array}, "x")
    array[0] = 5
    assert tensors["x.t"].data_ptr() == tensor.data_ptr()
    assert restored(tensors, state)["a"].tolist() == [1.0, 1.0]


def test_numpy_numbers_and_other_mappings():
    """They come back as plain ones."""
    found = through_json({"a": np.float64(0.1), "b": np.int32(4), "c": MappingProxyType({"d": np.bool_(True)})})
    assert found == {"a": 0.1, "b": 4, "c": {"d": True}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [1, {"b": object()}]}, r"^optimizer\.a\.1\.b is object"),
        ({"f": len}, r"^optimizer\.f is builtin_function_or_method"),
        ({(1, 2): 3}, r"^optimizer has the key \(1, 2\)"),
        ({True: 3}, r"^optimizer has the key True"),
        ({"a": np.array(["x"])}, r"^optimizer\.a is an array of <U1"),
        ({"a": {1, 2}}, r"^optimizer\.a is set"),
        ({"a": 1j}, r"^optimizer\.a is complex"),
    ],
)
def test_refused(value, words):
    """What would not come back is refused by its place."""
    with pytest.raises(InvalidInput, match=words):
        flattened(value, "optimizer")


def test_missing_tensor():
    """The name of it is told."""
    _, state = flattened({"a": torch.ones(1)}, "x")
    with pytest.raises(CheckpointError, match=r"no tensor x\.a"):
        restored({}, state)
