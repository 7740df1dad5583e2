"""Answers kept as they come, so that a search that was killed goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from haystack_integrations.common.secondpass.search.answers import Answer

from secondpass.errors import InvalidInput


class PartialFile:
    """OUTPUT.partial: a line with the settings of the search, then a line for each answered query.

    Only one process may write it. A last line that was cut short by the kill is dropped. `continued` says whether an
    earlier search began it, `answered` which queries that one answered.

    Raises:
        InvalidInput: another process writes it, or it was begun with other settings or by another program.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.path = output.with_name(output.name + ".partial")
        self._settings = settings
        try:
            self._file: BinaryIO = self.path.open("a+b")
        except OSError as error:
            raise InvalidInput(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            self._lock()
            self.answered = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PartialFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, answer: Answer, texts: bool) -> None:
        """Add an answer; it is in the file when this returns."""
        self._write(answer.to_json(texts))

    def answers(self) -> Iterator[Answer]:
        """All answers, one at a time, in the order in which they were given."""
        with self.path.open("rb") as stream:
            stream.readline()
            for number, line in enumerate(stream, start=2):
                yield self._answer(number, line)

    def remove(self) -> None:
        """Delete the file: the search is done."""
        self.path.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidInput(f"{self.path}: another search is writing it") from None

    def _read(self) -> set[str]:
        """Ids of the queries that are answered; begins the file if it is new."""
        end = self._last_line_end()
        self.continued = end > 0
        if end == 0:
            self._file.truncate(0)
            self._write(self._settings)
            return set()
        self._file.truncate(end)
        with self.path.open("rb") as stream:
            self._check(stream.readline())
        return {answer.query_id for answer in self.answers()}

    def _last_line_end(self) -> int:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if line.endswith(b"\n"):
                end += len(line)
        return end

    def _check(self, header: bytes) -> None:
        try:
            found = json.loads(header)
        except ValueError:
            found = None
        if found == self._settings:
            return
        keys = sorted(self._settings) if isinstance(found, dict) else []
        other = [key for key in keys if found.get(key) != self._settings[key]]
        what = f"with another {', '.join(other)}" if other else "by something else"
        raise InvalidInput(f"{self.path}: was begun {what}; delete it, or choose another output")

    def _answer(self, number: int, line: bytes) -> Answer:
        try:
            return Answer.from_json(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InvalidInput(f"{self.path}:{number}: not an answer; delete the file to begin again") from None

    def _write(self, value: dict[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=True).encode("ascii") + b"\n")
        self._file.flush()
