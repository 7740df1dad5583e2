"""The shapes in which callers of `predict` hand over their texts."""

from __future__ import annotations

from typing import Any

import numpy as np

from secondpass.errors import InvalidInput
from secondpass.text import checked, materialised


def columns_of(sentences: object) -> tuple[list[list[str]], bool]:
    """Stripped texts by column ([queries, documents], or one column of single texts), and if it was one pair.

    The seed's rules: a first element that is a str makes the whole input one pair; the first pair decides how
    many texts each has; every text is stripped.

    Raises:
        InvalidInput: no sequence of pairs, uneven pairs, or a text that is no str; the message gives the index.
    """
    rows: list[Any] = materialised(sentences, "sentences", "a pair or a sequence of pairs")
    if not rows:
        return [[], []], False
    single = isinstance(rows[0], str)
    if single:
        rows = [rows]
    width = _width(rows[0], 0)
    columns: list[list[str]] = [[] for _ in range(width)]
    for index, row in enumerate(rows):
        if _width(row, index) != width:
            raise InvalidInput(f"sentences[{index}] has {len(row)} texts where sentences[0] has {width}")
        for column, value in enumerate(row):
            name = f"sentences[{column}]" if single else f"sentences[{index}][{column}]"
            columns[column].append(checked(value, name).strip())
    return columns, single


def _width(row: object, index: int) -> int:
    if not isinstance(row, (list, tuple, np.ndarray)):
        raise InvalidInput(f"sentences[{index}] is {type(row).__name__}, not a pair of texts")
    if len(row) not in (1, 2):
        raise InvalidInput(f"sentences[{index}] has {len(row)} texts, not one or two")
    return len(row)
