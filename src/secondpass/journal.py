"""An append-only file of JSON lines that one process writes, so that work that was killed goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

from secondpass.errors import InvalidInput
from secondpass.system import lock

Record = TypeVar("Record")


class Journal:
    """A line that says what the work is about, then a line for each piece of it that is done.

    The file is locked for as long as it is open, a line is in it when `append` returns, and a last line that a kill
    cut short is dropped. `continued` says whether earlier work began it. JSON's escapes keep lone surrogates.

    Args:
        path: the file; it is begun if it is not there or empty.
        header: the first line; work goes on only where the file has the same.
        busy: what is said, after the path, of a file that another process has open: "another run is writing it".
        refuse: what is said, after the path, of another header. It is given the first line as JSON, None if it is none.

    Raises:
        InvalidInput: the file cannot be written, another process writes it, or it was begun with another header.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], busy: str, refuse: Callable[[Any], str]) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be written: {error.strerror}") from None
        try:
            try:
                lock(self._file.fileno())
            except OSError:
                raise InvalidInput(f"{path}: {busy}") from None
            self.continued = self._begin(header, refuse)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file up; another process may go on with it."""
        self._file.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; it is in the file when this returns."""
        self._file.write(json.dumps(record, ensure_ascii=True).encode("ascii") + b"\n")
        self._file.flush()

    def records(self, read: Callable[[Any], Record], what: str) -> Iterator[Record]:
        """What `read` makes of each line after the header, one at a time, in the order in which they were added.

        Raises:
            InvalidInput: a line is no JSON, or `read` finds that it is not `what` ("an answer") and raises
                ValueError, KeyError, TypeError or AttributeError; the message names the line.
        """
        with self.path.open("rb") as stream:
            stream.readline()
            for number, line in enumerate(stream, start=2):
                try:
                    record = read(json.loads(line))
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise InvalidInput(f"{self.path}:{number}: not {what}; delete the file to begin again") from None
                yield record

    def remove(self) -> None:
        """Delete the file: all is done."""
        self.path.unlink()

    def _begin(self, header: Mapping[str, Any], refuse: Callable[[Any], str]) -> bool:
        """Compare headers and drop what a kill cut short, or write ours; returns whether there was one."""
        self._file.seek(0)
        end = sum(len(line) for line in self._file if line.endswith(b"\n"))
        if end == 0:
            self._file.truncate(0)
            self.append(header)
            return False
        with self.path.open("rb") as stream:
            line = stream.readline()
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if found != header:
            raise InvalidInput(f"{self.path}: {refuse(found)}")
        self._file.truncate(end)
        return True
