"""What makes two documents the same one: their id, their content or a meta field, such as the id of their parent."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from haystack import Document

from secondpass.errors import InvalidInput
from secondpass.text import checked

Key = Hashable
META = "meta."


@dataclass(frozen=True, slots=True)
class ComparisonField:
    """A field of a document that ground truth and ranking have in common: "id", "content" or "meta.<dotted name>"."""

    name: str

    def key(self, document: Document, place: str) -> Key | None:
        """Return the field's value, a list as a tuple; None where there is none or an empty one.

        `place` is for the message.

        Raises:
            InvalidInput: the value is no str or number, nor a list of them.
        """
        value = self._value(document)
        if value is None or value in ("", []):
            return None
        key = _compared(value)
        if key is None:
            kinds = "not str, a number or a list of these"
            raise InvalidInput(f"{place} has {self.name} {value!r}: {type(value).__name__}, {kinds}")
        return key

    def ranking(self, documents: Iterable[Document], place: str) -> list[Key | None]:
        """Keys in order. Of the documents with one key the first place counts; those without one keep theirs."""
        kept: list[Key | None] = []
        seen: set[Key | None] = set()
        for index, document in enumerate(documents):
            key = self.key(document, f"{place}[{index}]")
            if key is None or key not in seen:
                seen.add(key)
                kept.append(key)
        return kept

    def grades(self, documents: Sequence[Document], place: str) -> dict[Key, int]:
        """Grades by key: the documents' scores, 1 where none has one; of equal keys the highest.

        A document without a value to compare is left out: no retrieved document could be it.

        Raises:
            InvalidInput: only some of the documents have a score, or a score is no whole number.
        """
        if len({document.score is None for document in documents}) > 1:
            raise InvalidInput(f"{place} has documents with a score and documents without: a score is a grade here")
        grades: dict[Key, int] = {}
        for index, document in enumerate(documents):
            here = f"{place}[{index}]"
            key = self.key(document, here)
            grade = _grade(document.score, here)
            if key is not None:
                grades[key] = max(grade, grades.get(key, grade))
        return grades

    def _value(self, document: Document) -> object:
        if not self.name.startswith(META):
            return document.id if self.name == "id" else document.content
        value: object = document.meta
        for part in self.name.removeprefix(META).split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value


def comparison_field(name: str, value: object) -> ComparisonField:
    """Return the field that a component's parameter `name` asks for.

    Raises:
        InvalidInput: it is not "id", "content" or "meta." and a name.
    """
    asked = checked(value, name)
    if asked in ("id", "content") or (asked.startswith(META) and all(asked.split("."))):
        return ComparisonField(asked)
    raise InvalidInput(f"{name}={asked!r} is not 'id', 'content' or 'meta.' and the name of a field")


def refuse_mixed(judged: Iterable[Key], ranked: Iterable[Key | None], field: ComparisonField) -> None:
    """Refuse 7 on one side and "7" on the other: they would never be equal, and every value would be 0.

    Raises:
        InvalidInput: numbers and strings occur together, or one side has lists only and the other none.
    """
    named = {str: "str", int: "int", float: "int", tuple: "list"}
    sides = [{named[type(key)]: key for key in keys if key is not None} for keys in (judged, ranked)]
    kinds = sides[0] | sides[1]
    apart = all(sides) and sorted("list" in side for side in sides) == [False, True] and {"list"} in map(set, sides)
    if apart or {"str", "int"} <= kinds.keys():
        found = " and ".join(f"{key!r} ({kind})" for kind, key in sorted(kinds.items()))
        raise InvalidInput(f"{field.name} has values of two types, {found}, which are never equal")


def _compared(value: object) -> Key | None:
    """A str, a number or a list of these as what can be compared; None for anything else."""
    if isinstance(value, (list, tuple)):
        parts = [_compared(part) for part in value]
        return None if None in parts else tuple(parts)
    if isinstance(value, str):
        return str(value)
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        return None
    number: Any = value
    return int(number) if number == number // 1 else float(number)


def _grade(score: float | None, place: str) -> int:
    if score is None:
        return 1
    if not isinstance(score, Real) or not float(score).is_integer():
        what = "in ground truth a score is a grade, a whole number (3 is better than 1, 0 is not relevant)"
        mend = "score=None on all of them makes each relevant; where they are a retriever's scores, grade by rank"
        raise InvalidInput(f"{place} has score {score!r}: {what}. {mend}")
    return int(score)
