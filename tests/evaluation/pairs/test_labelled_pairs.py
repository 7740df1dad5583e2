"""labelled_pairs: what is a pair, what is a label, and what is refused by index."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.pairs.labelled_pairs import binary_labels, checked_pairs, class_labels, gold_scores

TWO = [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("rows", [TWO, [("a", "b"), ("c", "d")], iter(TWO), np.array(TWO)])
def test_pairs_come_in_any_sequence(rows):
    """Lists, tuples, generators and arrays of pairs are the same pairs."""
    assert checked_pairs(rows) == TWO


def test_single_texts_are_rows_too():
    """A model that takes one text can be evaluated."""
    assert checked_pairs([["a"], ["b"]]) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "sentence_pairs is empty"),
        ("ab", "sentence_pairs is str"),
        ({"a": "b"}, "sentence_pairs is dict"),
        (["a", "b"], r"sentence_pairs\[0\] is str"),
        ([["a", "b"], None], r"sentence_pairs\[1\] is NoneType"),
        ([["a", "b", "c"]], r"sentence_pairs\[0\] has 3 texts"),
        ([["a", "b"], ["c"]], r"sentence_pairs\[1\] has 1 texts where sentence_pairs\[0\] has 2"),
        ([["a", "b"], ["c", 7]], r"sentence_pairs\[1\]\[1\] is int, not str"),
    ],
)
def test_what_is_no_pair_is_named(rows, message):
    """No pairs, or a row that is none, is refused with its index."""
    with pytest.raises(InvalidInput, match=message):
        checked_pairs(rows)


@pytest.mark.parametrize(
    "labels", [[1, 0], (1.0, 0.0), [True, False], np.array([1, 0]), [np.float32(1), np.array([0])], iter([1, 0])]
)
def test_labels_come_in_any_sequence(labels):
    """Lists, arrays and numpy's numbers are the same labels, int64."""
    found = binary_labels(labels, TWO)
    assert found.tolist() == [1, 0]
    assert found.dtype == np.int64


@pytest.mark.parametrize("function", [binary_labels, class_labels, gold_scores])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1], r"2 sentence_pairs, but 1 (labels|scores)"),
        ([1, 0, 1], r"2 sentence_pairs, but 3 (labels|scores)"),
        ([1, "0"], r"(labels|scores)\[1\] is str, not a number"),
        ([1, None], r"(labels|scores)\[1\] is NoneType, not a number"),
        ([1, [0, 1]], r"(labels|scores)\[1\] is list, not a number"),
        ([np.array([1, 0]), 1], r"(labels|scores)\[0\] is ndarray, not a number"),
        ([1, math.nan], r"(labels|scores)\[1\] is nan"),
        ("10", r"(labels|scores) is str"),
    ],
)
def test_labels_that_are_none(function, values, message):
    """There is a number for each pair, or the index of what is none is told."""
    with pytest.raises(InvalidInput, match=message):
        function(values, TWO)


@pytest.mark.parametrize("label", [2, -1, 0.5])
def test_binary_labels_are_0_and_1(label):
    """Any other number is refused by its index."""
    with pytest.raises(InvalidInput, match=rf"labels\[1\] is {label}, neither 0 nor 1"):
        binary_labels([0, label], TWO)


@pytest.mark.parametrize("label", [-1, 0.5, math.inf, 2**40])
def test_classes_are_whole_numbers_from_0(label):
    """Any other number is refused by its index."""
    assert class_labels([0, 7], TWO).tolist() == [0, 7]
    with pytest.raises(InvalidInput, match=r"labels\[1\] is .*, not the index of a class"):
        class_labels([0, label], TWO)


def test_scores_are_any_finite_numbers():
    """Negative and large ones too; infinity is refused."""
    assert gold_scores([-1.5, 1e300], TWO).tolist() == [-1.5, 1e300]
    with pytest.raises(InvalidInput, match=r"scores\[0\] is inf, not a finite number"):
        gold_scores([math.inf, 1], TWO)
