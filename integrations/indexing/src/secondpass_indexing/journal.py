"""What is settled of a corpus, noted as it is settled, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass_indexing.places import Places

CAUSES = {
    "version": "by another version of secondpass",
    "corpus": "with another corpus, or the corpus changed since",
    "index": "with another index, or the index was deleted and made anew since",
    "embedding": "with another embedding",
}


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A document that the index did not take, and why."""

    document: CorpusDocument
    reason: str

    def to_json(self) -> dict[str, str]:
        """A line that `secondpass.corpora` reads as the document again."""
        found = self.document
        return {"_id": found.id, "title": found.title, "text": found.text, "reason": self.reason}


class Journal:
    """A line with what the run is about, then a line for each piece of work that is settled.

    A line holds the range of places and the dead letters among them, so that a document is noted as refused if and
    only if it is noted as settled. Only one process may write it; a last line that a kill cut short is dropped.

    Raises:
        InvalidInput: another process writes it, or it was begun with another corpus, index or embedding.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self._about = {"version": "1", **about}
        self.done = Places()
        self.dead: set[str] = set()
        try:
            self._file: BinaryIO = path.open("a+b")
        except OSError as error:
            raise InvalidInput(f"{path}: cannot be written: {error.strerror}") from None
        try:
            self._lock()
            self.continued = self._read()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def settle(self, start: int, end: int, dead: Sequence[DeadLetter] = ()) -> None:
        """Note that the places `start` to `end` - 1 are settled; the line is in the file when this returns."""
        self.done.add(start, end)
        self.dead.update(letter.document.id for letter in dead)
        self._write({"from": start, "to": end, **({"dead": [letter.to_json() for letter in dead]} if dead else {})})

    def dead_letters(self) -> Iterator[dict[str, str]]:
        """The dead letters of all runs that wrote here, as JSON objects, each id once."""
        given: set[str] = set()
        for line in self._lines():
            for letter in line.get("dead", ()):
                if letter["_id"] not in given:
                    given.add(letter["_id"])
                    yield letter

    def remove(self) -> None:
        """Delete the file: all is done."""
        self.path.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidInput(f"{self.path}: another run is indexing with it") from None

    def _read(self) -> bool:
        """Take over what is noted; returns False if the file is new."""
        self._file.seek(0)
        end = sum(len(line) for line in self._file if line.endswith(b"\n"))
        self._file.truncate(end)
        if end == 0:
            self._write(self._about)
            return False
        with self.path.open("rb") as stream:
            self._check(stream.readline())
        for line in self._lines():
            self.done.add(line["from"], line["to"])
            self.dead.update(letter["_id"] for letter in line.get("dead", ()))
        return True

    def _check(self, header: bytes) -> None:
        try:
            found = json.loads(header)
        except ValueError:
            found = None
        if found == self._about:
            return
        if not isinstance(found, dict) or found.keys() != self._about.keys():
            raise InvalidInput(f"{self.path}: is no journal of an indexing run; choose another place for it")
        causes = " and ".join(CAUSES[key] for key in self._about if found[key] != self._about[key])
        raise InvalidInput(f"{self.path}: was begun {causes}; delete it to begin again")

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self.path.open("rb") as stream:
            stream.readline()
            for number, raw in enumerate(stream, start=2):
                yield self._line(number, raw)

    def _line(self, number: int, raw: bytes) -> dict[str, Any]:
        try:
            line: dict[str, Any] = json.loads(raw)
            known = type(line["from"]) is int and type(line["to"]) is int
            whole = all({"_id", "text", "reason"} <= letter.keys() for letter in line.get("dead", ()))
        except (ValueError, KeyError, TypeError, AttributeError):
            known = whole = False
        if not (known and whole):
            raise InvalidInput(f"{self.path}:{number}: not a line of a journal; delete the file to begin again")
        return line

    def _write(self, value: Mapping[str, Any]) -> None:
        # JSON's escapes keep lone surrogates of a refused document.
        self._file.write(json.dumps(value, ensure_ascii=True).encode("ascii") + b"\n")
        self._file.flush()
