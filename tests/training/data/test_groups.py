"""Groups as values and as files, a teacher's opinion included."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group, Teaching, write_groups
from secondpass.training.data.sources import read_groups

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
