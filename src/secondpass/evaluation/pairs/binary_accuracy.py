"""Accuracy of a model with one label at a fixed threshold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from secondpass.errors import InvalidInput
from secondpass.evaluation.libraries import scikit_metrics
from secondpass.evaluation.pairs.evaluator import PairEvaluator
from secondpass.evaluation.pairs.labelled_pairs import binary_labels, checked_pairs
from secondpass.evaluation.pairs.predictions import single_scores


class CEBinaryAccuracyEvaluator(PairEvaluator):
    """Share of pairs on the right side of the threshold: a label 1 is predicted where score > threshold.

    Args:
        sentence_pairs: rows of two texts.
        labels: 0 or 1 for each pair.
        name: of the data; it stands in log lines and in the file's name.
        threshold: for scores as `predict` gives them, that is, after the model's activation.
        write_csv: append to CEBinaryAccuracyEvaluator[_NAME]_results.csv (epoch, steps, Accuracy).

    Raises:
        InvalidInput: pairs or labels are refused, or the threshold is no number.
    """

    title = "CEBinaryAccuracyEvaluator"

    def __init__(
        self,
        sentence_pairs: Iterable[Sequence[str]],
        labels: Iterable[int],
        name: str = "",
        threshold: float = 0.5,
        write_csv: bool = True,
    ) -> None:
        pairs = checked_pairs(sentence_pairs)
        self.labels = binary_labels(labels, pairs)
        super().__init__(pairs, name, write_csv, ["Accuracy"])
        if not isinstance(threshold, (int, float, np.number)) or np.isnan(threshold):
            raise InvalidInput(f"threshold={threshold!r} is not a number")
        self.threshold = float(threshold)

    def measure(self, model: Any) -> dict[str, float]:
        """The figure "Accuracy"."""
        scores = single_scores(model, self.sentence_pairs, show_progress_bar=False)
        return {"Accuracy": float(scikit_metrics().accuracy_score(self.labels, scores > self.threshold))}

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        return [f"Accuracy: {figures['Accuracy'] * 100:.2f}"]
