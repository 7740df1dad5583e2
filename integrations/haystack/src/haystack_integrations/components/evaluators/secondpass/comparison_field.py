"""What makes two documents the same one: their id, their content or a meta field, such as the id of their parent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from haystack import Document
from haystack_integrations.common.secondpass import parameters

from secondpass.errors import InvalidInput

Key = str | int
META = "meta."


@dataclass(frozen=True, slots=True)
class ComparisonField:
    """A field of a document that ground truth and ranking have in common: "id", "content" or "meta.<dotted name>"."""

    name: str

    def key(self, document: Document, place: str) -> Key | None:
        """Return the field's value; None where there is none or an empty one. `place` is for the message.

        Raises:
            InvalidInput: the value is neither a str nor a whole number.
        """
        value = self._value(document)
        if value is None or value == "":
            return None
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            return value
        raise InvalidInput(f"{place} has {self.name} {value!r}: {type(value).__name__}, not str or int")

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

        Raises:
            InvalidInput: only some of the documents have a score, a score is no whole number, or a document has no
                value to compare.
        """
        if len({document.score is None for document in documents}) > 1:
            raise InvalidInput(f"{place} has documents with a score and documents without: a score is a grade here")
        grades: dict[Key, int] = {}
        for index, document in enumerate(documents):
            here = f"{place}[{index}]"
            key = self.key(document, here)
            if key is None:
                raise InvalidInput(f"{here} has no {self.name} to compare documents by")
            grade = _grade(document.score, here)
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
    asked = parameters.text(name, value)
    if asked in ("id", "content") or (asked.startswith(META) and all(asked.split("."))):
        return ComparisonField(asked)
    raise InvalidInput(f"{name}={asked!r} is not 'id', 'content' or 'meta.' and the name of a field")


def refuse_mixed(judged: Iterable[Key], ranked: Iterable[Key | None], field: ComparisonField) -> None:
    """Refuse 7 on one side and "7" on the other: they would never be equal, and every value would be 0.

    Raises:
        InvalidInput: whole numbers and strings occur together.
    """
    kinds = {type(key).__name__: key for keys in (judged, ranked) for key in keys if key is not None}
    if len(kinds) > 1:
        found = " and ".join(f"{key!r} ({kind})" for kind, key in sorted(kinds.items()))
        raise InvalidInput(f"{field.name} has values of two types, {found}, which are never equal")


def _grade(score: float | None, place: str) -> int:
    if score is None:
        return 1
    if not isinstance(score, Real) or not float(score).is_integer():
        raise InvalidInput(f"{place} has score {score!r}: a grade is a whole number")
    return int(score)
