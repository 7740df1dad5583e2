"""One model for many threads: loaded once, closed when nobody uses it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack_integrations.common.secondpass.model_lifecycle import SharedModel


class Weights:
    """Something to load; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        """Count the call."""
        self.closed += 1


def test_threads_that_ask_together_get_one_load() -> None:
    """Eight threads behind one barrier see the same object, and the loader runs once."""
    shared: SharedModel[Weights] = SharedModel()
    barrier = threading.Barrier(8)
    loads = []

    def load() -> Weights:
        loads.append(threading.get_ident())
        return Weights()

    def ask(_: int) -> int:
        barrier.wait()
        with shared.lend(load) as weights:
            return id(weights)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1
    assert len(loads) == 1


def test_a_failed_load_is_tried_again() -> None:
    """An exception of the loader reaches the caller and leaves nothing behind."""
    shared: SharedModel[Weights] = SharedModel()

    def fail() -> Weights:
        raise OSError("no such folder")

    with pytest.raises(OSError, match="no such folder"), shared.lend(fail):
        pass
    with shared.lend(Weights) as weights:
        assert weights.closed == 0
    with shared.lend(fail) as same:
        assert same is weights


def test_close_waits_for_the_last_user() -> None:
    """A model in use is closed once, by the call that gives it back last; the next call loads another."""
    shared: SharedModel[Weights] = SharedModel()
    with shared.lend(Weights) as first:
        with shared.lend(Weights) as same:
            assert same is first
            shared.close()
            with shared.lend(Weights) as second:
                assert second is not first
        assert first.closed == 0
    assert first.closed == 1
    assert second.closed == 0
    shared.close()
    assert second.closed == 1


def test_close_without_a_model_does_nothing() -> None:
    """Closing is idempotent."""
    shared: SharedModel[Weights] = SharedModel()
    shared.close()
    with shared.lend(Weights) as weights:
        pass
    shared.close()
    shared.close()
    assert weights.closed == 1


def test_an_error_inside_the_block_gives_the_model_back() -> None:
    """A call that raises does not keep the model open for ever."""
    shared: SharedModel[Weights] = SharedModel()
    with pytest.raises(RuntimeError), shared.lend(Weights) as weights:
        raise RuntimeError
    shared.close()
    assert weights.closed == 1
