"""Rows out of datasets and lists, each element by its kind."""

from __future__ import annotations

from collections import UserDict
from itertools import count, islice

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group
from secondpass.training.data.iterables import items_of
from secondpass.training.data.rows import Row
from secondpass.training.data.streams import GroupStream
from secondpass.training.examples import InputExample


def test_mappings_examples_and_groups():
    """Elements of every kind in one list; a row is named by its index."""
    group = Group("q", ("a",), (1.0,), "here")
    mapping = UserDict(query="q", document="a", label=1)
    items = list(items_of([{"a": 1}, mapping, InputExample("g", ["q", "d"], np.float32(0.5)), group]))
    assert items == [Row("rows[0]", {"a": 1}), Row("rows[1]", mapping), items[2], group]
    assert items[2] == Group("q", ("d",), (0.5,), "rows[2] (guid 'g')")


@pytest.mark.parametrize("source", ["text", b"bytes", {"a": 1}, {1, 2}, 5, None, object()])
def test_what_is_no_source(source):
    """Characters, keys and things without an order are no rows."""
    with pytest.raises(InvalidInput, match=f"source is {type(source).__name__}, neither a file"):
        items_of(source)


@pytest.mark.parametrize(
    ("element", "words"),
    [
        ("text", r"rows\[0\] is str, neither a mapping of columns nor an InputExample"),
        (("q", "d", 1), r"rows\[0\] is tuple"),
        (None, r"rows\[0\] is NoneType"),
        (InputExample(texts=["q"], label=1), r"rows\[0\]: texts is no list of two str"),
        (InputExample("g", None, 1), r"rows\[0\] \(guid 'g'\): texts is no list of two str"),
        (InputExample("g", "qd", 1), r"rows\[0\] \(guid 'g'\): texts is no list of two str"),
        (InputExample("g", ["q", 5], 1), r"rows\[0\] \(guid 'g'\): texts is no list of two str"),
        (InputExample("g", ["q", "d"], "1"), r"rows\[0\] \(guid 'g'\) has a label of type str, not a number"),
    ],
)
def test_bad_elements_stand_in_their_place(element, words):
    """An error in place of the row, and the next row behind it."""
    error, row = items_of([element, {"a": 1}])
    with pytest.raises(InvalidInput, match=words):
        raise error
    assert row == Row("rows[1]", {"a": 1})


def test_endless_iterables_are_streamed():
    """Nothing is collected first."""
    items = items_of({"n": n} for n in count())
    assert [item.values for item in islice(items, 3)] == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("kind", ["whole", "numpy", "torch", "streamed"])
def test_datasets_of_hugging_face(kind):
    """In memory, in a format of arrays, and streamed: the same groups."""
    datasets = pytest.importorskip("datasets")
    row = {"query": "q", "documents": ["a", "b"], "labels": [1, 0], "lang": "en"}
    dataset = datasets.Dataset.from_list([row] * 3)
    dataset = dataset.to_iterable_dataset() if kind == "streamed" else dataset
    dataset = dataset.with_format(kind) if kind in {"numpy", "torch"} else dataset
    assert list(GroupStream(items_of(dataset), {})) == [
        Group("q", ("a", "b"), (1.0, 0.0), f"rows[{n}]") for n in range(3)
    ]
