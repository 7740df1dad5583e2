"""CESoftmaxAccuracyEvaluator: hand-worked values, its file."""

from __future__ import annotations

import logging
import math

import pytest

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation import CESoftmaxAccuracyEvaluator
from tests.given_scores import PAIRS, GivenScores

SCORES = [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [-3.0, -1.0, -2.0], [5.0, 9.0, 0.0]]


def evaluator(labels, **options):
    """One on as many pairs as there are labels or scores."""
    return CESoftmaxAccuracyEvaluator(PAIRS[: len(labels)], labels, **options)


@pytest.mark.parametrize(
    ("labels", "scores", "accuracy"),
    [
        ([0, 2, 1, 0], SCORES, 0.75),
        ([0, 0, 0, 0], SCORES, 0.25),  # one class only
        ([1, 0], [[0.5, 0.5], [0.5, 0.5]], 0.5),  # of equal scores the first label
        ([1], [[0.25, 0.75]], 1.0),
    ],
)
def test_values(labels, scores, accuracy):
    """The share of pairs whose label has the highest score."""
    assert evaluator(labels)(GivenScores(scores)) == accuracy


def test_file_and_log(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte."""
    caplog.set_level(logging.INFO)
    assert evaluator([0, 2, 1, 0], name="nli")(GivenScores(SCORES), str(tmp_path), 3, 200) == 0.75
    file = tmp_path / "CESoftmaxAccuracyEvaluator_nli_results.csv"
    assert file.read_bytes() == b"epoch,steps,Accuracy\r\n3,200,0.75\r\n"
    assert caplog.messages == [
        "CESoftmaxAccuracyEvaluator: Evaluating the model on nli dataset in epoch 3 after 200 steps:",
        "Accuracy: 75.00",
    ]


def test_a_model_with_one_label():
    """It has no label to choose: the error says what is needed."""
    with pytest.raises(InvalidInput, match="two labels or more"):
        evaluator([0, 1])(GivenScores([0.5, 0.5]))


def test_a_label_that_the_model_lacks():
    """It could never be right, so it is refused by its index."""
    with pytest.raises(InvalidInput, match=r"labels\[3\] is 3, but the model has 3 labels"):
        evaluator([0, 2, 1, 3])(GivenScores(SCORES))


def test_nan_scores_are_refused():
    """NaN would be the highest score of its pair."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[0\]"):
        evaluator([0, 1])(GivenScores([[math.nan, 0.5], [0.5, 0.5]]))
