"""A forward whose logits tell what was read, and which fails as a test wants it: in this process and in workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from secondpass.errors import InvalidInput
from secondpass.forwards.contract import Computation, Compute, Logits
from secondpass.tokens import Tokens

KILLS, NO_MEMORY, WRONG, SLOW, STRANGE = 7, 8, 9, 10, 11


class OfItsOwnKindError(Exception):
    """One that cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def computed(factor: float, folder: str, inputs: Sequence[Tokens]) -> Logits:
    """`factor` times the sum of each input's ids; the process leaves its number in `folder`."""
    first = int(inputs[0].ids[0])
    Path(folder, str(os.getpid())).touch()
    if first == KILLS:
        os._exit(3)
    if first == NO_MEMORY and len(inputs) > 1:
        raise MemoryError
    if first == WRONG:
        raise InvalidInput("input 0 is wrong")
    if first == STRANGE:
        raise OfItsOwnKindError("strange ", "error")
    if first == SLOW:
        time.sleep(60)
    return np.array([[factor * item.ids.sum()] for item in inputs], np.float32)


def there(factor: float, folder: str, device: str) -> Compute:
    """The same in a worker; it is not loaded while the folder has a file "broken", nor by the first with "narrow"."""
    if Path(folder, "narrow").exists():
        with suppress(FileExistsError):
            Path(folder, "taken").touch(exist_ok=False)
            raise RuntimeError("no memory for the first")
        time.sleep(1)
    if Path(folder, "broken").exists():
        raise RuntimeError("no memory for it")
    return partial(computed, factor, folder)


class PortableSum:
    """The forward; `factor` may be changed."""

    def __init__(self, folder: Path, factor: float = 1.0) -> None:
        self.folder = str(folder)
        self.use(factor)

    def use(self, factor: float) -> None:
        """Be another model from now on."""
        self._factor = factor
        self._own = Computation("cpu", "float32", False, partial(computed, factor, self.folder))

    def ready(self) -> Computation:
        return self._own

    def elsewhere(self, own: Computation) -> Callable[[str], Compute]:
        return partial(there, self._factor, self.folder)


def inputs_of(*ids: int) -> list[Tokens]:
    """Inputs of these first ids, each with a second that is its place."""
    return [
        Tokens(np.array([number, place], np.int32), np.zeros(2, np.int32))
        for place, number in enumerate(ids, start=100)
    ]
