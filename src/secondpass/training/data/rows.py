"""One row of a table to one group: texts, labels and ids where the layout says they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass.text import is_blank
from secondpass.training.data.columns import Layout
from secondpass.training.data.groups import Group, Teaching

POSITIVE_LABEL, NEGATIVE_LABEL = 1.0, 0.0
TEXT_KEYS = ("text", "contents", "content")
ID_KEYS = ("_id", "id", "docid", "doc_id", "document_id", "passage_id", "pid")


@dataclass(frozen=True, slots=True)
class Row:
    """What stands in each column. `textual`: the table can hold nothing but texts, so "1" is a number."""

    source: str
    values: Mapping[str, Any]
    textual: bool = False

    def refuse(self, column: str, reason: str) -> InvalidInput:
        """The error for this row, to be raised."""
        return InvalidInput(f"{self.source}: column {column!r} {reason}")


@dataclass(frozen=True, slots=True)
class _Document:
    text: str
    id: str = ""


def group_of(row: Row, layout: Layout) -> Group:
    """The group of one row.

    A document is a str, an object with "text" and perhaps "title" (joined by a space, as BEIR joins them) and an id,
    or a Haystack Document. Positives have label 1 and negatives 0, if no column gives labels.

    Raises:
        InvalidInput: a value has another type, there is no document, or there are not as many labels or ids as
            documents; the message begins with the row's source and names the column.
    """
    if layout.document is not None:
        documents, single = _documents(row, layout.document)
        labels: list[float] = []
    else:
        positives, negatives = _gathered(row, layout.positives), _gathered(row, layout.negatives)
        documents, single = positives + negatives, False
        labels = [POSITIVE_LABEL] * len(positives) + [NEGATIVE_LABEL] * len(negatives)
    if not documents:
        raise InvalidInput(f"{row.source}: no document")
    if layout.label is not None:
        labels = _labels(row, layout.label, len(documents), single)
    ids = tuple(document.id for document in documents)
    if layout.document_id is not None:
        ids = _ids(row, layout.document_id, len(documents), single)
    return Group(
        _text(row, layout.query),
        tuple(document.text for document in documents),
        tuple(labels),
        row.source,
        "" if layout.query_id is None else _id(row, layout.query_id, row.values[layout.query_id]),
        ids if any(ids) else (),
        None if layout.teaching is None else _teaching(row, layout.teaching, len(documents)),
    )


def _teaching(row: Row, column: str, documents: int) -> Teaching | None:
    value = row.values[column]
    if value is None:
        return None
    known = {"scores", "weight", "label_weight"}
    if not isinstance(value, Mapping) or "scores" not in value or not value.keys() <= known:
        raise row.refuse(column, f"is {_named(value)}, not an object of scores and perhaps weight and label_weight")
    inner = Row(f"{row.source}: column {column!r}", value)
    scores = tuple(_labels(inner, "scores", documents, single=False))
    return Teaching(scores, *(_number(inner, name, value.get(name, 1.0)) for name in ("weight", "label_weight")))


def _text(row: Row, column: str) -> str:
    value = _plain(row.values[column])
    if not isinstance(value, str):
        raise row.refuse(column, f"is {_named(value)}, not a text")
    return value


def _documents(row: Row, column: str) -> tuple[list[_Document], bool]:
    """The documents in a column, and whether it holds one rather than a list."""
    value = _plain(row.values[column])
    if not isinstance(value, (list, tuple)):
        return [_document(row, column, value, "")], True
    return [_document(row, column, item, f"[{index}]") for index, item in enumerate(value)], False


def _gathered(row: Row, columns: tuple[str, ...]) -> list[_Document]:
    """The documents of several columns; of numbered ones some may be empty, for rows that have fewer."""
    filled = [name for name in columns if len(columns) == 1 or not _is_absent(row.values[name])]
    return [document for name in filled for document in _documents(row, name)[0]]


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and is_blank(value))


def _document(row: Row, column: str, value: Any, place: str) -> _Document:
    if isinstance(value, str):
        return _Document(value)
    if isinstance(value, Mapping):
        text = next((value[key] for key in TEXT_KEYS if key in value), None)
        title = value.get("title")
        name = next((value[key] for key in ID_KEYS if key in value), None)
    else:
        text, title, name = getattr(value, "content", None), None, getattr(value, "id", None)
    if not isinstance(text, str) or not isinstance(title, str | None):
        raise row.refuse(column + place, f"is {_named(value)}, not a text, nor an object that has one")
    return _Document(CorpusDocument("", title, text).content if title else text, _id(row, column + place, name))


def _labels(row: Row, column: str, documents: int, single: bool) -> list[float]:
    return [_number(row, column, value) for value in _one_each(row, column, documents, single, "number")]


def _ids(row: Row, column: str, documents: int, single: bool) -> tuple[str, ...]:
    return tuple(_id(row, column, value) for value in _one_each(row, column, documents, single, "id"))


def _one_each(row: Row, column: str, documents: int, single: bool, what: str) -> list[Any]:
    """The values of a column that go with the documents: one for a single document, else a list as long."""
    value = _plain(row.values[column])
    if single and not isinstance(value, (list, tuple)):
        return [value]
    if isinstance(value, (list, tuple)) and len(value) == documents:
        return [_plain(item) for item in value]
    given = f"has {len(value)} values" if isinstance(value, (list, tuple)) else f"is {_named(value)}"
    wanted = f"{documents} documents need a list of {documents} {what}s" if not single else f"not one {what}"
    hint = f"; to leave it out: columns={{{'label' if what == 'number' else 'document_id'!r}: None}}"
    raise row.refuse(column, f"{given}, where {wanted}{hint}")


def _number(row: Row, column: str, value: Any) -> float:
    # float() would read "1_000" and full-width digits, which nobody means in a table.
    readable = isinstance(value, str) and row.textual and value.isascii() and "_" not in value
    if readable or isinstance(value, (int, float, Decimal)):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    raise row.refuse(column, f"is {_named(value)}, not a number")


def _id(row: Row, column: str, value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise row.refuse(column, f"has the id {_named(value)}, neither a text nor a whole number")


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy, torch and pandas as Python's."""
    convert = getattr(value, "tolist", None)
    return convert() if callable(convert) else value


def _named(value: Any) -> str:
    shown = repr(value)
    if value is None or isinstance(value, (str, int, float, Decimal)):
        return shown if len(shown) <= 60 else f"{shown[:59]}…"
    return type(value).__name__
