"""What can go wrong, as one tree.

SecondPassError
├── InvalidInput      an argument is refused; also a ValueError
│   └── TooLong       texts would be cut where cutting is refused
├── ModelLoadError    a model folder or name cannot be loaded safely; also an OSError
├── NonFiniteScore    a logit is NaN or infinite; also an ArithmeticError
├── OutOfMemory       one pair alone does not fit into memory; also a RuntimeError
├── TrainingError     training cannot go on; also a RuntimeError
├── Overloaded        the queue of a shared model is full; also a RuntimeError
├── DeadlineExceeded  an answer did not come in time; also a TimeoutError
├── CheckpointError   a folder cannot be saved or read back whole; also an OSError
└── MissingExtra      an optional dependency is not installed; also an ImportError
"""

from __future__ import annotations


class SecondPassError(Exception):
    """Every error that secondpass raises on purpose."""


class InvalidInput(SecondPassError, ValueError):
    """An argument is refused; the message names it, with the index where there is one."""


class TooLong(InvalidInput):
    """Pairs do not fit into the window and may not be cut; `indices` are their positions in the input."""

    def __init__(self, message: str, indices: tuple[int, ...]) -> None:
        super().__init__(message)
        self.indices = indices

    def __reduce__(self) -> tuple[type[TooLong], tuple[str, tuple[int, ...]]]:
        """Travel between processes, `indices` included."""
        return type(self), (str(self), self.indices)


class ModelLoadError(SecondPassError, OSError):
    """A model cannot be loaded, or not safely; the message is one line and names the source."""


class NonFiniteScore(SecondPassError, ArithmeticError):
    """The model gave NaN or infinity; `indices` are the positions of those pairs in the input."""

    def __init__(self, message: str, indices: tuple[int, ...]) -> None:
        super().__init__(message)
        self.indices = indices

    def __reduce__(self) -> tuple[type[NonFiniteScore], tuple[str, tuple[int, ...]]]:
        """Travel between processes: an exception's own way would lose `indices` and fail."""
        return type(self), (str(self), self.indices)


class OutOfMemory(SecondPassError, RuntimeError):
    """A single pair does not fit into the device's memory; the message gives its tokens."""


class TrainingError(SecondPassError, RuntimeError):
    """Training stopped because going on would spoil the weights; the message names the step."""


class Overloaded(SecondPassError, RuntimeError):
    """More work is waiting than was allowed; nothing of this call was begun, and it may be repeated later."""


class DeadlineExceeded(SecondPassError, TimeoutError):
    """An answer did not come within the time its caller gave; the message says how long that was."""


class CheckpointError(SecondPassError, OSError):
    """A folder could not be written or read back whole."""


class MissingExtra(SecondPassError, ImportError):
    """An optional dependency is absent; the message says what to install."""
