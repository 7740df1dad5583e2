"""Judgements to groups: grades as labels, texts found, unknown ids named."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.training.data.groups import Group
from secondpass.training.data.judged import judged_groups

QRELS = Qrels({"2": {"b": 2, "a": 0, "c": -2}, "1": {"a": 1}})
QUERIES = {"1": "one", "2": "two", "3": "not judged"}
CORPUS = {name: f"text {name}" for name in "abcde"}


def test_grades_are_labels():
    """In the order of the judgements; grade 0 stays as judged and not relevant, below 0 is 0."""
    assert list(judged_groups(QRELS, QUERIES, CORPUS, source="f")) == [
        Group("two", ("text b", "text a", "text c"), (2.0, 0.0, 0.0), "f query '2'", "2", ("b", "a", "c")),
        Group("one", ("text a",), (1.0,), "f query '1'", "1", ("a",)),
    ]


def test_files_give_the_same(tmp_path):
    """A corpus and queries in files, titles joined to texts as everywhere."""
    corpus, queries = tmp_path / "corpus.jsonl", tmp_path / "queries.jsonl"
    lines = [{"_id": name, "title": "text" * (name != "b"), "text": name} for name in CORPUS]
    corpus.write_text("\n".join(map(json.dumps, lines)))
    queries.write_text("\n".join(json.dumps({"_id": name, "text": text}) for name, text in QUERIES.items()))
    found = list(judged_groups(QRELS, queries, corpus, source="f"))
    assert found[1] == next(g for g in judged_groups(QRELS, QUERIES, CORPUS, source="f") if g.query_id == "1")
    assert found[0].documents == ("b", "text a", "text c")


def test_unjudged_documents_of_a_run_as_negatives():
    """From the top of the run, so many as asked, never one that was judged; a query without a ranking gets none."""
    run = Run.from_scores("bm25", {"2": {"a": 9, "d": 8, "b": 7, "e": 6}, "3": {"a": 1}})
    one, other = judged_groups(QRELS, QUERIES, CORPUS, source="f", run=run, unjudged_negatives=1)
    assert (one.document_ids, one.labels) == (("b", "a", "c", "d"), (2.0, 0.0, 0.0, 0.0))
    assert one.documents[3] == "text d"
    assert other.document_ids == ("a",)
    one, _ = judged_groups(QRELS, QUERIES, CORPUS, source="f", run=run, unjudged_negatives=50)
    assert one.document_ids == ("b", "a", "c", "d", "e")


@pytest.mark.parametrize(
    ("queries", "corpus", "words"),
    [
        ({"1": "one"}, CORPUS, r"f: 1 queries have no text: '2'$"),
        (QUERIES, {"a": "x"}, r"f: 2 documents have no text: 'b', 'c'$"),
        (QUERIES, {}, r"f: 3 documents have no text: 'b', 'a', 'c'$"),
    ],
)
def test_unknown_ids_are_named(queries, corpus, words):
    """A judgement without its text is no training data that may vanish."""
    with pytest.raises(InvalidInput, match=words):
        list(judged_groups(QRELS, queries, corpus, source="f"))


def test_many_unknown_ids_are_counted():
    """The first five are shown."""
    qrels = Qrels({"1": {f"d{n}": 1 for n in range(30)}})
    with pytest.raises(InvalidInput, match=r"f: 30 documents have no text: 'd0', 'd1', 'd2', 'd3', 'd4', …$"):
        list(judged_groups(qrels, QUERIES, CORPUS, source="f"))


def test_documents_of_a_run_without_text_are_named():
    """The run was made on another corpus."""
    run = Run.from_scores("bm25", {"1": {"x9": 1}})
    with pytest.raises(InvalidInput, match="f: 1 documents have no text: 'x9'"):
        list(judged_groups(QRELS, QUERIES, CORPUS, source="f", run=run, unjudged_negatives=2))
