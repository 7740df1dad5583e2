"""Groups as values and as files, a teacher's opinion included."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from secondpass.errors import InvalidInput
from secondpass.training import best_passages
from secondpass.training.data import passages
from secondpass.training.data.groups import Group, Teaching, counted, fingerprint, write_groups
from secondpass.training.data.sources import read_groups
from secondpass.windows import Windows

GROUPS = [
    Group("q1", ("a", "b\u2028 \ud800"), (1.0, 0.0), query_id="7", document_ids=("d1", "d2")),
    Group("q2", ("c", "d"), (0.0, 2.0), teaching=Teaching((0.1, -3.25), 0.5, 2.0)),
]


def test_length_is_the_number_of_documents():
    """What batches count."""
    assert len(GROUPS[0]) == 2


def test_written_groups_are_read_back(tmp_path):
    """To the last bit of a score, whatever characters the texts have; no other reader is needed."""
    path = tmp_path / "groups.jsonl"
    write_groups(path, GROUPS)
    back = list(read_groups(path))
    for group, ours in zip(back, GROUPS, strict=True):
        for name in ("query", "query_id", "documents", "labels", "document_ids", "teaching"):
            assert getattr(group, name) == getattr(ours, name)
    assert "teaching" not in json.loads(path.read_text(encoding="utf-8").split("\n")[0])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([1.0, 2.0], "column 'teaching' is list, not an object of scores and perhaps weight and label_weight"),
        ({"scores": [1.0, 2.0], "wait": 1}, "column 'teaching' is dict, not an object of scores"),
        ({"scores": [1.0]}, "column 'teaching': column 'scores' has 1 values, where 2 documents need a list of 2"),
        ({"scores": [1.0, "x"]}, "column 'scores' is 'x', not a number"),
        ({"scores": [1.0, 2.0], "weight": None}, "column 'weight' is None, not a number"),
    ],
)
def test_what_is_no_opinion_is_refused(tmp_path, value, reason):
    """By line and column."""
    path = tmp_path / "groups.jsonl"
    row = {"query": "q", "documents": ["a", "b"], "labels": [1, 0], "teaching": value}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=rf"groups.jsonl:1: .*{reason}"):
        next(read_groups(path))


def test_a_row_may_have_no_opinion(tmp_path):
    """null: nobody was asked about this query."""
    path = tmp_path / "groups.jsonl"
    path.write_text(json.dumps({"query": "q", "documents": ["a"], "labels": [1], "teaching": None}) + "\n")
    assert next(read_groups(path)).teaching is None


@pytest.mark.parametrize(("name", "reason"), [("g.txt", "has to end in .jsonl"), ("no/g.jsonl", "there is no folder")])
def test_where_groups_cannot_be_written(tmp_path, name, reason):
    """Refused before anything is made."""
    with pytest.raises(InvalidInput, match=reason):
        write_groups(tmp_path / name, GROUPS)


def figures(*labels, kind="relevance", dropped=None, repeated=0):
    """Count groups with these labels."""
    groups = [Group("q", tuple(f"d{n}" for n in range(len(row))), row) for row in labels]
    return counted(groups, kind, dropped or {}, repeated)


def test_sizes():
    """Documents of all groups, and of the smallest, middle and largest."""
    counts = figures((1.0, 0.0), (1.0,), (1.0, 0.0, 0.0, 0.0), (0.0,))
    assert (counts.groups, counts.documents) == (4, 8)
    assert (counts.shortest, counts.median, counts.longest) == (1, 1, 4)


def test_labels():
    """Few different ones are counted each, in order; many as a range."""
    counts = figures((2.0, 0.0), (0.0, 1.0), kind="grade")
    assert list(counts.histogram.items()) == [(0.0, 2), (1.0, 1), (2.0, 1)]
    assert (counts.positives, counts.negatives) == (2, 2)
    many = figures(tuple(float(n) for n in range(-5, 6)), kind="score")
    assert many.histogram == {}
    assert (many.lowest, many.highest, many.label_sum) == (-5.0, 5.0, 0.0)
    assert (many.positives, many.negatives) == (None, None)
    ten = figures(tuple(float(n) for n in range(10)), kind="class")
    assert len(ten.histogram) == 10


def test_soft_labels_are_positive_from_a_half_on():
    """Relevance is a probability."""
    counts = figures((0.5, 0.49, 1.0, 0.0))
    assert (counts.positives, counts.negatives) == (2, 2)


@pytest.mark.parametrize(("labels", "weight"), [((1.0, 0.0, 0.0, 0.0), 3.0), ((1.0, 1.0, 0.0), 0.5), ((0.25,), 3.0)])
def test_weight_that_balances(labels, weight):
    """Negatives by positives; with it both sides weigh the same."""
    counts = figures(labels)
    assert counts.positive_weight == pytest.approx(weight)
    positives, negatives = sum(labels), sum(1 - label for label in labels)
    assert counts.positive_weight * positives == pytest.approx(negatives)


@pytest.mark.parametrize(
    ("labels", "words"), [((1.0, 1.0), "all 2 labels are 1"), ((0.0,), "all 1 labels are 0"), ((2.0, 0.0), "0 to 2")]
)
def test_what_no_weight_balances(labels, words):
    """One side alone, or labels that are no relevance."""
    with pytest.raises(InvalidInput, match=words):
        _ = figures(labels).positive_weight


def test_lines():
    """What is shown before the first step."""
    counts = figures((1.0, 0.0), (1.0,) * 1500, dropped={"whose labels are all equal": 1200}, repeated=3)
    assert counts.lines() == [
        "2 groups, 1,502 documents (2 to 1500 a group, median 2)",
        "labels: 0 (1), 1 (1,501)",
        "positives: 1,501, negatives: 1",
        "dropped: 1,200 groups, whose labels are all equal",
        "dropped: 3 documents that their group has already",
    ]
    assert figures(tuple(n / 8 for n in range(-8, 9)), kind="score").lines() == [
        "1 groups, 17 documents (17 a group, median 17)",
        "labels: from -1 to 1, mean 0",
    ]


def test_plain_values():
    """The model's card and a checkpoint's manifest hold them."""
    made = json.loads(json.dumps(figures((1.0, 0.5), dropped={"x": 2}, repeated=1).as_json()))
    assert made["histogram"] == {"0.5": 1, "1": 1}
    assert made["dropped"] == {"x": 2}
    assert (made["groups"], made["documents"], made["label_sum"], made["repeated"]) == (1, 2, 1.5, 1)


ONE, TWO = Group("q", ("a", "b"), (1.0, 0.0), "f:1", "7", ("x", "y")), Group("é\ud800", ("c",), (-0.5,))


def test_what_does_not_count():
    """Where it was read, ids, and how it is handed over."""
    moved = [replace(ONE, source="g:9", query_id="", document_ids=()), TWO]
    assert fingerprint(moved) == fingerprint(iter([ONE, TWO]))
    assert len(fingerprint([])) == 64


@pytest.mark.parametrize(
    "other",
    [
        [],
        [ONE],
        [TWO, ONE],
        [ONE, TWO, TWO],
        [replace(ONE, query="q "), TWO],
        [replace(ONE, query="qa", documents=("", "b")), TWO],
        [replace(ONE, documents=("ab", "")), TWO],
        [replace(ONE, documents=("b", "a")), TWO],
        [replace(ONE, labels=(0.0, 1.0)), TWO],
        [replace(ONE, labels=(math.nextafter(1.0, 0), 0.0)), TWO],
        [Group("q", ("a",), (1.0,)), Group("q", ("b",), (0.0,)), TWO],
    ],
)
def test_what_counts(other):
    """Texts, where one ends, labels to the last bit, grouping and order."""
    assert fingerprint(other) != fingerprint([ONE, TWO])


LONG = ["the cat sat on the red mat. " * 3 + "a dog sat in the garden. " * 3, "paris is a city. " * 5 + "a river " * 20]


def test_long_documents_become_their_best_windows(tiny, monkeypatch):
    """Each by itself; labels, ids and a teacher's opinion stay, and what fits is as it was."""
    monkeypatch.setattr(passages, "TOGETHER", 2)
    windows = Windows(tokens=12)
    groups = [
        Group("where is the cat", (*LONG, "a cat"), (1.0, 0.0, 0.0), "f:1", "7", ("a", "b", "c"), Teaching((1, 2, 3))),
        *(Group(f"dog {number}", (LONG[1], "dog"), (0.0, 1.0)) for number in range(3)),
    ]
    made = list(best_passages(iter(groups), tiny, windows))
    for group, given in zip(made, groups, strict=True):
        assert replace(group, documents=given.documents) == given
        (ranking,) = tiny.rank_many([given.query], [given.documents], truncation=windows)
        for one in ranking.documents:
            text = given.documents[one.index]
            whole = one.passage.windows == 1
            assert group.documents[one.index] == (text if whole else text[one.passage.start : one.passage.end])
            assert whole == (len(text) < 10)
    assert made[0].documents[0] in LONG[0]
    assert len(made[0].documents[0]) < 60


@pytest.mark.parametrize("select", ["first", "bm25"])
def test_a_long_document_is_its_window_where_one_is_read(tiny, select):
    """What fits, and what says nothing, is as it was."""
    group = Group("where is the cat", (LONG[0], "  a cat ", "\u200b"), (1.0, 0.0, 0.0))
    windows = Windows(tokens=8, most=1, select=select)
    (made,) = best_passages([group], tiny, windows)
    (ranking,) = tiny.rank_many([group.query], [group.documents], truncation=windows)
    passage = next(one.passage for one in ranking.documents if one.index == 0)
    assert passage.windows == 1
    assert made.documents == (LONG[0][passage.start : passage.end], *group.documents[1:])
    assert len(made.documents[0]) < 60


def test_one_text_keeps_one_label(tiny):
    """A window that two documents share would be relevant and not: those stay as they are."""
    group = Group("where is the cat", ("cat " * 40, "cat " * 48, "dog " * 40), (1.0, 0.0, 0.0))
    windows = Windows(tokens=8, overlap=0)
    (made,) = best_passages([group], tiny, windows)
    assert made.documents == (*group.documents[:2], "dog dog dog dog dog dog dog dog")
    (alike,) = best_passages([replace(group, labels=(1.0, 1.0, 0.0))], tiny, windows)
    assert alike.documents[0] == alike.documents[1] == "cat cat cat cat cat cat cat cat"
