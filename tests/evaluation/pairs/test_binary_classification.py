"""CEBinaryClassificationEvaluator: hand-worked values, ties, one class, its file."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from secondpass.errors import NonFiniteScore
from secondpass.evaluation import CEBinaryClassificationEvaluator
from tests.given_scores import PAIRS, GivenScores

NAMES = ["Accuracy", "Accuracy_Threshold", "F1", "F1_Threshold", "Precision", "Recall", "Average_Precision"]


def figures(labels, scores):
    """All figures in the order of the columns."""
    found = CEBinaryClassificationEvaluator(PAIRS[: len(labels)], labels).measure(GivenScores(scores))
    assert list(found) == NAMES
    assert {type(value) for value in found.values()} == {float}
    return list(found.values())


def below(score):
    """Give the next smaller float32."""
    return float(np.nextafter(np.float32(score), np.float32(-np.inf)))


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        # > 0.8125: 3 of 4 right; > 0.375: 2 of 3 are 1, both found; AP (1/1 + 2/3) / 2
        ([1, 0, 1, 0], [0.875, 0.75, 0.5, 0.25], [0.75, 0.8125, 0.8, 0.375, 2 / 3, 1, 5 / 6]),
        ([1, 1, 0, 0], [0.875, 0.75, 0.5, 0.25], [1, 0.625, 1, 0.625, 1, 1, 1]),
        # all 1 is best, which sentence-transformers never tries: AP (1/2 + 2/3 + 3/4) / 3
        ([0, 1, 1, 1], [0.75, 0.5, 0.25, 0.125], [0.75, below(0.125), 6 / 7, below(0.125), 0.75, 1, 23 / 36]),
        # no 1 is best for accuracy
        ([0, 0, 1, 0], [0.75, 0.5, 0.25, 0.125], [0.75, 0.75, 0.5, 0.1875, 1 / 3, 1, 1 / 3]),
        # equal scores go to one side together: sentence-transformers reports 1.0 at 0.5 here
        ([1, 0], [0.5, 0.5], [0.5, below(0.5), 2 / 3, below(0.5), 0.5, 1, 0.5]),
        ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.25], [0.75, 0.375, 0.8, 0.375, 2 / 3, 1, 2 / 3]),
    ],
)
def test_values(labels, scores, expected):
    """Accuracy and F1 at their best thresholds, and average precision, by hand."""
    assert figures(labels, scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([1, 1], [1, below(0.25), 1, below(0.25), 1, 1, 1]), ([0, 0], [1, 0.5, 0, 0, 0, 0, 0]), ([0], [1, 0.5] + [0] * 5)],
)
def test_one_class_only(labels, expected, caplog):
    """All 1 or all 0 has its values, without any warning but one in the log that they say nothing."""
    assert figures(labels, [0.5, 0.25][: len(labels)]) == pytest.approx(expected)
    assert caplog.messages == [f"all {len(labels)} labels are {labels[0]}: no figure tells a good model"]


def test_file_and_log(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte; the average precision comes back."""
    caplog.set_level(logging.INFO)
    made = CEBinaryClassificationEvaluator(PAIRS[:4], [1, 0, 1, 0], "dev")
    assert made(GivenScores([0.875, 0.75, 0.5, 0.25]), str(tmp_path), 0, 100) == pytest.approx(5 / 6)
    assert (tmp_path / "CEBinaryClassificationEvaluator_dev_results.csv").read_bytes() == (
        b"epoch,steps,Accuracy,Accuracy_Threshold,F1,F1_Threshold,Precision,Recall,Average_Precision\r\n"
        b"0,100,0.75,0.8125,0.8,0.375,0.6666666666666666,1.0,0.8333333333333333\r\n"
    )
    assert caplog.messages == [
        "CEBinaryClassificationEvaluator: Evaluating the model on dev dataset in epoch 0 after 100 steps:",
        "Accuracy:           75.00\t(Threshold: 0.8125)",
        "F1:                 80.00\t(Threshold: 0.3750)",
        "Precision:          66.67",
        "Recall:             100.00",
        "Average Precision:  83.33\n",
    ]


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, True), (logging.WARNING, False)])
def test_progress_bar(level, shown, caplog):
    """None shows it when the module logs at INFO; else it is as it was asked for."""
    caplog.set_level(level)
    made = CEBinaryClassificationEvaluator(PAIRS[:2], [0, 1], show_progress_bar=None)
    model = GivenScores([0, 1])
    made(model)
    assert model.calls[0][1]["show_progress_bar"] is shown
    assert CEBinaryClassificationEvaluator(PAIRS[:2], [0, 1]).show_progress_bar is False


def test_nan_scores_are_refused():
    """No figure is made of NaN."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[0\]"):
        figures([1, 0], [math.nan, 0.5])
