"""Ids of queries and documents: str everywhere, and what of them fits into a TREC column."""

from __future__ import annotations

from secondpass.errors import InvalidInput


def string_id(value: object, what: str) -> str:
    """Return an id that is a str.

    Raises:
        InvalidInput: it is anything else: 7 and "7" would silently be two documents.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{what} id {value!r} is {type(value).__name__}, not str")
    if not value:
        raise InvalidInput(f"{what} id is empty")
    return value


def column_of(value: str) -> str:
    """`value` as a column of a TREC file.

    Raises:
        InvalidInput: it is empty or has white space in it.
    """
    if not value or value.split() != [value]:
        raise InvalidInput(f"id {value!r} cannot stand in a TREC run: white space separates its columns")
    return value
