"""best_threshold: every cut that scores allow is tried, and what is chosen is reached."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation import (
    CEBinaryAccuracyEvaluator,
    CEBinaryClassificationEvaluator,
    CEF1Evaluator,
    CESoftmaxAccuracyEvaluator,
)
from secondpass.evaluation.pairs.classification import best_accuracy, best_f1, thresholds
from tests.given_scores import PAIRS, GivenScores

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
def test_values_of_binary_classification(labels, scores, expected):
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


def test_file_and_log_of_binary_classification(tmp_path, caplog):
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


def test_nan_scores_are_refused_of_binary_classification():
    """No figure is made of NaN."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[0\]"):
        figures([1, 0], [math.nan, 0.5])


def evaluator_f1(labels, **options):
    """One on as many pairs as there are labels or scores."""
    return CEF1Evaluator(PAIRS[: len(labels)], labels, **options)


def predicting(labels, width):
    """A model whose highest scores are at these labels."""
    return GivenScores(np.eye(width)[labels])


THREE = ([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])


def test_two_labels():
    """F1 of label 1: two found, one wrongly, one missed: 2 * 2 / (2 * 2 + 1 + 1)."""
    made = evaluator_f1([1, 1, 0, 0, 1])
    assert made.measure(predicting([1, 0, 0, 1, 1], 2)) == {"Binary F1 score": pytest.approx(2 / 3)}
    assert made(predicting([0] * 5, 2)) == 0.0


def test_two_labels_of_a_model_with_three():
    """A prediction of a label that the data lack is a prediction that is not 1."""
    assert evaluator_f1([1, 1, 0])(predicting([1, 2, 2], 3)) == pytest.approx(2 / 3)


def test_three_labels():
    """F1 by label is 4/5, 1/2, 2/3; weights are how often a label is right (3, 2, 1), not how often predicted."""
    labels, predicted = THREE
    found = evaluator_f1(labels).measure(predicting(predicted, 3))
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
    assert evaluator_f1([0, 1, 1])(GivenScores(np.zeros((3, 2)))) == 0.0


def test_file_and_log_of_two_labels(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte."""
    caplog.set_level(logging.INFO)
    assert evaluator_f1([1, 0, 1])(predicting([1, 1, 0], 2), str(tmp_path), 0, -1) == 0.5
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
    made = evaluator_f1(labels, name="nli")
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
    evaluator_f1([0, 1], batch_size=7, show_progress_bar=True)(model)
    assert model.calls[0][1] == {"convert_to_numpy": True, "batch_size": 7, "show_progress_bar": True}


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 1], "all labels are 1: F1 needs two"), ([0, 2], "labels are 0 and 2: two distinct labels must be 0 and 1")],
)
def test_labels_without_an_f1(labels, message):
    """One label, or two of which none is 1 beside 0, are refused when the evaluator is made."""
    with pytest.raises(InvalidInput, match=message):
        evaluator_f1(labels)


def test_a_model_with_one_label():
    """It has no label to choose: the error says what is needed."""
    with pytest.raises(InvalidInput, match="two labels or more"):
        evaluator_f1([0, 1])(GivenScores([0.5, 0.5]))


def test_a_label_that_the_model_lacks():
    """It is refused by its index."""
    with pytest.raises(InvalidInput, match=r"labels\[2\] is 2, but the model has 2 labels"):
        evaluator_f1([0, 1, 2])(predicting([0, 1, 1], 2))


def test_nan_scores_are_refused_of_f1():
    """NaN would be the highest score of its pair."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[1\]"):
        evaluator_f1([0, 1])(GivenScores([[0.5, 0.5], [0.5, math.nan]]))


SCORES = [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [-3.0, -1.0, -2.0], [5.0, 9.0, 0.0]]


def evaluator_softmax_accuracy(labels, **options):
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
def test_values_of_softmax_accuracy(labels, scores, accuracy):
    """The share of pairs whose label has the highest score."""
    assert evaluator_softmax_accuracy(labels)(GivenScores(scores)) == accuracy


def test_file_and_log_of_softmax_accuracy(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte."""
    caplog.set_level(logging.INFO)
    assert evaluator_softmax_accuracy([0, 2, 1, 0], name="nli")(GivenScores(SCORES), str(tmp_path), 3, 200) == 0.75
    file = tmp_path / "CESoftmaxAccuracyEvaluator_nli_results.csv"
    assert file.read_bytes() == b"epoch,steps,Accuracy\r\n3,200,0.75\r\n"
    assert caplog.messages == [
        "CESoftmaxAccuracyEvaluator: Evaluating the model on nli dataset in epoch 3 after 200 steps:",
        "Accuracy: 75.00",
    ]


def test_a_model_with_one_label_of_softmax_accuracy():
    """It has no label to choose: the error says what is needed."""
    with pytest.raises(InvalidInput, match="two labels or more"):
        evaluator_softmax_accuracy([0, 1])(GivenScores([0.5, 0.5]))


def test_a_label_that_the_model_lacks_of_softmax_accuracy():
    """It could never be right, so it is refused by its index."""
    with pytest.raises(InvalidInput, match=r"labels\[3\] is 3, but the model has 3 labels"):
        evaluator_softmax_accuracy([0, 2, 1, 3])(GivenScores(SCORES))


def test_nan_scores_are_refused_of_softmax_accuracy():
    """NaN would be the highest score of its pair."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[0\]"):
        evaluator_softmax_accuracy([0, 1])(GivenScores([[math.nan, 0.5], [0.5, 0.5]]))
