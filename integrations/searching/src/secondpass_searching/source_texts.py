"""Texts of a document's fields as the reranker reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from secondpass.errors import InvalidInput


def joined(source: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The texts of the fields in their order, joined by a space; a dotted name looks into objects.

    Raises:
        InvalidInput: a field holds objects.
    """
    texts = (_text(_at(source, field), field) for field in fields)
    return " ".join(text for text in texts if text)


def _at(source: Mapping[str, Any], field: str) -> Any:
    if field in source:
        return source[field]
    first, _, rest = field.partition(".")
    inner = source.get(first)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _text(value: Any, field: str) -> str:
    """A field may hold several values, as every field of both engines may."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(text for text in (_text(part, field) for part in value) if text)
    if isinstance(value, Mapping):
        raise InvalidInput(f"the field {field!r} holds objects, not texts")
    return str(value)
