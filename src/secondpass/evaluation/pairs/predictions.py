"""What a model says about pairs, checked before anything is computed from it.

Any object with `predict(pairs, convert_to_numpy=, show_progress_bar=)` is a model here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput, NonFiniteScore

Name = Callable[[int], str]
"""Gives what messages call the pair at a position."""

NAMED = 5


def pair_name(index: int) -> str:
    """What the caller calls the pair at that position."""
    return f"sentence_pairs[{index}]"


def single_scores(model: Any, pairs: list[list[str]], name: Name = pair_name, **options: Any) -> NDArray[Any]:
    """One score a pair: float [pairs], in the model's own precision.

    Raises:
        InvalidInput: the model has several labels, or gives something else than a number for each pair.
        NonFiniteScore: a score is NaN or infinite; the message names the pairs.
    """
    scores = _predicted(model, pairs, name, options)
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim != 1:
        raise InvalidInput(
            f"the model gives scores of shape {scores.shape}: this evaluator needs a model with one label"
        )
    return scores


def class_scores(model: Any, pairs: list[list[str]], **options: Any) -> NDArray[Any]:
    """One score for each label of a pair: float [pairs, labels].

    Raises:
        InvalidInput: the model has one label, or gives something else than numbers for each pair.
        NonFiniteScore: a score is NaN or infinite; the message names the pairs.
    """
    scores = _predicted(model, pairs, pair_name, options)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise InvalidInput(
            f"the model gives scores of shape {scores.shape}: this evaluator needs a model with two labels or more"
        )
    return scores


def predicted_labels(scores: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label with the highest score of each pair, int64 [pairs]; of equal ones the first.

    Raises:
        InvalidInput: one of the true `labels` is not among the model's.
    """
    beyond = np.flatnonzero(labels >= scores.shape[1])
    if beyond.size:
        raise InvalidInput(f"labels[{beyond[0]}] is {labels[beyond[0]]}, but the model has {scores.shape[1]} labels")
    highest: NDArray[np.int64] = scores.argmax(axis=1)
    return highest


def _predicted(model: Any, pairs: list[list[str]], name: Name, options: dict[str, Any]) -> NDArray[Any]:
    given = model.predict(pairs, convert_to_numpy=True, **options)
    try:
        scores = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the model gives {type(given).__name__}, which numpy cannot read: {error}") from error
    if scores.dtype.kind in "biu":
        scores = scores.astype(np.float64)
    if scores.dtype.kind != "f":
        raise InvalidInput(f"the model gives {scores.dtype}, not numbers")
    if scores.ndim == 0 or len(scores) != len(pairs):
        raise InvalidInput(f"the model gives scores of shape {scores.shape} for {len(pairs)} pairs")
    _refuse_non_finite(scores, name)
    return scores


def _refuse_non_finite(scores: NDArray[Any], name: Name) -> None:
    bad = np.flatnonzero(~np.isfinite(scores).reshape(len(scores), -1).all(axis=1)).tolist()
    if bad:
        named = ", ".join(map(name, bad[:NAMED])) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        raise NonFiniteScore(f"the model gives NaN or infinity for {named}", tuple(bad))
