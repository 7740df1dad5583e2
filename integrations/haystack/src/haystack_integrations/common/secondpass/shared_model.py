"""One loaded model for many threads: loaded once, dropped when told to, never under a running call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """Anything with weights to give back."""

    def close(self) -> None:
        """Give them back."""
        ...


ModelT = TypeVar("ModelT", bound=Closable)


@dataclass(slots=True)
class _Held(Generic[ModelT]):
    model: ModelT
    users: int = 0


class SharedModel(Generic[ModelT]):
    """Lends a model to concurrent calls.

    Threads that ask while it is being loaded wait for that one load. A load that fails leaves nothing behind, so
    the next call tries again. `close` does not wait for calls under way: they finish on the model they have, and
    the last one closes it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: _Held[ModelT] | None = None

    @contextmanager
    def lend(self, load: Callable[[], ModelT]) -> Iterator[ModelT]:
        """Give the model to the `with` block; `load` makes it if there is none."""
        with self._lock:
            held = self._held
            if held is None:
                held = self._held = _Held(load())
            held.users += 1
        try:
            yield held.model
        finally:
            with self._lock:
                held.users -= 1
                abandoned = held.users == 0 and held is not self._held
            if abandoned:
                held.model.close()

    def close(self) -> None:
        """Drop the model; without one, do nothing."""
        with self._lock:
            held, self._held = self._held, None
            idle = held is not None and held.users == 0
        if held is not None and idle:
            held.model.close()
