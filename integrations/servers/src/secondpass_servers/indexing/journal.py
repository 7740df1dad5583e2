"""What a run of indexing leaves behind when it is broken, or when documents were refused."""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondpass.corpora import ID_KEYS, REFUSED, TEXT_KEYS, CorpusDocument
from secondpass.errors import InvalidInput
from secondpass.journal import Journal

# Metadata called so cannot stand beside what a dead letter calls so.
KEPT = (*ID_KEYS, "title", *TEXT_KEYS, "reason", REFUSED)
CAUSES = {
    "version": "by another version of secondpass",
    "corpus": "with another corpus, or the corpus changed since",
    "index": "with another index, or the index was deleted and made anew since",
    "embedding": "with another embedding",
}


@dataclass(frozen=True, slots=True)
class RunFiles:
    """`journal` is gone once the run is done; `dead_letters` is there if documents were refused."""

    journal: Path
    dead_letters: Path

    @classmethod
    def of_index(cls, index: str, folder: Path | None = None) -> RunFiles:
        """INDEX.journal and INDEX.dead.jsonl in `folder`, by default the current one."""
        name = re.sub(r"[^\w.-]", "_", index)
        place = folder or Path()
        return cls(place / f"{name}.journal", place / f"{name}.dead.jsonl")


class RangeSet:
    """Whole numbers that are mostly neighbours, held as ranges: the places of a corpus (from 0) that are settled."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add `start` to `end` - 1; those that are in it already stay so."""
        if start >= end:
            return
        # Ranges that touch the new one: all that end at its start or later and start at its end or earlier.
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low < high:
            start, end = min(start, self._starts[low]), max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]

    def __contains__(self, place: int) -> bool:
        at = bisect_right(self._starts, place) - 1
        return at >= 0 and place < self._ends[at]

    def __len__(self) -> int:
        return sum(end - start for start, end in zip(self._starts, self._ends, strict=True))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A document that the index did not take, and why."""

    document: CorpusDocument
    reason: str

    def to_json(self) -> dict[str, Any]:
        """A line that `secondpass.corpora` reads as the document again."""
        found = self.document
        line = {"_id": found.id, "title": found.title, "text": found.text, "reason": self.reason}
        beside = {key: value for key, value in found.meta.items() if key not in KEPT}
        return {**line, **beside, REFUSED: {key: value for key, value in found.meta.items() if key in KEPT}}


class IndexingJournal(Journal):
    """What a run is about, then a line for each chunk that is settled.

    A line holds the range of places and the dead letters among them, so that a document is noted as refused if and
    only if it is noted as settled. `done` and `dead` say what is noted: places, and ids of refused documents.

    Raises:
        InvalidInput: another process writes it, or it was begun with another corpus, index or embedding.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self._about = {"version": "1", **about}
        super().__init__(path, self._about, "another run is indexing with it", self._refusal)
        self.done = RangeSet()
        self.dead: set[str] = set()
        try:
            for line in self._lines():
                self.done.add(line["from"], line["to"])
                self.dead.update(letter["_id"] for letter in line.get("dead", ()))
        except BaseException:
            self.close()
            raise

    def settle(self, start: int, end: int, dead: Sequence[DeadLetter] = ()) -> None:
        """Note that the places `start` to `end` - 1 are settled; the line is in the file when this returns."""
        self.done.add(start, end)
        self.dead.update(letter.document.id for letter in dead)
        self.append({"from": start, "to": end, **({"dead": [letter.to_json() for letter in dead]} if dead else {})})

    def dead_letters(self) -> Iterator[dict[str, Any]]:
        """The dead letters of all runs that wrote here, as JSON objects, each id once."""
        given: set[str] = set()
        for line in self._lines():
            for letter in line.get("dead", ()):
                if letter["_id"] not in given:
                    given.add(letter["_id"])
                    yield letter

    def _refusal(self, found: Any) -> str:
        if not isinstance(found, dict) or found.keys() != self._about.keys():
            return "is no journal of an indexing run; choose another place for it"
        causes = " and ".join(CAUSES[key] for key in self._about if found[key] != self._about[key])
        return f"was begun {causes}; delete it to begin again"

    def _lines(self) -> Iterator[dict[str, Any]]:
        return self.records(_settled, "a line of a journal")


def _settled(line: Any) -> dict[str, Any]:
    """The line if it is one of an indexing journal; else ValueError, KeyError, TypeError or AttributeError."""
    whole = all({"_id", "text", "reason"} <= letter.keys() for letter in line.get("dead", ()))
    if not (whole and type(line["from"]) is int and type(line["to"]) is int):
        raise ValueError("no range of places, or a dead letter that is none")
    return dict(line)


def write_dead_letters(path: Path, letters: Iterable[Mapping[str, Any]]) -> int:
    """Write a line for each letter and return how many; without any, no file is made.

    The file appears under its name only when it is whole.

    Raises:
        InvalidInput: it cannot be written.
    """
    unfinished = path.with_name(path.name + ".writing")
    count = 0
    try:
        with unfinished.open("w", encoding="ascii") as stream:
            for letter in letters:
                stream.write(json.dumps(letter, ensure_ascii=True) + "\n")
                count += 1
        if count:
            os.replace(unfinished, path)
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        unfinished.unlink(missing_ok=True)
    return count


def check_free(path: Path) -> None:
    """Refuse to write over the dead letters of an earlier run.

    Raises:
        InvalidInput: something is there.
    """
    if path.exists():
        raise InvalidInput(
            f"{path}: holds dead letters of an earlier run: move it away (and index it from there), "
            "or give another --files"
        )
