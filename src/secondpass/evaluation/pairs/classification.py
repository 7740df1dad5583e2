"""Average precision of a model with one label, and accuracy and F1 at their best thresholds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import scikit_metrics
from secondpass.evaluation.pairs.evaluator import (
    PairEvaluator,
    binary_labels,
    checked_pairs,
    class_labels,
    class_scores,
    predicted_labels,
    single_scores,
)


# ---- The thresholds that scores allow, and the best of them.
#
# A label 1 is predicted where score > threshold, so equal scores are never parted. Every way to part the others is
# tried: between two neighbours (the mean of both), below all scores, and at the highest (no label 1 at all).
def thresholds(scores: NDArray[Any]) -> NDArray[Any]:
    """All thresholds in the precision of the scores, those between scores first, the highest of them in front."""
    levels = np.unique(scores)[::-1]
    upper, lower = levels[:-1], levels[1:]
    middle = upper / 2 + lower / 2
    # The mean of two neighbouring floats is one of them: the lower parts them, the upper does not.
    between = np.where((lower <= middle) & (middle < upper), middle, lower)
    below = np.nextafter(levels[-1:], levels.dtype.type(-np.inf))
    return np.concatenate([between, below, levels[:1]])


def best_accuracy(scores: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The threshold with most right predictions; of equally good ones the first of `thresholds`."""
    tried = thresholds(scores)
    hits, kept = _above(scores[labels == 1], tried), _above(scores, tried)
    # hits + true negatives, and the number of negatives is the same for all
    return float(tried[np.argmax(2 * hits - kept)])


def best_f1(scores: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The threshold with the highest F1 of label 1, as above; 0.0 where no label is 1: each F1 is 0 then."""
    positives = int(labels.sum())
    if not positives:
        return 0.0
    tried = thresholds(scores)
    hits, kept = _above(scores[labels == 1], tried), _above(scores, tried)
    return float(tried[np.argmax(2 * hits / (kept + positives))])


def _above(scores: NDArray[Any], tried: NDArray[Any]) -> NDArray[np.int64]:
    """How many scores are above each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), tried, side="right")


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
        MissingExtra: scikit-learn is not installed.
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
        self.sentence_pairs = checked_pairs(sentence_pairs)
        self.labels = binary_labels(labels, self.sentence_pairs)
        super().__init__(name, write_csv, columns, returned="Average_Precision")
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        self.show_progress_bar = show_progress_bar
        if self.labels.min() == self.labels.max():
            logger.warning("all %d labels are %d: no figure tells a good model", len(self.labels), self.labels[0])
        scikit_metrics()  # told now, and not after an epoch

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


class CEBinaryAccuracyEvaluator(PairEvaluator):
    """Share of pairs on the right side of the threshold: a label 1 is predicted where score > threshold.

    Args:
        sentence_pairs, labels, name: as in `CEBinaryClassificationEvaluator`.
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
        self.sentence_pairs = checked_pairs(sentence_pairs)
        self.labels = binary_labels(labels, self.sentence_pairs)
        super().__init__(name, write_csv, ["Accuracy"])
        if not isinstance(threshold, (int, float, np.number)) or np.isnan(threshold):
            raise InvalidInput(f"threshold={threshold!r} is not a number")
        self.threshold = float(threshold)

    def measure(self, model: Any) -> dict[str, float]:
        """The figure "Accuracy"."""
        scores = single_scores(model, self.sentence_pairs, show_progress_bar=False)
        return {"Accuracy": float(np.mean((scores > self.threshold) == self.labels))}


# ---- F1 of a model with two labels or more.
BINARY = {"Binary F1 score": "binary"}
SEVERAL = {"Macro F1 score": "macro", "Micro F1 score": "micro", "Weighted F1 score": "weighted"}


class CEF1Evaluator(PairEvaluator):
    """F1 of the labels with the highest scores.

    With labels 0 and 1 it is the F1 of label 1. With three labels or more it is the mean of all labels' F1 (macro,
    which a call returns), the F1 of all decisions together (micro), and the mean weighted by how often each label is
    right (weighted).

    Args:
        sentence_pairs: rows of two texts.
        labels: the index of a class for each pair.
        batch_size: pairs scored together at most.
        show_progress_bar: show one while the pairs are scored.
        name: of the data; it stands in log lines and in the file's name.
        write_csv: append to CEF1Evaluator[_NAME]_results.csv (epoch, steps, and Binary F1 score or Macro F1 score,
            Micro F1 score, Weighted F1 score).

    Raises:
        InvalidInput: pairs or labels are refused, all labels are the same, or two that are not 0 and 1.
        MissingExtra: scikit-learn is not installed.
    """

    title = "CEF1Evaluator"

    def __init__(
        self,
        sentence_pairs: Iterable[Sequence[str]],
        labels: Iterable[int],
        *,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        name: str = "",
        write_csv: bool = True,
    ) -> None:
        self.sentence_pairs = checked_pairs(sentence_pairs)
        self.labels = class_labels(labels, self.sentence_pairs)
        self._averages = _averages(np.unique(self.labels).tolist())
        super().__init__(name, write_csv, list(self._averages))
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar
        scikit_metrics()  # told now, and not after an epoch

    def measure(self, model: Any) -> dict[str, float]:
        """The figures of the file's columns."""
        f1_score = scikit_metrics().f1_score
        options = {"batch_size": self.batch_size, "show_progress_bar": self.show_progress_bar}
        predicted = predicted_labels(class_scores(model, self.sentence_pairs, **options), self.labels)
        if self._averages is BINARY:
            # A model may have labels that the data lack: they are not label 1.
            predicted = (predicted == 1).astype(np.int64)
        return {
            name: float(f1_score(self.labels, predicted, average=average)) for name, average in self._averages.items()
        }

    def _lines(self, figures: Mapping[str, float]) -> Iterable[str]:
        return [f"{name:20s}: {value * 100:.2f}" for name, value in figures.items()]


def _averages(distinct: list[int]) -> dict[str, str]:
    if len(distinct) < 2:
        raise InvalidInput(f"all labels are {distinct[0]}: F1 needs two distinct labels at least")
    if len(distinct) > 2:
        return SEVERAL
    if distinct != [0, 1]:
        raise InvalidInput(f"labels are {distinct[0]} and {distinct[1]}: two distinct labels must be 0 and 1")
    return BINARY


class CESoftmaxAccuracyEvaluator(PairEvaluator):
    """Share of pairs whose label has the highest score.

    Args:
        sentence_pairs, labels, name: as in `CEF1Evaluator`.
        write_csv: append to CESoftmaxAccuracyEvaluator[_NAME]_results.csv (epoch, steps, Accuracy).

    Raises:
        InvalidInput: pairs or labels are refused.
    """

    title = "CESoftmaxAccuracyEvaluator"

    def __init__(
        self, sentence_pairs: Iterable[Sequence[str]], labels: Iterable[int], name: str = "", write_csv: bool = True
    ) -> None:
        self.sentence_pairs = checked_pairs(sentence_pairs)
        self.labels = class_labels(labels, self.sentence_pairs)
        super().__init__(name, write_csv, ["Accuracy"])

    def measure(self, model: Any) -> dict[str, float]:
        """The figure "Accuracy"."""
        scores = class_scores(model, self.sentence_pairs, show_progress_bar=False)
        return {"Accuracy": float(np.mean(predicted_labels(scores, self.labels) == self.labels))}
