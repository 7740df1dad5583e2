"""best_threshold: every cut that scores allow is tried, and what is chosen is reached."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from secondpass.evaluation.pairs.best_threshold import best_accuracy, best_f1, thresholds

ABOVE_ONE = np.nextafter(np.float32(1), np.float32(2))


def array(*values):
    """Scores as most models give them."""
    return np.array(values, np.float32)


def test_all_cuts():
    """Means of neighbours from the highest on, just below the lowest, and the highest itself."""
    below = float(np.nextafter(np.float32(0.25), np.float32(0)))
    assert thresholds(array(0.25, 1, 0.5, 0.5)).tolist() == [0.75, 0.375, below, 1]


def test_neighbouring_floats_are_parted():
    """Their mean is one of them in float32; the threshold still has one above it and the other not."""
    scores = array(1, ABOVE_ONE)
    assert (scores > thresholds(scores)[0]).tolist() == [False, True]


def test_huge_scores_have_a_mean():
    """The sum of two scores may be infinite, their mean is not."""
    assert thresholds(array(3e38, 2e38))[0] == pytest.approx(2.5e38)


def test_a_threshold_between_equal_scores_is_never_chosen():
    """Two equal scores with different labels: half of them is right, whatever the threshold."""
    scores, labels = array(0.5, 0.5), np.array([1, 0])
    assert accuracy_score(labels, scores > best_accuracy(scores, labels)) == 0.5


@pytest.mark.parametrize(
    ("labels", "threshold"),
    [
        ([1, 0, 0, 0], 0.875),
        ([1, 1, 0, 0], 0.625),
        ([0, 1, 1, 1], float(np.nextafter(np.float32(0.25), np.float32(0)))),  # all 1 is best
        ([0, 0, 0, 0], 1.0),  # no 1 is best
        ([0, 0, 1, 0], 1.0),
    ],
)
def test_most_accurate_threshold(labels, threshold):
    """By hand, for scores 1, 0.75, 0.5, 0.25."""
    assert best_accuracy(array(1, 0.75, 0.5, 0.25), np.array(labels)) == threshold


def test_equally_good_thresholds():
    """The highest that lies between two scores is named, as in the seed."""
    assert best_accuracy(array(1, 0.75, 0.5, 0.25), np.array([1, 0, 1, 0])) == 0.875
    assert best_accuracy(array(0.5, 0.25), np.array([0, 1])) == np.nextafter(np.float32(0.25), np.float32(0))


def test_f1_without_a_positive_label():
    """Each F1 is 0 then, and the threshold stays 0, as in the seed."""
    assert best_f1(array(0.5, 0.25), np.array([0, 0])) == 0.0


LABELLED = st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.1, 0.25, 3.0]), st.integers(0, 1)), min_size=1, max_size=8)


@settings(deadline=None, max_examples=50)
@given(LABELLED)
def test_no_threshold_is_better(rows):
    """Accuracy and F1 at the chosen thresholds are the highest of all that any threshold reaches."""
    scores = array(*(score for score, _ in rows))
    labels = np.array([label for _, label in rows])
    everywhere = [scores > cut for cut in (-2, -1, -0.5, 0, 0.05, 0.1, 0.2, 0.25, 1, 3)]
    found = accuracy_score(labels, scores > best_accuracy(scores, labels))
    assert found == max(accuracy_score(labels, tried) for tried in everywhere)
    balanced = f1_score(labels, scores > best_f1(scores, labels), zero_division=0.0)
    assert balanced == max(f1_score(labels, tried, zero_division=0.0) for tried in everywhere)
