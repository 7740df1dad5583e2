"""CEBinaryAccuracyEvaluator: hand-worked values, the threshold's side, its file."""

from __future__ import annotations

import logging
import math

import pytest

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation import CEBinaryAccuracyEvaluator
from tests.given_scores import PAIRS, GivenScores


def evaluator(labels, **options):
    """One on as many pairs as there are labels or scores."""
    return CEBinaryAccuracyEvaluator(PAIRS[: len(labels)], labels, **options)


@pytest.mark.parametrize(
    ("labels", "scores", "threshold", "accuracy"),
    [
        ([1, 1, 0, 0], [0.9, 0.6, 0.4, 0.8], 0.5, 0.75),
        ([1, 0], [0.5, 0.5], 0.5, 0.5),  # a score at the threshold is not above it
        ([1, 0], [0.1, 0.1], 0.1, 0.5),  # in the precision of the scores, too
        ([1, 1, 0], [-1.0, 2.0, -3.0], -2.0, 1.0),  # a model without sigmoid
        ([1, 1, 1], [0.9, 0.9, 0.1], 0.5, 2 / 3),  # one class only
        ([0], [0.9], 0.5, 0.0),
    ],
)
def test_values(labels, scores, threshold, accuracy):
    """The share of pairs whose score is on their label's side: above the threshold means 1."""
    assert evaluator(labels, threshold=threshold)(GivenScores(scores)) == pytest.approx(accuracy, abs=1e-15)


def test_file_and_log(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte."""
    caplog.set_level(logging.INFO)
    made = evaluator([1, 1, 0, 0], name="dev")
    assert made(GivenScores([0.9, 0.6, 0.4, 0.8]), str(tmp_path), 1, -1) == 0.75
    file = tmp_path / "CEBinaryAccuracyEvaluator_dev_results.csv"
    assert file.read_bytes() == b"epoch,steps,Accuracy\r\n1,-1,0.75\r\n"
    assert caplog.messages == [
        "CEBinaryAccuracyEvaluator: Evaluating the model on dev dataset after epoch 1:",
        "Accuracy: 75.00",
    ]


def test_nan_scores_are_refused():
    """No accuracy is made of NaN, which is below every threshold."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[1\]"):
        evaluator([1, 0])(GivenScores([0.5, math.nan]))


def test_refused_arguments():
    """A label beyond 0 and 1, and a threshold that is no number."""
    with pytest.raises(InvalidInput, match=r"labels\[1\] is 2"):
        evaluator([0, 2])
    for threshold in (math.nan, "0.5", None):
        with pytest.raises(InvalidInput, match="threshold="):
            evaluator([0, 1], threshold=threshold)
