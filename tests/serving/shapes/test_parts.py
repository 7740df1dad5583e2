"""Parts that several APIs share."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from secondpass.serving.shapes.parts import Answer, Request, TextObject, TextOrObject, indices, meta_of, usage_of

ANSWER = Answer("m", (0.5,), (0.5,), (0.0,), (0,), 7, (), ())


def test_a_text_may_stand_alone_or_in_an_object() -> None:
    """Other fields of the object do not count."""
    either, only_object = TypeAdapter(TextOrObject), TypeAdapter(TextObject)
    assert either.validate_python("a") == either.validate_python({"text": "a", "title": "b"}) == "a"
    assert only_object.validate_python({"text": "a"}) == "a"
    wrong_ones: tuple[object, ...] = (1, None, [], {}, {"text": None}, {"text": 1}, b"a", True)
    for wrong in wrong_ones:
        with pytest.raises(ValidationError, match="neither a string nor an object"):
            either.validate_python(wrong)


def test_unknown_fields_are_named_when_they_have_names() -> None:
    """Null is as good as absent; what is no name could be a text and is only counted."""
    assert Request.model_validate({"priority": None}).unknown() == ()
    assert Request.model_validate({"b": 1, "a": 2}).unknown() == ("unknown fields ignored: a, b",)
    assert Request.model_validate({"a secret sentence": 1}).unknown() == ("unknown fields ignored: 1",)


def test_numbers_are_shortened_for_a_sentence() -> None:
    """Twenty, and how many more."""
    assert indices([1, 2]) == "1, 2"
    assert indices(range(23)).endswith("19 and 3 more")


def test_usage_and_meta() -> None:
    """Tokens, and warnings when there are any."""
    assert usage_of(ANSWER) == {"prompt_tokens": 7, "total_tokens": 7}
    assert meta_of(ANSWER) == {"tokens": {"input_tokens": 7}}
