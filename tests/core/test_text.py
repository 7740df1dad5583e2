"""Rules of `secondpass.text`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InvalidInput
from secondpass.text import CHARACTERS_PER_TOKEN, checked_documents, checked_query, is_blank, prepared, readable


def test_an_element_that_is_no_str_is_named_with_its_index() -> None:
    """The message tells which document is wrong and what it is."""
    with pytest.raises(InvalidInput, match=r"documents\[1\] is NoneType, not str"):
        checked_documents(["a", None, "b"])


@pytest.mark.parametrize("value", ["text", b"text", None, 3])
def test_what_is_no_sequence_of_str_is_refused(value: object) -> None:
    """A str is not taken apart into characters, and nothing else is guessed."""
    with pytest.raises(InvalidInput, match="documents is"):
        checked_documents(value)  # type: ignore[arg-type]


def test_a_generator_is_read_once() -> None:
    """Any iterable of str will do."""
    assert checked_documents(word for word in ("a", "b")) == ["a", "b"]


@pytest.mark.parametrize("value", ["", " \n\t", "\u00a0", "\u200b", "\ufeff"])
def test_a_blank_query_is_refused(value: str) -> None:
    """There is nothing to rank by."""
    with pytest.raises(InvalidInput, match="query is blank"):
        checked_query(value)


def test_lone_surrogates_become_replacement_characters() -> None:
    """What UTF-8 cannot hold is replaced, what a pair of surrogates means is kept."""
    assert prepared("a\ud800b", 10).value == "a\ufffdb"
    assert prepared("\ud83d\ude00", 10).value == "\U0001f600"


def test_the_ceiling_counts_what_it_skips() -> None:
    """Beyond the ceiling nothing is tokenised, and the number of characters is known."""
    text = prepared("x" * 10_000, 4)
    assert (len(text.value), text.skipped) == (4 * CHARACTERS_PER_TOKEN, 10_000 - 4 * CHARACTERS_PER_TOKEN)


@given(st.text(st.characters(codec=None)))
def test_any_text_can_be_encoded_afterwards(value: str) -> None:
    """Whatever Python can hold in a str comes out as valid UTF-8, valid text unchanged."""
    text = prepared(value, 512).value
    text.encode("utf-8")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return
    assert text == value


NOTHING = (
    "",
    " \t\r\n\u00a0\u2003\u3000",
    "\u200b\u200c\u200d\u2060\ufeff",
    "\u00ad",
    "\x00\x07\x1b\x7f\x85",
    "\ud800",
    "\udfff\ud800",
    "\ufffd",
    "\u0301\ufe0f",
    "\ue000\U0010fffd",
    "\u0378",
    "\u3164\u115f\u2800",
)


@pytest.mark.parametrize("text", [*NOTHING, "".join(NOTHING), "\n" * 100_000])
def test_what_says_nothing_is_blank(text: str) -> None:
    """Whatever it is made of; the model reads it as an empty text."""
    assert is_blank(text)
    assert readable(text) == ""


@pytest.mark.parametrize("visible", ["a", "7", ".", "\u4e2d", "\u0e01", "\u20ac", "\U0001f600", "\u00bf"])
@pytest.mark.parametrize("nothing", NOTHING)
def test_one_visible_character_says_something(visible: str, nothing: str) -> None:
    """Wherever it stands, also far behind."""
    for text in (visible, nothing + visible, visible + nothing, "\u200b" * 1000 + visible + nothing):
        assert not is_blank(text)
        assert readable(text) == text
