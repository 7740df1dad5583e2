"""Rules of `secondpass.forwards.contract`."""

from __future__ import annotations

import copy
import itertools
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InvalidInput, NonFiniteScore, OutOfMemory
from secondpass.forwards.contract import (
    FULL_PRECISION,
    LOCKS,
    Computation,
    ForwardLock,
    Logits,
    Progress,
    batch_of,
    plan,
    score,
)
from secondpass.tokens import Tokens


@given(st.lists(st.integers(1, 512), max_size=200), st.integers(1, 4096), st.integers(1, 64))
def test_every_pair_is_in_one_batch_within_both_limits(lengths: list[int], budget: int, pairs: int) -> None:
    """A permutation; only a pair that is longer than the budget by itself may exceed it, alone."""
    batches = plan(lengths, budget, pairs)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) <= pairs
        assert len(rows) == 1 or max(lengths[row] for row in rows) * len(rows) <= budget


@given(st.lists(st.integers(1, 512), max_size=200), st.integers(1, 4096), st.integers(1, 64))
def test_without_padding_the_budget_is_of_real_tokens(lengths: list[int], budget: int, pairs: int) -> None:
    """Batches are as full as they can be: the next pair would not have fitted."""
    batches = plan(lengths, budget, pairs, padded=False)
    assert [row for rows in batches for row in rows] == sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for rows, following in itertools.pairwise([*batches, ()]):
        filled = sum(lengths[row] for row in rows)
        assert len(rows) == 1 or (filled <= budget and len(rows) <= pairs)
        assert not following or len(rows) == pairs or filled + lengths[following[0]] > budget


def test_batches_go_from_long_to_short_and_ties_keep_their_order() -> None:
    """The largest batch comes first, where running out of memory costs least."""
    assert plan([3, 9, 3, 9, 3], 18, 2) == [(1, 3), (0, 2), (4,)]


def _tokens(*ids: int) -> Tokens:
    return Tokens(np.asarray(ids, np.int32), np.asarray([1] * len(ids), np.int32))


def test_a_batch_counts_real_tokens_and_places() -> None:
    """The rows say where in the call its inputs stand."""
    batch = batch_of([_tokens(5, 6), _tokens(7), _tokens(7, 8, 9)], (2, 0))
    assert batch.rows == (2, 0)
    assert [item.ids.tolist() for item in batch.inputs] == [[7, 8, 9], [5, 6]]
    assert (batch.tokens, batch.places) == (5, 6)


Fails = Callable[[Sequence[Tokens]], None]


def nothing(inputs: Sequence[Tokens]) -> None:
    """Let a batch through."""


class LengthForward:
    """A forward whose logit is the number of real tokens; `fails` may raise before it answers."""

    def __init__(self, fails: Fails = nothing, dtype: str = "float32", overflow_at: int = 10**9) -> None:
        self.dtype = dtype
        self.pads = True
        self.calls = 0
        self._fails = fails
        self._overflow_at = overflow_at

    def ready(self) -> Computation:
        full_precision = None if self.dtype in FULL_PRECISION else self.lengths
        return Computation("cpu", self.dtype, self.pads, self.logits, full_precision)

    def lengths(self, inputs: Sequence[Tokens]) -> Logits:
        self.calls += 1
        self._fails(inputs)
        return np.array([[len(item)] for item in inputs], np.float32)

    def logits(self, inputs: Sequence[Tokens]) -> Logits:
        made = self.lengths(inputs)
        return np.where(made >= self._overflow_at, np.float32(np.inf), made)


LENGTHS = [5, 60, 7, 30, 30, 2]
TOKENS = [Tokens(np.ones(n, np.int32), np.zeros(n, np.int32)) for n in LENGTHS]


def _score(forward: LengthForward, progress: Progress | None = None, max_pairs: int = 6) -> list[float]:
    batches = plan(LENGTHS, 10_000, max_pairs)
    return score(forward.ready(), TOKENS, batches, progress or Progress())[:, 0].tolist()


def _fits(tokens: int, error: Callable[[], Exception] = MemoryError) -> Fails:
    def check(inputs: Sequence[Tokens]) -> None:
        if len(inputs) * max(map(len, inputs)) > tokens:
            raise error()

    return check


@pytest.mark.parametrize("max_pairs", [1, 2, 6])
def test_logits_come_back_in_the_callers_order(max_pairs: int) -> None:
    """Batches are sorted by length, results are not."""
    assert _score(LengthForward(), max_pairs=max_pairs) == LENGTHS


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    """Nothing is lost, and the retries are counted."""
    progress = Progress()
    assert _score(LengthForward(_fits(90)), progress) == LENGTHS
    assert progress.retries > 0
    assert progress.batches == progress.retries + 1


def test_a_single_pair_out_of_memory_names_its_tokens() -> None:
    """There is nothing left to halve: the error says which pair and how long it is."""
    with pytest.raises(OutOfMemory, match="pair 1 alone, 60 tokens"):
        _score(LengthForward(_fits(40)))


def test_another_runtime_error_is_not_taken_for_memory() -> None:
    """Only memory errors are retried."""
    forward = LengthForward(_fits(0, lambda: RuntimeError("shape mismatch")))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        _score(forward)
    assert forward.calls == 1


def test_a_logit_that_is_not_finite_is_refused_with_its_index() -> None:
    """Never a NaN in a ranking: the error carries the positions in the input."""
    with pytest.raises(NonFiniteScore, match=r"pairs \[1\]") as caught:
        _score(LengthForward(overflow_at=60))
    assert caught.value.indices == (1,)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_half_precision_overflow_is_repeated_in_float32(dtype: str) -> None:
    """float16 ends at 65504; float32 has room for the same sum."""
    progress = Progress()
    assert _score(LengthForward(dtype=dtype, overflow_at=60), progress) == LENGTHS
    assert progress.retries == 1


def test_a_forward_that_gives_the_wrong_number_of_rows_is_refused() -> None:
    """Counts are checked, never zipped short."""

    class Short(LengthForward):
        def logits(self, inputs: Sequence[Tokens]) -> Logits:
            return super().logits(inputs)[:-1]

    with pytest.raises(InvalidInput, match="logits of shape"):
        _score(Short())


def test_places_count_padding_only_where_it_is_computed() -> None:
    """A record's share of padding is what the forward really read."""
    for pads, places in ((True, 6 * 60), (False, sum(LENGTHS))):
        progress = Progress()
        forward = LengthForward()
        forward.pads = pads
        assert _score(forward, progress) == LENGTHS
        assert progress.places == places


def test_a_lock_that_is_renewed_is_open() -> None:
    """What a forked child does with all of them: the holder is not there."""
    lock = ForwardLock()
    with lock:
        twins = [pickle.loads(pickle.dumps(lock)), copy.copy(lock)]  # noqa: S301
        lock.renew()
        assert not lock.locked()
        assert not any(twin.locked() for twin in twins)
        assert set(twins) <= set(LOCKS)
        with lock:
            assert lock.locked()


def test_a_lock_lets_one_thread_at_a_time_compute() -> None:
    """It is closed while logits are computed, and open after an error too."""
    lock = ForwardLock()
    held: list[bool] = []
    forward = LengthForward(lambda inputs: held.append(lock.locked()))
    assert lock.around(forward.logits)(TOKENS[:1]).tolist() == [[5.0]]
    assert (held, lock.locked()) == ([True], False)
    with pytest.raises(MemoryError):
        lock.around(LengthForward(_fits(1)).logits)(TOKENS)
    assert not lock.locked()


def test_the_contract_does_not_bring_torch() -> None:
    """A forward that needs none starts without it: batches, locks and scores are numpy's."""
    code = (
        "import sys, numpy as np\n"
        "from secondpass.forwards.contract import plan\n"
        "from secondpass.forwards.contract import Computation, Progress, score\n"
        "from secondpass.tokens import Tokens\n"
        "tokens = [Tokens(np.ones(n, np.int32), np.zeros(n, np.int32)) for n in (3, 5)]\n"
        "lengths = lambda inputs: np.array([[len(item)] for item in inputs], np.float32)\n"
        "logits = score(Computation('cpu', 'float32', True, lengths), tokens, plan([3, 5], 5, 1), Progress())\n"
        "print(logits[:, 0].tolist(), 'torch' in sys.modules)\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.split("\n")[0] == "[3.0, 5.0] False"


def test_a_thread_that_waits_leaves_when_its_time_is_up() -> None:
    """Whoever is inside may come in again; a long wait is asked again, and one without a bound comes in at the end."""
    lock, came, gone = ForwardLock(), [], []
    bounds = iter([10.0, 10.0, 0.0, 0.0, 0.0])

    def wait() -> None:
        with lock:
            came.append(lock.locked())

    patient = threading.Thread(target=wait)
    hurried = threading.Thread(target=lambda: gone.append(lock.acquire(lambda: next(bounds))))
    with lock, lock:
        patient.start()
        hurried.start()
        hurried.join(20)
        assert (gone, came, lock.locked()) == ([False], [], True)
    patient.join(20)
    assert (came, lock.locked()) == ([True], False)
    assert lock.acquire(lambda: 0.0)
    lock.release()
