"""Rules of `secondpass.inputs`."""

from __future__ import annotations

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.inputs import columns_of


@pytest.mark.parametrize(
    "sentences",
    [
        [("a", "b"), ["c", "d"]],
        (pair for pair in [("a", "b"), ("c", "d")]),
        np.array([["a", "b"], ["c", "d"]]),
        ((" a", "b\n"), ("c\t", "d")),
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
    ],
)
def test_what_is_no_pair_is_named(sentences: object, message: str) -> None:
    """The message gives argument and index."""
    with pytest.raises(InvalidInput, match=message):
        columns_of(sentences)
