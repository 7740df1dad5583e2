"""Lines of files: numbers, ends and refusals."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass.lines import Line, read_lines, stream_lines


def texts(content: bytes) -> list[tuple[int, str]]:
    """Number and text of each line."""
    return [(line.number, line.text) for line in stream_lines(io.BytesIO(content), "here")]


def test_blank_lines_are_skipped_and_counted() -> None:
    """Blank lines are not given, but the lines after them keep their number."""
    assert texts(b"a\n\n \t\r\nb\r\nc") == [(1, "a"), (4, "b"), (5, "c")]


def test_byte_order_mark_is_dropped_once() -> None:
    """A byte order mark is dropped at the start of a file and nowhere else."""
    assert texts("\ufeffa\n\ufeffb".encode()) == [(1, "a"), (2, "\ufeffb")]


def test_inner_white_space_stays() -> None:
    """Leading, trailing and inner white space belongs to the line, its end does not."""
    assert texts(b"  a \t b  \n") == [(1, "  a \t b  ")]


def test_a_broken_stream_is_named() -> None:
    """A stream that fails while it is read is refused with the line it failed at."""

    class Broken(io.BytesIO):
        def readline(self, *_: object) -> bytes:
            if self.tell():
                raise OSError("gone")
            return super().readline()

    with pytest.raises(InvalidInput, match="here:2: cannot be read: gone"):
        list(stream_lines(Broken(b"a\nb\n"), "here"))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    """A directory in a file's place is refused with the system's reason."""
    with pytest.raises(InvalidInput, match="Is a directory"):
        list(read_lines(tmp_path))


@pytest.mark.parametrize("text", ["{", "1" * 5000, "[" * 100_000, "nul"])
def test_json_that_cannot_be_read_is_named(text: str) -> None:
    """Broken JSON, a number with too many digits and too deep nesting are refused with file and line."""
    with pytest.raises(InvalidInput, match=r"^f:3: not JSON"):
        Line("f", 3, text).json()
