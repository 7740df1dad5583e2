"""F1 of a model with two labels or more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from secondpass.errors import InvalidInput
from secondpass.evaluation.libraries import scikit_metrics
from secondpass.evaluation.pairs.evaluator import PairEvaluator
from secondpass.evaluation.pairs.labelled_pairs import checked_pairs, class_labels
from secondpass.evaluation.pairs.predictions import class_scores, predicted_labels

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
        pairs = checked_pairs(sentence_pairs)
        self.labels = class_labels(labels, pairs)
        self._averages = _averages(np.unique(self.labels).tolist())
        super().__init__(pairs, name, write_csv, list(self._averages))
        self.batch_size = batch_size
        self.show_progress_bar = show_progress_bar

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
