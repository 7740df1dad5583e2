"""What can go wrong, as one tree under `SecondPassError`; each is an error of Python's own kind as well."""

from __future__ import annotations


class SecondPassError(Exception):
    """Every error that secondpass raises on purpose."""


class InvalidInput(SecondPassError, ValueError):
    """An argument is refused; the message names it, with the index where there is one.

    Mend what the message names; the same call is refused again.
    """


class _OfPairs(SecondPassError):
    """An error that says which pairs cause it, also when it travels between processes."""

    def __init__(self, message: str, indices: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.indices = indices

    def __reduce__(self) -> tuple[type[_OfPairs], tuple[str, tuple[int, ...]]]:
        return type(self), (str(self), self.indices)


class TooLong(_OfPairs, InvalidInput):
    """Pairs do not fit into the window and may not be cut; `indices` are their positions in the input.

    Shorten them, or let them be cut or read in windows: `truncation=`.
    """


class NoTokens(_OfPairs, InvalidInput):
    """The tokenizer makes nothing of pairs with all that is around them, or of their queries where those are asked.

    `indices` are their positions in the input.

    Leave them out.
    """


class ModelLoadError(SecondPassError, OSError):
    """A model cannot be loaded, or not safely; the message is one line and names the source.

    Mend name, folder or rights; weights of other kinds than safetensors are converted first.
    """


class NonFiniteScore(_OfPairs, ArithmeticError):
    """The model gave NaN or infinity; `indices` are the positions of those pairs in the input.

    Compute in float32 (`precision="fp32"`); weights that still do so are damaged.
    """


class OutOfMemory(_OfPairs, RuntimeError):
    """A single pair does not fit into the device's memory; the message gives its tokens, `indices` its position.

    Ask for a shorter window (`max_length=`), a half type, or a smaller model.
    """


class TrainingError(SecondPassError, RuntimeError):
    """Training stopped because going on would spoil the weights; the message names the step.

    Lower the learning rate, or look at the examples that are named; the last checkpoint is good.
    """


class Overloaded(SecondPassError, RuntimeError):
    """More work is waiting than was allowed; nothing of this call was begun, and it may be repeated later.

    Come back later, with fewer at once, or raise the limit that the message names.
    """


class DeadlineExceeded(SecondPassError, TimeoutError):
    """An answer did not come within the time its caller gave; the message says how long that was.

    Give more time, read fewer documents, or set a budget, which gives the order known by then.
    """


class CheckpointError(SecondPassError, OSError):
    """A folder could not be written or read back whole.

    Look at disk and rights; what was written before is whole, and the same command goes on there.
    """


class MissingExtra(SecondPassError, ImportError):
    """An optional dependency is absent; the message says what to install.

    Run the line that it gives.
    """
