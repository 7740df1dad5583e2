"""predictions: a model's scores in the shape that an evaluator needs, or an error that says what they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation.pairs.predictions import class_scores, predicted_labels, single_scores
from tests.given_scores import PAIRS, GivenScores

TWO = PAIRS[:2]


class Gives:
    """A model that gives an object as it is."""

    def __init__(self, given):
        self.given = given

    def predict(self, sentences, **options):
        return self.given


def test_the_model_is_asked_for_an_array():
    """`predict` gets the pairs, convert_to_numpy=True and the options."""
    model = GivenScores([0.25, 0.5])
    single_scores(model, TWO, show_progress_bar=False)
    assert model.calls == [(TWO, {"convert_to_numpy": True, "show_progress_bar": False})]


def test_our_engine_and_the_evaluators_fit(tiny, tiny_model_folder):
    """A CrossEncoder with one label gives single scores, one with three gives scores by class."""
    from secondpass import CrossEncoder

    assert single_scores(tiny, TWO).tolist() == tiny.predict(TWO).tolist()
    assert class_scores(CrossEncoder(tiny_model_folder("bert", 3), device="cpu"), TWO).shape == (2, 3)


@pytest.mark.parametrize(
    "given",
    [[0.25, 0.5], np.array([[0.25], [0.5]]), torch.tensor([0.25, 0.5]), [torch.tensor(0.25), torch.tensor(0.5)]],
)
def test_other_models_scores(given):
    """Lists, columns and tensors are the same scores."""
    assert single_scores(Gives(given), TWO).tolist() == [0.25, 0.5]


def test_the_models_precision_is_kept():
    """float32 stays float32, whole numbers become float64."""
    assert single_scores(Gives(np.float32([1, 2])), TWO).dtype == np.float32
    assert single_scores(Gives([1, 2]), TWO).dtype == np.float64


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0.5], r"shape \(1,\) for 2 pairs"),
        (0.5, r"shape \(\) for 2 pairs"),
        (["a", "b"], "not numbers"),
        ([[0.5], [0.5, 0.5]], "list, which numpy cannot read"),
        ([[0.5, 0.5], [0.5, 0.5]], r"shape \(2, 2\): this evaluator needs a model with one label"),
    ],
)
def test_scores_of_another_shape(given, message):
    """One number for each pair, or the error says what came instead."""
    with pytest.raises(InvalidInput, match=message):
        single_scores(Gives(given), TWO)


@pytest.mark.parametrize("given", [[0.5, 0.5], [[0.5], [0.5]]])
def test_a_model_with_one_label_has_no_classes(given):
    """An evaluator of classes says that it needs two labels at least."""
    with pytest.raises(InvalidInput, match="needs a model with two labels or more"):
        class_scores(Gives(given), TWO)


def test_scores_that_are_not_finite():
    """NaN and infinity are refused with the pairs' names and positions; of many the first five are named."""
    with pytest.raises(NonFiniteScore, match=r"for sentence_pairs\[1\], sentence_pairs\[2\]$") as caught:
        single_scores(Gives([0.5, math.nan, math.inf]), PAIRS[:3])
    assert caught.value.indices == (1, 2)
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[4\] and 2 more$"):
        single_scores(Gives([math.nan] * 7), PAIRS[:7])
    with pytest.raises(NonFiniteScore, match=r"for sentence_pairs\[1\]$"):
        class_scores(Gives([[0.5, 0.5], [0.5, -math.inf]]), TWO)


def test_the_highest_score_is_the_prediction():
    """Of equal scores the first label wins."""
    scores = np.array([[0.1, 0.9, 0.0], [0.4, 0.2, 0.4]])
    assert predicted_labels(scores, np.array([0, 2])).tolist() == [1, 0]


def test_a_label_that_the_model_lacks():
    """It could never be predicted, so it is refused by its index."""
    with pytest.raises(InvalidInput, match=r"labels\[1\] is 2, but the model has 2 labels"):
        predicted_labels(np.zeros((2, 2)), np.array([0, 2]))
