"""Rules of `secondpass.sentences`."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InvalidInput
from secondpass.sentences import sentences


def split(text: str, longest: int = 1000) -> list[str]:
    """Give the texts of the sentences."""
    return [text[span.start : span.end] for span in sentences(text, longest)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith paid $3.50 to Mrs. Jones. He left.", ["Dr. Smith paid $3.50 to Mrs. Jones.", "He left."]),
        ("J. R. Hartley wrote it. See Fig. 3 and No. 7.", ["J. R. Hartley wrote it.", "See Fig. 3 and No. 7."]),
        ("The U.S. Army came. It left at 5 p.m. sharp.", ["The U.S. Army came.", "It left at 5 p.m. sharp."]),
        ('"Really?" she asked. "Yes."', ['"Really?" she asked.', '"Yes."']),
        ("He wrote... many books. Done.", ["He wrote... many books.", "Done."]),
        ("A title\n\nThe text begins.", ["A title", "The text begins."]),
        ("Steps:\n1. Open it.\n2. Click.\n- a\n- b", ["Steps:", "1. Open it.", "2. Click.", "- a", "- b"]),
        ("今日は。明日も！「はい。」と言う。", ["今日は。", "明日も！", "「はい。」", "と言う。"]),
        ("no full stop\nand a line break", ["no full stop\nand a line break"]),
    ],
)
def test_where_sentences_end(text: str, expected: list[str]) -> None:
    """Abbreviations, initials, numbers and quotations do not end one; lists, blank lines and CJK marks do."""
    assert split(text) == expected


@pytest.mark.parametrize("text", ["", " \n\t", "\u00a0"])
def test_nothing_visible_is_no_sentence(text: str) -> None:
    """There is nothing to read."""
    assert sentences(text) == []


@given(st.text(alphabet=st.sampled_from("aB1 .!?\n-\u3002\u2019)"), max_size=80), st.integers(1, 20))
def test_every_visible_character_is_in_one_sentence(text: str, longest: int) -> None:
    """In order, once, without white space at the ends, and never longer than asked."""
    spans = sentences(text, longest)
    assert "".join("".join(split(text, longest)).split()) == "".join(text.split())
    assert all(left.end <= right.start for left, right in pairwise(spans))
    assert all(0 < span.end - span.start <= longest for span in spans)
    assert all(part == part.strip() for part in split(text, longest))


def test_running_text_comes_in_pieces_at_white_space() -> None:
    """A log or table without a full stop must not be one sentence of a megabyte."""
    assert split("aaa bbb ccc ddd", 8) == ["aaa bbb", "ccc ddd"]
    assert split("a" * 20, 8) == ["a" * 8, "a" * 8, "a" * 4]


def test_a_length_below_one_is_refused() -> None:
    """It would never end."""
    with pytest.raises(InvalidInput, match="longest=0"):
        sentences("a", 0)
