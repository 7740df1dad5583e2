"""The log of a run as TensorBoard reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from secondpass.errors import MissingExtra

# What tells where an entry belongs is no curve.
NO_CURVE = ("step", "time")


@contextmanager
def tensorboard_log(folder: Path) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write every number of the log's entries to event files in `folder`, named "kind/value", by step.

    Raises:
        MissingExtra: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra('output.tensorboard needs TensorBoard: pip install "secondpass[tensorboard]"') from None
    writer = cast(Any, SummaryWriter)(str(folder))

    def watch(entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if isinstance(value, (int, float)) and name not in NO_CURVE:
                writer.add_scalar(f"{entry['kind']}/{name}", float(value), entry["step"])

    try:
        yield watch
    finally:
        writer.close()
