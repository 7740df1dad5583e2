"""Models that give the scores they were told: what the evaluators' hand-worked numbers are computed from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Figures of these pairs are all about the labels and scores beside them.
PAIRS = [[f"query {number}", f"document {number}"] for number in range(20)]


class GivenScores:
    """Gives the same scores at each call, and notes what it was asked."""

    def __init__(self, scores: Any, dtype: Any = np.float32) -> None:
        self.scores = np.asarray(scores, dtype)
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def predict(self, sentences: Any, **options: Any) -> Any:
        """Note the call and give the scores."""
        self.calls.append((sentences, options))
        return self.scores


class ScoresByText:
    """Gives each pair the score of its document; notes the pairs of each call."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores
        self.calls: list[list[list[str]]] = []

    def predict(self, sentences: Any, **options: Any) -> Any:
        """Note the pairs and give the scores."""
        self.calls.append(sentences)
        return np.asarray([self.scores[document] for _, document in sentences], np.float32)
