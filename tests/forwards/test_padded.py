"""Rules of `secondpass.forwards.padded`: rectangles, and transformers' own forward on them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from secondpass import CrossEncoder
from secondpass.forwards.contract import LOCKS, Padding
from secondpass.forwards.padded import TransformersForward, as_numpy, dtype_name, pad
from secondpass.tokens import Tokens


def _tokens(*ids: int) -> Tokens:
    return Tokens(np.asarray(ids, np.int32), np.asarray([1] * len(ids), np.int32))


def test_padding_fills_the_right_side() -> None:
    """Ids, mask and segments end in padding."""
    batch = pad([_tokens(7, 8, 9), _tokens(5, 6)], Padding(0))
    assert batch.input_ids.tolist() == [[7, 8, 9], [5, 6, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.token_type_ids.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_padding_on_the_left_is_kept_for_models_that_want_it() -> None:
    """A tokenizer that pads on the left gets its padding there."""
    batch = pad([_tokens(5, 6), _tokens(7, 8, 9)], Padding(3, 2, left=True))
    assert batch.input_ids.tolist() == [[3, 5, 6], [7, 8, 9]]
    assert batch.token_type_ids.tolist() == [[2, 1, 1], [1, 1, 1]]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_training_gets_all_inputs_in_one_rectangle(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """In the given order, equal ones too, padded as transformers pads, cut to the window."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu", max_length=32)
    documents = ["cat", "mat " * 60, "cat"]
    batch = encoder.collate([["dog", document] for document in documents])
    expected = encoder.tokenizer(
        ["dog"] * 3, documents, truncation="longest_first", max_length=32, padding=True, return_tensors="pt"
    )
    assert set(batch) == set(expected)
    for name, tensor in batch.items():
        assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
    ids=str,
)
def test_every_kind_of_memory_error_is_one(error: Exception) -> None:
    """What the stages know how to halve."""

    def fails() -> torch.Tensor:
        raise error

    with pytest.raises(MemoryError):
        as_numpy(fails, torch.device("cpu"))


def test_another_error_is_not_taken_for_memory() -> None:
    """It stays what it is."""

    def fails() -> torch.Tensor:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        as_numpy(fails, torch.device("cpu"))


def test_numpy_reads_the_memory_that_torch_wrote() -> None:
    """Nothing is copied where float32 lies on the CPU already."""
    tensor = torch.tensor([[1.0], [2.0]])
    assert as_numpy(lambda: tensor, tensor.device).ctypes.data == tensor.data_ptr()
    half = as_numpy(tensor.half, tensor.device)
    assert (half.dtype, half.tolist()) == (np.float32, [[1.0], [2.0]])


def test_types_are_called_as_numpy_and_records_call_them() -> None:
    """bfloat16 is among them, which numpy lacks."""
    assert [dtype_name(kind) for kind in (torch.float32, torch.bfloat16)] == ["float32", "bfloat16"]


def _transformers(encoder: CrossEncoder, autocast: torch.dtype | None = None) -> TransformersForward:
    return TransformersForward(encoder.model, encoder.tokenizer.model_input_names, encoder.padding, autocast)


def test_autocast_computes_in_the_other_type_and_leaves_the_weights(own_tiny: CrossEncoder) -> None:
    """Rounded a little, float32 as a result; the repetition in full precision is exact."""
    inputs = own_tiny.tokens(["cat", "cat"], ["dog mat", "mat"])
    exact, rounded = _transformers(own_tiny).ready(), _transformers(own_tiny, torch.bfloat16).ready()
    assert (rounded.dtype, exact.dtype, own_tiny.model.dtype) == ("bfloat16", "float32", torch.float32)
    assert (rounded.device, rounded.pads) == ("cpu", True)
    made = rounded.logits(inputs)
    assert made.dtype == np.float32
    assert 0 < np.abs(made - exact.logits(inputs)).max() < 0.1
    assert rounded.full_precision is not None
    assert np.array_equal(rounded.full_precision(inputs), exact.logits(inputs))


def test_nothing_is_more_exact_than_float32(own_tiny: CrossEncoder) -> None:
    """A batch of float32 that is not finite is not computed twice."""
    assert _transformers(own_tiny).ready().full_precision is None


def test_float32_retry_of_a_real_model_leaves_it_in_half_precision(own_tiny: CrossEncoder) -> None:
    """The weights go up to float32 for one batch and come back bit for bit."""
    own_tiny.model.half()
    before = copy.deepcopy(own_tiny.model.state_dict())
    forward = _transformers(own_tiny)
    inputs = own_tiny.tokens(["cat"], ["dog mat"])
    full_precision = forward.ready().full_precision
    assert full_precision is not None
    upcast = full_precision(inputs)
    assert forward.ready().dtype == "float16"
    assert all(torch.equal(before[name], tensor) for name, tensor in own_tiny.model.state_dict().items())
    own_tiny.model.float()
    assert np.array_equal(upcast, forward.ready().logits(inputs))


def test_a_copied_forward_has_its_own_lock(own_tiny: CrossEncoder) -> None:
    """deepcopy works, and the copy does not wait for the original."""
    forward = _transformers(own_tiny)
    with forward._lock:
        twin = copy.deepcopy(forward)
        assert not twin._lock.locked()
        assert forward._lock.locked()
    assert twin._lock in LOCKS
