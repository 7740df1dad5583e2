"""Accuracy of a model with two labels or more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from secondpass.evaluation.libraries import scikit_metrics
from secondpass.evaluation.pairs.evaluator import PairEvaluator
from secondpass.evaluation.pairs.labelled_pairs import checked_pairs, class_labels
from secondpass.evaluation.pairs.predictions import class_scores, predicted_labels


class CESoftmaxAccuracyEvaluator(PairEvaluator):
    """Share of pairs whose label has the highest score.

    Args:
        sentence_pairs: rows of two texts.
        labels: the index of a class for each pair.
        name: of the data; it stands in log lines and in the file's name.
        write_csv: append to CESoftmaxAccuracyEvaluator[_NAME]_results.csv (epoch, steps, Accuracy).

    Raises:
        InvalidInput: pairs or labels are refused.
    """

    title = "CESoftmaxAccuracyEvaluator"

    def __init__(
        self, sentence_pairs: Iterable[Sequence[str]], labels: Iterable[int], name: str = "", write_csv: bool = True
    ) -> None:
        pairs = checked_pairs(sentence_pairs)
        self.labels = class_labels(labels, pairs)
        super().__init__(pairs, name, write_csv, ["Accuracy"])

    def measure(self, model: Any) -> dict[str, float]:
        """The figure "Accuracy"."""
        scores = class_scores(model, self.sentence_pairs, show_progress_bar=False)
        return {"Accuracy": float(scikit_metrics().accuracy_score(self.labels, predicted_labels(scores, self.labels)))}

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        return [f"Accuracy: {figures['Accuracy'] * 100:.2f}"]
