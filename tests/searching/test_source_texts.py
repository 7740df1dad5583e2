"""Texts of a document's fields."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass_searching.source_texts import joined


def test_fields_are_joined_in_their_order() -> None:
    """Numbers, lists, objects by dots, dotted keys and nothing at all."""
    source = {"a": 1, "b": None, "c": ["x", None, 2.5], "d.e": "dotted", "meta": {"year": 1999, "none": ""}}
    assert joined(source, ("a", "b", "c", "d.e", "meta.year", "meta.none", "f", "a.b")) == "1 x 2.5 dotted 1999"
    assert joined({}, ("a",)) == ""


def test_an_object_is_no_text() -> None:
    """Also inside a list."""
    for value in ({"b": "c"}, ["x", {"b": "c"}]):
        with pytest.raises(InvalidInput, match="the field 'a' holds objects"):
            joined({"a": value}, ("a",))
