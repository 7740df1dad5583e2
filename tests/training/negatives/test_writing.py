"""Mined groups as a file: read back by the data readers, whole or not there."""

from __future__ import annotations

import json

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import checked_target
from secondpass.training.negatives.mining import mine_negatives
from secondpass.training.negatives.rule import MiningRule
from secondpass.training.negatives.writing import write_mined

CORPUS = {"d1": "one é\u2028 1", "d2": "two\n2", "d3": "broken \ud800", "d4": "four"}
QRELS = {"q1": {"d1": 2, "d4": 0}, "q2": {"d2": 1}}
QUERIES = {"q1": "first?", "q2": "sëcond"}
FOUND = {"q1": [("d1", 2.5), ("d3", 1.5)], "q2": [("d3", 0.125)]}


def test_round_trip_through_the_data_readers(tmp_path):
    """Texts, labels and ids come back, whatever characters they have."""
    from secondpass.training.data.sources import read_groups

    mined = mine_negatives(QUERIES, CORPUS, QRELS, FOUND, rule=MiningRule(graded=True))
    path = tmp_path / "groups.jsonl"
    write_mined(path, mined)
    back = list(read_groups(path))
    for group, ours in zip(back, mined.groups, strict=True):
        for name in ("query", "query_id", "documents", "labels", "document_ids"):
            assert getattr(group, name) == getattr(ours, name)


def test_the_lines(tmp_path, tiny):
    """An object a group; scores beside the documents, null where there is none."""
    path = tmp_path / "groups.jsonl"
    mined = mine_negatives(QUERIES, CORPUS, QRELS, FOUND)
    write_mined(path, mined)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert rows[0] == {
        "query_id": "q1",
        "query": "first?",
        "documents": [CORPUS["d1"], CORPUS["d4"], CORPUS["d3"]],
        "labels": [1.0, 0.0, 0.0],
        "document_ids": ["d1", "d4", "d3"],
        "first_pass_scores": [2.5, None, 1.5],
    }
    rescored = mine_negatives(QUERIES, CORPUS, QRELS, FOUND, cross_encoder=tiny)
    write_mined(path, rescored)
    row = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert row["cross_encoder_scores"] == list(rescored.cross_encoder_scores[0])
    assert row["cross_encoder_scores"][1] is None
    assert [file.name for file in tmp_path.iterdir()] == ["groups.jsonl"]


def test_a_failure_leaves_the_former_file(tmp_path):
    """Half a file is never there, nor what was begun."""
    path = tmp_path / "groups.jsonl"
    path.write_text("former")
    mined = mine_negatives(QUERIES, CORPUS, QRELS, {"q1": [("d3", 1.0)], "q2": [("d3", 1.0)]})
    broken = type(mined)(mined.groups, mined.report, ((1.0,), (float("nan"),)), mined.cross_encoder_scores)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_mined(path, broken)
    assert path.read_text() == "former"
    assert [file.name for file in tmp_path.iterdir()] == ["groups.jsonl"]


def test_refused_targets(tmp_path):
    """Before any work is done: another ending (which would be read as something else), a folder, no folder."""
    for name, words in (("g.jsonl.gz", "end in"), ("g.csv", "end in"), ("no/g.jsonl", "there is no folder")):
        with pytest.raises(InvalidInput, match=words):
            checked_target(tmp_path / name)
    (tmp_path / "f.jsonl").mkdir()
    with pytest.raises(InvalidInput, match="is a folder"):
        checked_target(tmp_path / "f.jsonl")
