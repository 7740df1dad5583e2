"""Average precision of a model with one label, and accuracy and F1 at their best thresholds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from secondpass.evaluation.libraries import scikit_metrics
from secondpass.evaluation.pairs.best_threshold import best_accuracy, best_f1
from secondpass.evaluation.pairs.evaluator import PairEvaluator
from secondpass.evaluation.pairs.labelled_pairs import binary_labels, checked_pairs
from secondpass.evaluation.pairs.predictions import single_scores

logger = logging.getLogger(__name__)


class CEBinaryClassificationEvaluator(PairEvaluator):
    """Average precision, and the best accuracy and F1 that a threshold on the scores reaches (score > threshold).

    Thresholds are found on the same pairs, so accuracy and F1 are what is possible, not what is to be expected.

    Args:
        sentence_pairs: rows of two texts.
        labels: 0 or 1 for each pair.
        name: of the data; it stands in log lines and in the file's name.
        show_progress_bar: show one while the pairs are scored; None shows it when this module logs at INFO or DEBUG.
        write_csv: append to CEBinaryClassificationEvaluator[_NAME]_results.csv (epoch, steps, Accuracy,
            Accuracy_Threshold, F1, F1_Threshold, Precision, Recall, Average_Precision).

    Raises:
        InvalidInput: pairs or labels are refused.
    """

    title = "CEBinaryClassificationEvaluator"

    def __init__(
        self,
        sentence_pairs: Iterable[Sequence[str]],
        labels: Iterable[int],
        name: str = "",
        show_progress_bar: bool | None = False,
        write_csv: bool = True,
    ) -> None:
        columns = ["Accuracy", "Accuracy_Threshold", "F1", "F1_Threshold", "Precision", "Recall", "Average_Precision"]
        pairs = checked_pairs(sentence_pairs)
        self.labels = binary_labels(labels, pairs)
        super().__init__(pairs, name, write_csv, columns, returned="Average_Precision")
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        self.show_progress_bar = show_progress_bar
        if self.labels.min() == self.labels.max():
            logger.warning("all %d labels are %d: no figure tells a good model", len(self.labels), self.labels[0])

    def measure(self, model: Any) -> dict[str, float]:
        """The figures of the file's columns."""
        library = scikit_metrics()
        scores = single_scores(model, self.sentence_pairs, show_progress_bar=self.show_progress_bar)
        accurate, balanced = best_accuracy(scores, self.labels), best_f1(scores, self.labels)
        precision, recall, f1, _ = library.precision_recall_fscore_support(
            self.labels, scores > balanced, average="binary", zero_division=0.0
        )
        # scikit-learn says the same 0 with a warning
        average = library.average_precision_score(self.labels, scores) if self.labels.any() else 0.0
        return {
            "Accuracy": float(library.accuracy_score(self.labels, scores > accurate)),
            "Accuracy_Threshold": accurate,
            "F1": float(f1),
            "F1_Threshold": balanced,
            "Precision": float(precision),
            "Recall": float(recall),
            "Average_Precision": float(average),
        }

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        return [
            f"Accuracy:           {figures['Accuracy'] * 100:.2f}\t(Threshold: {figures['Accuracy_Threshold']:.4f})",
            f"F1:                 {figures['F1'] * 100:.2f}\t(Threshold: {figures['F1_Threshold']:.4f})",
            f"Precision:          {figures['Precision'] * 100:.2f}",
            f"Recall:             {figures['Recall'] * 100:.2f}",
            f"Average Precision:  {figures['Average_Precision'] * 100:.2f}\n",
        ]
