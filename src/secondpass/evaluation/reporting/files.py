"""Where a report goes: a stream, or a file that is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from secondpass.errors import InvalidInput


@contextmanager
def opened(target: Path | TextIO) -> Iterator[TextIO]:
    """Open what a report is written to.

    A file gets its name when the last byte is written: whoever reads it meanwhile, or after a failure, finds the
    former one. Line ends are written as they come, half of a surrogate pair as "?".

    Raises:
        InvalidInput: the folder does not exist or cannot be written to, or the path is a folder.
    """
    if not isinstance(target, Path):
        yield target
        return
    # Through a link, so that the link stays one; a device or a pipe cannot be replaced.
    place = target.resolve()
    if place.is_dir():
        raise InvalidInput(f"{target}: is a folder, not a file")
    replaceable = place.is_file() or not place.exists()
    written = place.with_name(f".{uuid4().hex}.part") if replaceable else place
    try:
        stream = open(written, "w", encoding="utf-8", errors="replace", newline="")
    except OSError as error:
        raise InvalidInput(f"{target}: cannot be written: {error.strerror or error}") from None
    try:
        with stream:
            yield stream
        if replaceable:
            written.replace(place)
    finally:
        if replaceable:
            written.unlink(missing_ok=True)
