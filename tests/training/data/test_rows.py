"""Rows of every shape to groups, and what a bad value is told."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pytest
import torch

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group
from secondpass.training.data.rows import Layout, Row, chosen_columns, group_of, group_of_ids, layout_of, layout_of_ids


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
    ("text", "number"),
    [
        ("1", 1.0),
        ("0.25", 0.25),
        ("-1e-3", -0.001),
        (" 2 ", 2.0),
        ("true", 1.0),
        (" FALSE", 0.0),
        ("nan", None),
        ("inf", None),
    ],
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
        (
            {"query": "q", "positive": "a", "negatives": ["b", "c"], "score": 0.3},
            r"'score' is 0.3, .* columns=\{'label': None",
        ),
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


def seen(names, columns=None):
    """Find the layout of column names."""
    return layout_of(names.split(), chosen_columns(columns), "f:1")


@pytest.mark.parametrize(
    ("names", "layout"),
    [
        ("query document label", Layout("query", "document", "label")),
        ("sentence1 sentence2 score", Layout("sentence1", "sentence2", "score")),
        ("question answer relevance", Layout("question", "answer", "relevance")),
        ("lang anchor text label", Layout("anchor", "text", "label")),
        ("Query Passage Label", Layout("Query", "Passage", "Label")),
        ("query documents labels", Layout("query", "documents", "labels")),
        ("query passages scores", Layout("query", "passages", "scores")),
        ("qid query pid passage grade", Layout("query", "passage", "grade", query_id="qid", document_id="pid")),
        ("query positive", Layout("query", positives=("positive",))),
        ("anchor positive negative", Layout("anchor", positives=("positive",), negatives=("negative",))),
        ("query pos neg", Layout("query", positives=("pos",), negatives=("neg",))),
        ("query positives negatives", Layout("query", positives=("positives",), negatives=("negatives",))),
        (
            "question answers positive_ctxs hard_negative_ctxs",
            Layout("question", positives=("positive_ctxs",), negatives=("hard_negative_ctxs",)),
        ),
        (
            "query_id query positive_passages negative_passages",
            Layout("query", positives=("positive_passages",), negatives=("negative_passages",), query_id="query_id"),
        ),
        (
            "query positive negative_10 negative_2 negative_1 scores",
            Layout("query", None, "scores", ("positive",), ("negative_1", "negative_2", "negative_10")),
        ),
        (
            "anchor positive negative negative_2",
            Layout("anchor", positives=("positive",), negatives=("negative", "negative_2")),
        ),
    ],
)
def test_known_shapes(names, layout):
    """Names of the datasets in use are understood; numbered columns are read by number."""
    assert seen(names) == layout


@pytest.mark.parametrize("names", ["document label", "query label", "a b c", "", "query negative", "positive negative"])
def test_unknown_shapes_list_columns_and_shapes(names):
    """What was found and what would be understood, both in the message."""
    with pytest.raises(InvalidInput, match=r"^f:1: the columns .*form none of .*query, positives, negatives") as error:
        seen(names)
    assert all(repr(name) in str(error.value) for name in names.split())


def test_a_table_without_header_is_not_quoted_whole():
    """Texts in place of names are cut in the message."""
    with pytest.raises(InvalidInput) as error:
        layout_of(["x" * 5000] * 30, {}, "f:1")
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("query passage answer label", "any of 'passage', 'answer' could be the document"),
        ("query document label score", "any of 'label', 'score' could be the label"),
        ("query question document label", "any of 'query', 'question' could be the query"),
        ("query Query document label", "any of 'query', 'Query' could be the query"),
        ("query positive negative hard_negative", "any of 'negative', 'hard_negative' could be the negative"),
        ("query document positive label", "both .* could be the documents"),
    ],
)
def test_ambiguous_columns_are_refused(names, words):
    """Guessing which one was meant would train on the wrong texts."""
    with pytest.raises(InvalidInput, match=words):
        seen(names)


@pytest.mark.parametrize(
    ("names", "columns", "layout"),
    [
        ("frage text label", {"query": "frage"}, Layout("frage", "text", "label")),
        ("query passage answer label", {"document": "answer"}, Layout("query", "answer", "label")),
        ("query document label score", {"score": "score"}, Layout("query", "document", "score")),
        ("question answer", {"positive": "answer"}, Layout("question", positives=("answer",))),
        ("query document positive label", {"positives": "positive"}, Layout("query", None, "label", ("positive",))),
        ("query document positive label", {"document": "document"}, Layout("query", "document", "label")),
        ("query positive negative label", {"label": None}, Layout("query", None, None, ("positive",), ("negative",))),
        ("query positive a b", {"negatives": ["b", "a"]}, Layout("query", None, None, ("positive",), ("b", "a"))),
        ("query document label qid", {"query_id": None}, Layout("query", "document", "label")),
    ],
)
def test_the_caller_goes_first(names, columns, layout):
    """A chosen column is taken, the rest is still seen by name, and None leaves a role out."""
    assert seen(names, columns) == layout


def test_a_chosen_column_must_be_there():
    """A typing error is not replaced by a guess."""
    with pytest.raises(InvalidInput, match=r"f:1: no column 'qury' for 'query' among 'query', 'document', 'label'"):
        seen("query document label", {"query": "qury"})


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"qury": "q"}, "columns: 'qury' is none of query, document"),
        ({"document": "a", "documents": "b"}, "'documents' was named before"),
        ({"query": ["a", "b"]}, r"columns\['query'\] is \['a', 'b'\], not the name of a column"),
        ({"query": [1]}, r"columns\['query'\] is \[1\]"),
    ],
)
def test_refused_choices(columns, words):
    """Roles are known words, each named once."""
    with pytest.raises(InvalidInput, match=words):
        chosen_columns(columns)


def test_what_is_read():
    """Only these columns are taken out of a Parquet file."""
    layout = Layout("q", None, "s", ("p",), ("n1", "n2"), "i")
    assert sorted(layout.columns) == ["i", "n1", "n2", "p", "q", "s"]


@pytest.mark.parametrize(
    ("values", "columns", "documents", "labels"),
    [
        ({"query": "q", "document": "a", "clicked": 1}, None, ("a",), (1.0,)),
        ({"query": "q", "document": "a", "clicks": 3, "time": 5}, None, ("a",), (3.0,)),
        ({"query": "q", "document": "a", "label": 0, "clicks": 3}, None, ("a",), (0.0,)),
        ({"query": "q", "answer": "a", "query_id": 1, "doc_id": 2}, None, ("a",), (1.0,)),
        ({"query": "q", "document": "a", "time": 5}, {"label": None}, ("a",), (1.0,)),
        ({"query": "q", "positive": "a", "clicks": 3}, None, ("a",), (1.0,)),
    ],
)
def test_clicks_are_labels_and_pairs_alone_are_relevant(values, columns, documents, labels):
    """A column of clicks counts where no other says how relevant; a pair with nothing else is a relevant pair."""
    found = made(values, **(columns or {}))
    assert (found.documents, found.labels) == (documents, labels)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"query": "q", "document": "a", "gold": 0},
            r"none of the columns .*'gold' is known as a label.*'label': None",
        ),
        ({"query": "q", "documents": ["a", "b"]}, "is a list of documents, and no column has their labels"),
        ({"query_id": "q", "doc_id": "a", "clicks": 1}, "have ids: corpus and queries are needed too"),
    ],
)
def test_what_may_be_no_relevant_pair_is_refused(values, words):
    """An unknown column could be the label, a list needs one each, and an id is no text."""
    with pytest.raises(InvalidInput, match=words):
        made(values)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ({"positive": "a", "negative": "b", "label": 2.5}, (0.0, -2.5)),
        ({"document_one": "a", "document_two": "b", "margin": -0.5}, (0.0, 0.5)),
        ({"positive": "a", "negative_1": "b", "negative_2": "c", "score": [2.5, 1]}, (0.0, -2.5, -1.0)),
        ({"positive": "a", "negatives": ["b", "c"], "labels": [4, 1, 2]}, (4.0, 1.0, 2.0)),
        ({"positive": "a", "negative": "b", "label": [2, 1], "margin": 7, "clicks": 9}, (2.0, 1.0)),
    ],
)
def test_margins(values, labels):
    """One number for two passages, or one fewer than documents, is how far the positive is above each negative."""
    found = made({"query": "q", **values})
    assert (found.labels, found.margins) == (labels, labels[0] == 0)


@pytest.mark.parametrize(
    ("values", "query", "documents", "labels"),
    [
        ({"qid": 1, "pid": 20, "clicks": 2}, "1", ("20",), (2.0,)),
        ({"query_id": "q", "docid": "a"}, "q", ("a",), (1.0,)),
        ({"query_id": "q", "product_id": "a", "clicked": 0}, "q", ("a",), (0.0,)),
        ({"query-id": "q", "positive_id": "a", "negative_ids": [7, "b"]}, "q", ("a", "7", "b"), (1.0, 0.0, 0.0)),
        ({"query": "q", "document": "a", "label": 0.5}, "q", ("a",), (0.5,)),
    ],
)
def test_rows_of_ids(values, query, documents, labels):
    """Ids stand where texts stand otherwise; whole numbers are ids too."""
    row = Row("f:7", values)
    found = group_of_ids(row, layout_of_ids(list(values), {}, "f:7"))
    assert (found.query, found.documents, found.labels) == (query, documents, labels)
