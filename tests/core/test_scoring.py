"""Rules of `secondpass.scoring`, on computations that are made to fail."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from secondpass.batches import plan
from secondpass.errors import InvalidInput, NonFiniteScore, OutOfMemory
from secondpass.scoring import FULL_PRECISION, LOCKS, Computation, ForwardLock, Logits, Progress, score
from secondpass.tokens import Tokens

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
        "from secondpass.batches import plan\n"
        "from secondpass.scoring import Computation, Progress, score\n"
        "from secondpass.tokens import Tokens\n"
        "tokens = [Tokens(np.ones(n, np.int32), np.zeros(n, np.int32)) for n in (3, 5)]\n"
        "lengths = lambda inputs: np.array([[len(item)] for item in inputs], np.float32)\n"
        "logits = score(Computation('cpu', 'float32', True, lengths), tokens, plan([3, 5], 5, 1), Progress())\n"
        "print(logits[:, 0].tolist(), 'torch' in sys.modules)\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.split("\n")[0] == "[3.0, 5.0] False"
