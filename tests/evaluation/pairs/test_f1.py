"""CEF1Evaluator: hand-worked values for two and more labels, its file."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation import CEF1Evaluator
from tests.given_scores import PAIRS, GivenScores


def evaluator(labels, **options):
    """One on as many pairs as there are labels or scores."""
    return CEF1Evaluator(PAIRS[: len(labels)], labels, **options)


def predicting(labels, width):
    """A model whose highest scores are at these labels."""
    return GivenScores(np.eye(width)[labels])


THREE = ([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])


def test_two_labels():
    """F1 of label 1: two found, one wrongly, one missed: 2 * 2 / (2 * 2 + 1 + 1)."""
    made = evaluator([1, 1, 0, 0, 1])
    assert made.measure(predicting([1, 0, 0, 1, 1], 2)) == {"Binary F1 score": pytest.approx(2 / 3)}
    assert made(predicting([0] * 5, 2)) == 0.0


def test_two_labels_of_a_model_with_three():
    """A prediction of a label that the data lack is a prediction that is not 1."""
    assert evaluator([1, 1, 0])(predicting([1, 2, 2], 3)) == pytest.approx(2 / 3)


def test_three_labels():
    """F1 by label is 4/5, 1/2, 2/3; weights are how often a label is right (3, 2, 1), not how often predicted."""
    labels, predicted = THREE
    found = evaluator(labels).measure(predicting(predicted, 3))
    assert found == pytest.approx(
        {
            "Macro F1 score": (4 / 5 + 1 / 2 + 2 / 3) / 3,
            "Micro F1 score": 4 / 6,
            "Weighted F1 score": (3 * 4 / 5 + 2 * 1 / 2 + 1 * 2 / 3) / 6,
        }
    )
    assert {type(value) for value in found.values()} == {float}


def test_equal_scores():
    """The first of equal labels is predicted: a model that knows nothing says 0."""
    assert evaluator([0, 1, 1])(GivenScores(np.zeros((3, 2)))) == 0.0


def test_file_and_log_of_two_labels(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte."""
    caplog.set_level(logging.INFO)
    assert evaluator([1, 0, 1])(predicting([1, 1, 0], 2), str(tmp_path), 0, -1) == 0.5
    assert (tmp_path / "CEF1Evaluator_results.csv").read_bytes() == b"epoch,steps,Binary F1 score\r\n0,-1,0.5\r\n"
    assert caplog.messages == [
        "CEF1Evaluator: Evaluating the model on  dataset after epoch 0:",
        "Binary F1 score     : 50.00",
    ]


def test_file_and_log_of_three_labels(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte; macro F1 comes back."""
    caplog.set_level(logging.INFO)
    labels, predicted = [0, 0, 1, 2], [0, 1, 1, 2]
    # F1 by label: 2/3, 2/3, 1
    made = evaluator(labels, name="nli")
    assert made(predicting(predicted, 3), str(tmp_path)) == pytest.approx(7 / 9)
    headers, row = (tmp_path / "CEF1Evaluator_nli_results.csv").read_bytes().splitlines()
    assert headers == b"epoch,steps,Macro F1 score,Micro F1 score,Weighted F1 score"
    assert [float(value) for value in row.split(b",")] == pytest.approx([-1, -1, 7 / 9, 3 / 4, 3 / 4])
    assert caplog.messages[1:] == [
        "Macro F1 score      : 77.78",
        "Micro F1 score      : 75.00",
        "Weighted F1 score   : 75.00",
    ]


def test_options_reach_the_model():
    """batch_size and show_progress_bar are handed on."""
    model = predicting([0, 1], 2)
    evaluator([0, 1], batch_size=7, show_progress_bar=True)(model)
    assert model.calls[0][1] == {"convert_to_numpy": True, "batch_size": 7, "show_progress_bar": True}


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 1], "all labels are 1: F1 needs two"), ([0, 2], "labels are 0 and 2: two distinct labels must be 0 and 1")],
)
def test_labels_without_an_f1(labels, message):
    """One label, or two of which none is 1 beside 0, are refused when the evaluator is made."""
    with pytest.raises(InvalidInput, match=message):
        evaluator(labels)


def test_a_model_with_one_label():
    """It has no label to choose: the error says what is needed."""
    with pytest.raises(InvalidInput, match="two labels or more"):
        evaluator([0, 1])(GivenScores([0.5, 0.5]))


def test_a_label_that_the_model_lacks():
    """It is refused by its index."""
    with pytest.raises(InvalidInput, match=r"labels\[2\] is 2, but the model has 2 labels"):
        evaluator([0, 1, 2])(predicting([0, 1, 1], 2))


def test_nan_scores_are_refused():
    """NaN would be the highest score of its pair."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[1\]"):
        evaluator([0, 1])(GivenScores([[0.5, 0.5], [0.5, math.nan]]))
