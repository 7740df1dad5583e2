"""Figures of training data, as numbers and as lines for people."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.counts import counted
from secondpass.training.data.groups import Group


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
