"""Rules of `secondpass.text`."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InvalidInput
from secondpass.text import (
    CHARACTERS_PER_TOKEN,
    checked_documents,
    checked_query,
    choice,
    columns_of,
    is_blank,
    positive_int,
    prepared,
    readable,
    whole_number,
)


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
    "\u3164\u115f\u2800",
)


@pytest.mark.parametrize("text", [*NOTHING, "".join(NOTHING), "\n" * 100_000])
def test_what_says_nothing_is_blank(text: str) -> None:
    """Whatever it is made of; the model reads it as an empty text."""
    assert is_blank(text)
    assert readable(text) == ""


@pytest.mark.parametrize(
    "visible", ["a", "7", ".", "\u4e2d", "\u0e01", "\u20ac", "\U0001f600", "\u00bf", "\ue000", "\u0378"]
)
@pytest.mark.parametrize("nothing", NOTHING)
def test_one_visible_character_says_something(visible: str, nothing: str) -> None:
    """Wherever it stands, also far behind."""
    for text in (visible, nothing + visible, visible + nothing, "\u200b" * 1000 + visible + nothing):
        assert not is_blank(text)
        assert readable(text) == text


@pytest.mark.parametrize(
    "sentences",
    [
        [("a", "b"), ["c", "d"]],
        (pair for pair in [("a", "b"), ("c", "d")]),
        np.array([["a", "b"], ["c", "d"]]),
        ((" a", "b\n"), ("c\t", "d")),
        [deque(["a", "b"]), {"query": "c", "document": "d"}.values()],
    ],
)
def test_any_iterable_of_pairs_gives_stripped_columns(sentences: object) -> None:
    """Lists, tuples, generators and arrays of pairs are read once, texts without white space around them."""
    assert columns_of(sentences) == ([["a", "c"], ["b", "d"]], False)


def test_a_first_element_that_is_str_makes_one_pair() -> None:
    """The seed's rule for a single pair."""
    assert columns_of(["a", "b"]) == ([["a"], ["b"]], True)
    assert columns_of(("a",)) == ([["a"]], True)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ("a pair", "sentences is str"),
        (3, "sentences is int"),
        (["a", None], r"sentences\[1\] is NoneType"),
        ([("a", "b"), ("c", 4)], r"sentences\[1\]\[1\] is int"),
        ([("a", "b"), ("c",)], r"sentences\[1\] has 1 texts where sentences\[0\] has 2"),
        ([("a", "b", "c")], r"sentences\[0\] has 3 texts"),
        ([("a", "b"), "cd"], r"sentences\[1\] is str"),
        ([{"query": "a"}], r"sentences\[0\] is dict"),
        ([{"a", "b"}], r"sentences\[0\] is set"),
        ([{"a": 1, "b": 2}.keys()], r"sentences\[0\] is dict_keys"),
        ([b"ab"], r"sentences\[0\] is bytes"),
        ([np.array("ab")], r"sentences\[0\] is ndarray"),
        ([iter("ab")], r"sentences\[0\] is str_"),
    ],
)
def test_what_is_no_pair_is_named(sentences: object, message: str) -> None:
    """The message gives argument and index."""
    with pytest.raises(InvalidInput, match=message):
        columns_of(sentences)


@pytest.mark.parametrize("value", [1, 7, 10**12, np.int64(3), np.uint8(3)])
def test_whole_numbers_above_zero_become_int(value: Any) -> None:
    """Numpy's integers too, as sizes are often read off arrays."""
    number = positive_int(value, "top_k")
    assert type(number) is int
    assert number == value


@pytest.mark.parametrize("value", [0, -1, True, False, np.bool_(1), 1.0, np.float32(2), "3", None, [], np.arange(2)])
def test_anything_else_is_refused_by_name(value: Any) -> None:
    """A bool is a mistake, not a one; a float is not rounded."""
    with pytest.raises(InvalidInput, match=r"^top_k=.* is not a positive int$"):
        positive_int(value, "top_k")


@pytest.mark.parametrize("value", [0, 1, np.int64(3)])
def test_zero_is_a_whole_number(value: Any) -> None:
    """Where none at all makes sense."""
    number = whole_number(value, "overhead")
    assert type(number) is int
    assert number == value


@pytest.mark.parametrize("value", [-1, True, np.bool_(0), 1.0, "3", None])
def test_a_negative_or_broken_number_is_refused_by_name(value: Any) -> None:
    """As for numbers above zero."""
    with pytest.raises(InvalidInput, match=r"^overhead=.* is not a whole number from 0 on$"):
        whole_number(value, "overhead")


def test_a_choice_is_one_of_what_is_listed() -> None:
    """Letter by letter; anything else is refused with the list, values that are no text too."""
    assert choice("b", ("a", "b"), "kind") == "b"
    for value in ("B", "", None, 1, ["a"]):
        with pytest.raises(InvalidInput, match=r"^kind=.* is none of a, b$"):
            choice(value, ("a", "b"), "kind")
