"""Rules of `secondpass.scoring`, on real forwards that are made to fail."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from secondpass import CrossEncoder
from secondpass.batches import Batch, batch_of, plan
from secondpass.errors import InvalidInput, NonFiniteScore, OutOfMemory
from secondpass.scoring import LOCKS, ForwardLock, Progress, TransformersForward, score
from secondpass.tokens import Tokens

Fails = Callable[[Batch], None]


class LengthForward:
    """A forward whose logit is the number of real tokens; `fails` may raise before it answers."""

    device = torch.device("cpu")
    pads = True

    def __init__(self, fails: Fails, dtype: torch.dtype = torch.float32, overflow_at: int = 10**9) -> None:
        self.dtype = dtype
        self.calls = 0
        self._fails = fails
        self._overflow_at = overflow_at

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        self.calls += 1
        self._fails(batch)
        lengths = torch.tensor([len(item) for item in batch.inputs]).float()
        if not full_precision:
            lengths = torch.where(lengths >= self._overflow_at, torch.inf, lengths)
        return lengths[:, None]


LENGTHS = [5, 60, 7, 30, 30, 2]
TOKENS = [Tokens(np.ones(n, np.int32), np.zeros(n, np.int32)) for n in LENGTHS]


def _score(forward: LengthForward, progress: Progress | None = None, max_pairs: int = 6) -> list[float]:
    batches = plan(LENGTHS, 10_000, max_pairs)
    return score(forward, TOKENS, batches, progress or Progress())[:, 0].tolist()


def _fits(tokens: int, error: Callable[[], Exception]) -> Fails:
    def check(batch: Batch) -> None:
        if batch.places > tokens:
            raise error()

    return check


@pytest.mark.parametrize("max_pairs", [1, 2, 6])
def test_logits_come_back_in_the_callers_order(max_pairs: int) -> None:
    """Batches are sorted by length, results are not."""
    assert _score(LengthForward(lambda batch: None), max_pairs=max_pairs) == LENGTHS


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError,
        MemoryError,
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        lambda: RuntimeError("MPS backend out of memory"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(error: Callable[[], Exception]) -> None:
    """Every kind of device's memory error: nothing is lost, and the retries are counted."""
    progress = Progress()
    assert _score(LengthForward(_fits(90, error)), progress) == LENGTHS
    assert progress.retries > 0
    assert progress.batches == progress.retries + 1


def test_a_single_pair_out_of_memory_names_its_tokens() -> None:
    """There is nothing left to halve: the error says which pair and how long it is."""
    with pytest.raises(OutOfMemory, match="pair 1 alone, 60 tokens"):
        _score(LengthForward(_fits(40, torch.OutOfMemoryError)))


def test_another_runtime_error_is_not_taken_for_memory() -> None:
    """Only memory errors are retried."""
    forward = LengthForward(_fits(0, lambda: RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        _score(forward)
    assert forward.calls == 1


def test_a_logit_that_is_not_finite_is_refused_with_its_index() -> None:
    """Never a NaN in a ranking: the error carries the positions in the input."""
    with pytest.raises(NonFiniteScore, match=r"pairs \[1\]") as caught:
        _score(LengthForward(lambda batch: None, overflow_at=60))
    assert caught.value.indices == (1,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_overflow_is_repeated_in_float32(dtype: torch.dtype) -> None:
    """float16 ends at 65504; float32 has room for the same sum."""
    progress = Progress()
    assert _score(LengthForward(lambda batch: None, dtype, overflow_at=60), progress) == LENGTHS
    assert progress.retries == 1


def test_a_forward_that_gives_the_wrong_number_of_rows_is_refused() -> None:
    """Counts are checked, never zipped short."""

    class Short(LengthForward):
        def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
            return super().__call__(batch)[:-1]

    with pytest.raises(InvalidInput, match="logits of shape"):
        _score(Short(lambda batch: None))


def _transformers(encoder: CrossEncoder, autocast: torch.dtype | None = None) -> TransformersForward:
    return TransformersForward(encoder.model, encoder.tokenizer.model_input_names, encoder.padding, autocast)


def test_autocast_computes_in_the_other_type_and_leaves_the_weights(own_tiny: CrossEncoder) -> None:
    """Rounded a little, float32 as a result; the repetition in full precision is exact."""
    batch = batch_of(own_tiny.tokens(["cat", "cat"], ["dog mat", "mat"]), (0, 1))
    exact, rounded = _transformers(own_tiny), _transformers(own_tiny, torch.bfloat16)
    assert (rounded.dtype, own_tiny.model.dtype) == (torch.bfloat16, torch.float32)
    made = rounded(batch)
    assert made.dtype == torch.float32
    assert 0 < (made - exact(batch)).abs().max() < 0.1
    assert torch.equal(rounded(batch, full_precision=True), exact(batch))


def test_places_count_padding_only_where_it_is_computed() -> None:
    """A record's share of padding is what the forward really read."""

    class Packed(LengthForward):
        pads = False

    for kind, places in ((LengthForward, 6 * 60), (Packed, sum(LENGTHS))):
        progress = Progress()
        assert _score(kind(lambda batch: None), progress) == LENGTHS
        assert progress.places == places


def test_float32_retry_of_a_real_model_leaves_it_in_half_precision(own_tiny: CrossEncoder) -> None:
    """The weights go up to float32 for one batch and come back bit for bit."""
    own_tiny.model.half()
    before = copy.deepcopy(own_tiny.model.state_dict())
    forward = _transformers(own_tiny)
    batch = batch_of(own_tiny.tokens(["cat"], ["dog mat"]), (0,))
    upcast = forward(batch, full_precision=True)
    assert forward.dtype == torch.float16
    assert all(torch.equal(before[name], tensor) for name, tensor in own_tiny.model.state_dict().items())
    own_tiny.model.float()
    assert torch.equal(upcast, forward(batch))


def test_a_copied_forward_has_its_own_lock(own_tiny: CrossEncoder) -> None:
    """deepcopy works, and the copy does not wait for the original."""
    forward = _transformers(own_tiny)
    with forward._lock:
        twin = copy.deepcopy(forward)
        assert not twin._lock.locked()
        assert forward._lock.locked()
    assert twin._lock in LOCKS


def test_a_lock_that_is_renewed_is_open() -> None:
    """What a forked child does with all of them: the holder is not there."""
    lock = ForwardLock()
    with lock:
        twin = pickle.loads(pickle.dumps(lock))  # noqa: S301
        lock.renew()
        assert not lock.locked()
        assert not twin.locked()
        with lock:
            assert lock.locked()
