"""Rows of every shape to groups, and what a bad value is told."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.data.columns import Layout, chosen_columns, layout_of
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import Row, group_of


def made(values, textual=False, **columns):
    """Make the group of a row."""
    row = Row("f:7", values, textual)
    return group_of(row, layout_of(list(values), chosen_columns(columns), "f:7"))


def group(documents, labels, **more):
    """Write down a group of the query "q" in line 7."""
    return Group("q", documents, labels, "f:7", **more)


@dataclass
class Content:
    """The shape of a Haystack Document."""

    content: str | None
    id: str = "h1"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"query": "q", "document": "a", "label": 1}, group(("a",), (1.0,))),
        ({"query": "q", "document": "a", "label": True}, group(("a",), (1.0,))),
        ({"query": "q", "positive": "a", "negative": "b"}, group(("a", "b"), (1.0, 0.0))),
        ({"query": "q", "positive": "a"}, group(("a",), (1.0,))),
        ({"query": "q", "positives": ["a", "b"], "negatives": ["c"]}, group(("a", "b", "c"), (1.0, 1.0, 0.0))),
        ({"query": "q", "positives": ["a"], "negatives": []}, group(("a",), (1.0,))),
        ({"query": "q", "documents": ["a", "b"], "labels": [3, 0]}, group(("a", "b"), (3.0, 0.0))),
        ({"query": "q", "documents": ("a", "b"), "scores": (-4.5, 11.25)}, group(("a", "b"), (-4.5, 11.25))),
        ({"query": "q", "document": "a", "score": -0.25}, group(("a",), (-0.25,))),
        (
            {"query": "q", "positive": "a", "negative_1": "b", "negative_2": "c", "scores": [9, 1.5, -2]},
            group(("a", "b", "c"), (9.0, 1.5, -2.0)),
        ),
        (
            {"query": "q", "positive": "a", "negative_1": "b", "negative_2": None, "negative_3": ""},
            group(("a", "b"), (1.0, 0.0)),
        ),
        (
            {"query_id": 7, "query": "q", "document": "a", "document_id": "d", "label": 0},
            group(("a",), (0.0,), query_id="7", document_ids=("d",)),
        ),
        (
            {"query": "q", "documents": ["a", "b"], "document_ids": ["x", 2], "labels": [1, 0]},
            group(("a", "b"), (1.0, 0.0), document_ids=("x", "2")),
        ),
        (
            {"query": "q", "pos": [{"docid": "5", "title": "T", "text": "a"}], "neg": [{"text": "b"}]},
            group(("T a", "b"), (1.0, 0.0), document_ids=("5", "")),
        ),
        (
            {"query": "q", "documents": [Content("a"), Content("b", "h2")], "labels": [1, 0]},
            group(("a", "b"), (1.0, 0.0), document_ids=("h1", "h2")),
        ),
        ({"query": " Ünï\u200b ", "document": "a\n", "label": 0}, Group(" Ünï\u200b ", ("a\n",), (0.0,), "f:7")),
    ],
)
def test_shapes(values, expected):
    """Each shape gives its group; texts come through as they are."""
    assert made(values) == expected


@pytest.mark.parametrize(
    "label", [np.float32(0.5), np.array(0.5), torch.tensor(0.5), Decimal("0.5")], ids=lambda label: type(label).__name__
)
def test_numbers_of_other_libraries(label):
    """Labels come out as Python's floats."""
    labels = made({"query": "q", "document": "a", "label": label}).labels
    assert labels == (0.5,)
    assert type(labels[0]) is float


def test_arrays_are_lists():
    """A dataset in numpy or torch format gives arrays."""
    values = {"query": "q", "documents": np.array(["a", "b"]), "labels": torch.tensor([1, 0])}
    assert made(values) == group(("a", "b"), (1.0, 0.0))


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1.0), ("0.25", 0.25), ("-1e-3", -0.001), (" 2 ", 2.0), ("nan", None), ("inf", None)]
)
def test_numbers_written_as_text(text, number):
    """In a table of texts, and only there, a text is a number; NaN is left for the check to refuse by name."""
    values = {"query": "q", "document": "a", "label": text}
    label = made(values, textual=True).labels[0]
    assert label == number if number is not None else not np.isfinite(label)
    with pytest.raises(InvalidInput, match=r"^f:7: column 'label' is .*, not a number$"):
        made(values)


@pytest.mark.parametrize("text", ["", "yes", "1_000", "٣", "\uff11", "0x10", "1,5"])
def test_texts_that_are_no_numbers(text):
    """What float() would read in spite of its look is refused too."""
    with pytest.raises(InvalidInput, match=r"^f:7: column 'label' is '.*', not a number$"):
        made({"query": "q", "document": "a", "label": text}, textual=True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"query": None, "document": "a", "label": 1}, "column 'query' is None, not a text"),
        ({"query": 7, "document": "a", "label": 1}, "column 'query' is 7, not a text"),
        ({"query": ["q"], "document": "a", "label": 1}, "column 'query' is list, not a text"),
        ({"query": "q", "document": None, "label": 1}, "column 'document' is None, not a text"),
        ({"query": "q", "document": 5, "label": 1}, "column 'document' is 5, not a text"),
        ({"query": "q", "document": "a", "label": None}, "column 'label' is None, not a number"),
        ({"query": "q", "document": "a", "label": 10**400}, "column 'label' is 1000.*…, not a number"),
        ({"query": "q", "document": "a", "label": {}}, "column 'label' is dict, not a number"),
        ({"query": "q", "document": "a", "label": [1, 0]}, "column 'label' has 2 values, where not one number"),
        ({"query": "q", "documents": ["a", "b"], "labels": [1]}, "column 'labels' has 1 values, where 2 documents"),
        ({"query": "q", "documents": ["a", "b"], "labels": 1}, "column 'labels' is 1, where 2 documents need a list"),
        ({"query": "q", "documents": ["a"], "labels": ["1"]}, "column 'labels' is '1', not a number"),
        ({"query": "q", "documents": ["a", None], "labels": [1, 0]}, r"column 'documents\[1\]' is None, not a text"),
        ({"query": "q", "documents": [{"body": "a"}], "labels": [1]}, r"column 'documents\[0\]' is dict, not a text"),
        ({"query": "q", "documents": [Content(None)], "labels": [1]}, r"'documents\[0\]' is Content, not a text"),
        ({"query": "q", "documents": [], "labels": []}, "no document"),
        ({"query": "q", "positives": [], "negatives": []}, "no document"),
        ({"query": "q", "positive": None}, "column 'positive' is None, not a text"),
        ({"query": "q", "positive": "a", "negative": None}, "column 'negative' is None, not a text"),
        ({"query": "q", "positive": "a", "negative": "b", "score": 0.3}, r"'score' is 0.3, .* columns=\{'label': None"),
        ({"query": "q", "document": "a", "label": 1, "query_id": 1.5}, "column 'query_id' has the id 1.5"),
        ({"query": "q", "documents": ["a"], "labels": [1], "document_ids": []}, "column 'document_ids' has 0 values"),
    ],
)
def test_refused_values(values, words):
    """Nothing is cut, padded or turned into text: the row and the column are named."""
    with pytest.raises(InvalidInput, match=f"^f:7: .*{words}" if words != "no document" else "^f:7: no document$"):
        made(values)


def test_a_blank_document_is_kept_for_the_check():
    """One empty negative of a triple is a fault of the data, not padding."""
    layout = Layout("query", positives=("positive",), negatives=("negative",))
    row = Row("f:7", {"query": "q", "positive": "a", "negative": ""}, True)
    assert group_of(row, layout).documents == ("a", "")
