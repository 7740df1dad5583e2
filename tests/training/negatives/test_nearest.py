"""The best of many scores: exact, ties in order, in blocks of any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.errors import InvalidInput
from secondpass.training.negatives import nearest as module
from secondpass.training.negatives.nearest import best, nearest, unit


def by_sorting(scores: np.ndarray, depth: int) -> list[list[int]]:
    """What `best` is: a sort by score, then by column."""
    return [sorted(range(len(row)), key=lambda column: (-row[column], column))[:depth] for row in scores.tolist()]


@given(st.data())
def test_best_is_a_sort(data):
    """Whatever ties, infinities and depths there are."""
    rows, columns = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 9))
    values = st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 2.0, np.inf])
    scores = np.array(
        data.draw(st.lists(st.lists(values, min_size=columns, max_size=columns), min_size=rows, max_size=rows)),
        np.float32,
    ).reshape(rows, columns)
    depth = data.draw(st.integers(1, 12))
    assert best(scores, depth).tolist() == by_sorting(scores, depth)


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("at_once", [1, 256])
def test_blocks_change_nothing(size, at_once, monkeypatch):
    """The result is that of all scores at once; whole numbers make many exact ties."""
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    queries = rng.integers(-2, 3, (5, 4)).astype(np.float32)
    documents = rng.integers(-2, 3, (50, 4)).astype(np.float32)
    found = nearest(queries, (documents[start : start + size] for start in range(0, 50, size)), 8)
    expected = by_sorting(queries @ documents.T, 8)
    assert found.positions.tolist() == expected
    assert found.scores.tolist() == np.take_along_axis(queries @ documents.T, np.array(expected), 1).tolist()


def test_nothing_to_search():
    """No documents or no queries give empty rows, not an error."""
    queries = np.ones((2, 3), np.float32)
    assert nearest(queries, [], 5).positions.shape == (2, 0)
    assert nearest(queries[:0], [np.ones((4, 3), np.float32)], 5).positions.shape == (0, 0)


def test_unit_vectors():
    """Every vector has length 1, but one of zeros stays."""
    made = unit([[3.0, 4.0], [0.0, 0.0]], 2)
    assert made.dtype == np.float32
    assert made == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([1.0, 2.0], r"shape \[2\] for 2 texts"),
        ([[1.0, 2.0]], r"shape \[1, 2\] for 2 texts"),
        ([[1.0], [2.0]], r"not \[2, 2\]"),
        ([[1.0, 2.0], [float("nan"), 1.0]], "not finite for text 1"),
    ],
)
def test_refused_vectors(vectors, words):
    """An encoder that gives something else is told what it gave."""
    with pytest.raises(InvalidInput, match=words):
        unit(vectors, 2, 2)
