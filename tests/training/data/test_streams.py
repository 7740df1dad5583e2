"""A stream of groups: rows as they come, bad ones in their place."""

from __future__ import annotations

import logging
import math
from itertools import count, islice

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import Row
from secondpass.training.data.streams import GroupStream


def test_rows_of_mixed_shapes():
    """Each row is understood by its own columns; a group passes as it is."""
    given = Group("q3", ("e",), (1.0,), "here")
    items = [
        Row("f:1", {"query": "q1", "document": "a", "label": 1}),
        Row("f:2", {"query": "q2", "positive": "b", "negative": "c"}),
        given,
        Row("f:3", {"label": 0, "document": "d", "query": "q1"}),
    ]
    assert list(GroupStream(iter(items), {})) == [
        Group("q1", ("a",), (1.0,), "f:1"),
        Group("q2", ("b", "c"), (1.0, 0.0), "f:2"),
        given,
        Group("q1", ("d",), (0.0,), "f:3"),
    ]


def test_reading_goes_on_behind_a_bad_row():
    """So a check can name the second fault too."""
    good = Row("f:1", {"query": "q", "document": "a", "label": 1})
    items = [good, InvalidInput("f:2: broken"), Row("f:3", {"query": "q"}), Row("f:4", {**good.values, "label": "x"})]
    stream = GroupStream(iter([*items, good]), {})
    assert next(stream).source == "f:1"
    for start in ("f:2: broken", "f:3: the columns 'query'", "f:4: column 'label'"):
        with pytest.raises(InvalidInput, match=start):
            next(stream)
    assert next(stream).source == "f:1"
    assert next(stream, None) is None


def test_nothing_is_read_ahead():
    """An endless source is no harm: a row is held at a time."""
    rows = (Row(f"f:{n}", {"query": "q", "document": "a", "label": n % 2}) for n in count(1))
    assert [group.source for group in islice(GroupStream(rows, {}), 3)] == ["f:1", "f:2", "f:3"]
    assert next(rows).source == "f:4"


def test_grades_to_relevance():
    """From the threshold on 1, below it 0; NaN stays NaN, for the check to refuse."""
    row = Row("f:1", {"query": "q", "documents": ["a", "b", "c", "d"], "labels": [0, 1.5, 2, math.nan]})
    labels = next(GroupStream(iter([row]), {}, relevant_from=1.5)).labels
    assert labels[:3] == (0.0, 1.0, 1.0)
    assert math.isnan(labels[3])


def test_columns_that_are_not_read_are_told(caplog):
    """Once, with the first row."""
    rows = [Row("f:1", {"query": "q", "document": "a", "label": 1, "lang": "en"})] * 3
    with caplog.at_level(logging.INFO):
        list(GroupStream(iter(rows), {}))
    assert caplog.messages == ["f:1: columns query, document, label; not read: lang"]
