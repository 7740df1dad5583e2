"""CECorrelationEvaluator: hand-worked values, ties, constant input, its file."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.evaluation import CECorrelationEvaluator
from tests.given_scores import PAIRS, GivenScores


def evaluator(scores, **options):
    """One on as many pairs as there are labels or scores."""
    return CECorrelationEvaluator(PAIRS[: len(scores)], scores, **options)


@pytest.mark.parametrize(
    ("known", "given", "pearson", "spearman"),
    [
        ([1, 2, 3, 4], [0.125, 0.25, 0.5, 0.375], 0.8, 0.8),  # 0.5 / sqrt(5 * 0.078125); 1 - 6 * 2 / 60
        ([1, 2, 3], [1, 10, 100], 99 / math.sqrt(2 * 5994), 1.0),  # a rising order, whatever the steps
        ([1, 2, 3, 4], [1, 1, 2, 3], 3.5 / math.sqrt(13.75), 4.5 / math.sqrt(22.5)),  # equal scores share their ranks
        ([5, 1], [0.25, 0.75], -1.0, -1.0),
    ],
)
def test_values(known, given, pearson, spearman):
    """Pearson's and Spearman's correlation by hand."""
    found = evaluator(known).measure(GivenScores(given))
    assert found == pytest.approx({"Pearson_Correlation": pearson, "Spearman_Correlation": spearman}, abs=1e-7)
    assert {type(value) for value in found.values()} == {float}


def test_file_and_log(tmp_path, caplog):
    """Name, columns, row and log lines byte for byte; Spearman's comes back."""
    caplog.set_level(logging.INFO)
    made = evaluator([0, 1, 2], name="sts")
    assert made(GivenScores([1, 4, 9]), str(tmp_path)) == 1.0
    pearson = made.measure(GivenScores([1, 4, 9]))["Pearson_Correlation"]
    assert pearson == pytest.approx(8 / math.sqrt(2 * 98 / 3))
    file = tmp_path / "CECorrelationEvaluator_sts_results.csv"
    assert file.read_bytes() == (
        b"epoch,steps,Pearson_Correlation,Spearman_Correlation\r\n" + f"-1,-1,{pearson!r},1.0\r\n".encode()
    )
    assert caplog.messages == [
        "CECorrelationEvaluator: Evaluating the model on sts dataset:",
        "Correlation:\tPearson: 0.9897\tSpearman: 1.0000",
    ]


@pytest.mark.parametrize(("known", "given", "whose"), [([1, 2], [0.5, 0.5], "model's"), ([2, 2], [0.5, 0.25], "known")])
def test_constant_scores_have_no_correlation(known, given, whose, tmp_path, caplog):
    """NaN comes back and into the file, and the log says why; no warning leaves scipy."""
    assert math.isnan(evaluator(known)(GivenScores(given), tmp_path))
    assert [message for message in caplog.messages if f"all {whose} scores are" in message] == caplog.messages != []
    assert (tmp_path / "CECorrelationEvaluator_results.csv").read_bytes().endswith(b"\r\n-1,-1,nan,nan\r\n")


def test_nearly_constant_scores():
    """Scores that differ in their last digit only have a rank correlation; no warning leaves scipy."""
    given = GivenScores([1, np.nextafter(1, 2), np.nextafter(1, 0)], np.float64)
    assert evaluator([2, 3, 1])(given) == pytest.approx(1.0)


def test_nan_scores_are_refused():
    """No correlation is made of NaN."""
    with pytest.raises(NonFiniteScore, match=r"sentence_pairs\[2\]"):
        evaluator([1, 2, 3])(GivenScores([0.5, 0.25, math.nan]))


def test_one_pair_is_refused():
    """A correlation needs two pairs."""
    with pytest.raises(InvalidInput, match="a correlation needs two"):
        evaluator([1])
