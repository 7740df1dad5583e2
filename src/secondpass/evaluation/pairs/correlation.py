"""Correlation of a model's scores with known scores."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.libraries import scipy_stats
from secondpass.evaluation.pairs.evaluator import PairEvaluator
from secondpass.evaluation.pairs.labelled_pairs import checked_pairs, gold_scores
from secondpass.evaluation.pairs.predictions import single_scores

logger = logging.getLogger(__name__)


class CECorrelationEvaluator(PairEvaluator):
    """Pearson's and Spearman's correlation with known scores; a call returns Spearman's.

    Both are NaN, with a logged warning, where all scores are equal; `fit` never takes NaN for the best.

    Args:
        sentence_pairs: rows of two texts, two rows at least.
        scores: a finite number for each pair, on any scale.
        name: of the data; it stands in log lines and in the file's name.
        write_csv: append to CECorrelationEvaluator[_NAME]_results.csv (epoch, steps, Pearson_Correlation,
            Spearman_Correlation).

    Raises:
        InvalidInput: pairs or scores are refused.
    """

    title = "CECorrelationEvaluator"

    def __init__(
        self,
        sentence_pairs: Iterable[Sequence[str]],
        scores: Iterable[float],
        name: str = "",
        write_csv: bool = True,
    ) -> None:
        pairs = checked_pairs(sentence_pairs)
        self.scores = gold_scores(scores, pairs)
        columns = ["Pearson_Correlation", "Spearman_Correlation"]
        super().__init__(pairs, name, write_csv, columns, returned="Spearman_Correlation")
        if len(self.scores) < 2:
            raise InvalidInput("sentence_pairs has one pair: a correlation needs two")

    def measure(self, model: Any) -> dict[str, float]:
        """The figures "Pearson_Correlation" and "Spearman_Correlation"."""
        given = single_scores(model, self.sentence_pairs, show_progress_bar=False).astype(np.float64)
        pearson, spearman = _correlations(self.scores, given)
        return {"Pearson_Correlation": pearson, "Spearman_Correlation": spearman}

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        pearson, spearman = figures["Pearson_Correlation"], figures["Spearman_Correlation"]
        return [f"Correlation:\tPearson: {pearson:.4f}\tSpearman: {spearman:.4f}"]


def _correlations(known: NDArray[np.float64], given: NDArray[np.float64]) -> tuple[float, float]:
    for whose, values in (("known", known), ("model's", given)):
        if (values == values[0]).all():
            logger.warning("all %s scores are %g: their correlation is not defined", whose, values[0])
            return math.nan, math.nan
    library = scipy_stats()
    with warnings.catch_warnings():
        # Scores that differ in the last digits only: Pearson's correlation has few right digits.
        warnings.simplefilter("ignore", library.NearConstantInputWarning)
        return float(library.pearsonr(known, given)[0]), float(library.spearmanr(known, given)[0])
