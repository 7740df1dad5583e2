"""Columns by name: which shapes are seen, and what is said when none or several are."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.columns import Layout, chosen_columns, layout_of


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


@pytest.mark.parametrize(
    "names", ["query document", "document label", "query label", "a b c", "", "query negative", "positive negative"]
)
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
