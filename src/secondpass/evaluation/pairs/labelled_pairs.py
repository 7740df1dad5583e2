"""Pairs of texts and what is known about each: 0 or 1, the index of a class, or a score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondpass.errors import InvalidInput
from secondpass.text import checked, materialised


def checked_pairs(sentence_pairs: object) -> list[list[str]]:
    """Rows of two texts each (or of one text each, for a model that takes one).

    Raises:
        InvalidInput: there are none, or one has another form; the message gives the index.
    """
    rows: list[Any] = materialised(sentence_pairs, "sentence_pairs", "a sequence of pairs")
    if not rows:
        raise InvalidInput("sentence_pairs is empty: there is nothing to evaluate on")
    pairs = [_pair(row, index) for index, row in enumerate(rows)]
    for index, pair in enumerate(pairs):
        if len(pair) != len(pairs[0]):
            raise InvalidInput(
                f"sentence_pairs[{index}] has {len(pair)} texts where sentence_pairs[0] has {len(pairs[0])}"
            )
    return pairs


def binary_labels(labels: object, pairs: list[list[str]]) -> NDArray[np.int64]:
    """Labels int64 [pairs], each 0 or 1.

    Raises:
        InvalidInput: a label is anything else, or there is not one for each pair.
    """
    numbers = _numbers(labels, "labels", pairs)
    for index, number in enumerate(numbers):
        if number not in (0, 1):
            raise InvalidInput(f"labels[{index}] is {number!r}, neither 0 nor 1")
    return np.asarray(numbers, np.int64)


def class_labels(labels: object, pairs: list[list[str]]) -> NDArray[np.int64]:
    """Labels int64 [pairs], each the index of a class.

    Raises:
        InvalidInput: a label is no whole number from 0 on, or there is not one for each pair.
    """
    numbers = _numbers(labels, "labels", pairs)
    for index, number in enumerate(numbers):
        if not 0 <= number < 2**31 or number != int(number):
            raise InvalidInput(f"labels[{index}] is {number!r}, not the index of a class")
    return np.asarray(numbers, np.int64)


def gold_scores(scores: object, pairs: list[list[str]]) -> NDArray[np.float64]:
    """Scores float64 [pairs].

    Raises:
        InvalidInput: a score is no finite number, or there is not one for each pair.
    """
    numbers = _numbers(scores, "scores", pairs)
    for index, number in enumerate(numbers):
        if not math.isfinite(number):
            raise InvalidInput(f"scores[{index}] is {number!r}, not a finite number")
    return np.asarray(numbers, np.float64)


def _pair(row: object, index: int) -> list[str]:
    name = f"sentence_pairs[{index}]"
    if not isinstance(row, (list, tuple, np.ndarray)):
        raise InvalidInput(f"{name} is {type(row).__name__}, not a pair of texts")
    if len(row) not in (1, 2):
        raise InvalidInput(f"{name} has {len(row)} texts, not one or two")
    return [checked(text, f"{name}[{place}]") for place, text in enumerate(row)]


def _numbers(values: object, argument: str, pairs: list[list[str]]) -> list[float]:
    items = materialised(values, argument, "a sequence of numbers")
    if len(items) != len(pairs):
        raise InvalidInput(f"{len(pairs)} sentence_pairs, but {len(items)} {argument}")
    return [_number(item, f"{argument}[{index}]") for index, item in enumerate(items)]


def _number(value: Any, name: str) -> float:
    # numpy's scalars and tensors of one number
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if not isinstance(value, (int, float)):
        raise InvalidInput(f"{name} is {type(value).__name__}, not a number")
    return value
