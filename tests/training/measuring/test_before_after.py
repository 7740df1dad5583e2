"""Runs before and after on held-out queries: candidates, judgements, and what an analysis of them says."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ir_measures")

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate
from secondpass.training.data.groups import Group
from secondpass.training.measuring.before_after import AFTER, BEFORE, of_folder, of_groups
from tests.small_collection import QUERIES

MEASURES = ("nDCG@10", "RR@10")


def test_a_folder_with_bm25(beir: Path, tiny: CrossEncoder) -> None:
    """BM25 finds the candidates; what it misses counts all the same, since the judgements are the folder's."""
    pytest.importorskip("bm25s")
    held = of_folder(beir, measures=MEASURES, depth=1)
    assert held.first is not None
    assert held.first.name == "BM25"
    assert [len(held.first[query]) for query in held.first] == [1, 1, 1]
    assert dict(held.qrels["q2"]) == {"d3": 1, "d4": 2}
    assert held.queries == [query["text"] for query in QUERIES[:3]]
    held.measure(tiny, BEFORE)
    # One candidate a query: no model changes the order, and q2 has only one of its two documents.
    analysis = held.analysis()
    assert analysis.reports[0].values["nDCG@10"] == analysis.reports[1].values["nDCG@10"]
    assert analysis.reports[0].values["nDCG@10"]["q2"] < 1.0


def test_a_folder_with_a_run(beir: Path, tiny: CrossEncoder, tmp_path: Path) -> None:
    """A first pass from a file keeps its order and name; before and after are measured on the same candidates."""
    run = tmp_path / "mine.trec"
    run.write_text("q1 Q0 d2 1 2 x\nq1 Q0 d1 2 1 x\nq3 Q0 d5 1 1 x\nother Q0 d1 1 1 x\n")
    held = of_folder(beir, measures=MEASURES, run=run)
    assert held.first is not None
    assert list(held.first["q1"]) == ["d2", "d1"]
    assert [group.labels for group in held.ranking.groups] == [(0.0, 2.0), (1.0,)]
    held.measure(tiny, BEFORE)
    held.measure(tiny, AFTER)
    found = held.analysis()
    assert [report.system for report in found.reports] == ["mine", BEFORE, AFTER]
    # q2 has a relevant document and no candidates: it counts as found by nobody.
    assert found.reports[0].values["nDCG@10"]["q2"] == 0.0
    gain = held.gain()
    assert [report.system for report in gain.reports] == [BEFORE, AFTER]
    assert [each.difference for each in gain.comparisons] == [0.0, 0.0]
    expected = evaluate(held.qrels, held.runs[0], MEASURES).means
    assert dict(gain.reports[0].means) == dict(expected)


def test_of_groups(tiny: CrossEncoder) -> None:
    """Labels are the grades; the order given means nothing, so there is no first pass."""
    groups = [Group("a cat", ("the cat", "a dog"), (1.0, 0.0)), Group("a dog", ("the cat", "a dog"), (0.0, 2.0))]
    held = of_groups("dev", groups, MEASURES)
    assert held.first is None
    held.measure(tiny, BEFORE)
    held.measure(tiny, AFTER)
    assert [report.system for report in held.analysis().reports] == [BEFORE, AFTER]
    with pytest.raises(InvalidInput, match="no whole grade"):
        of_groups("dev", [Group("q", ("a", "b"), (0.5, 0.0))], MEASURES)


@pytest.mark.parametrize(
    ("limit", "chosen"), [(1, ["q1"]), (2, ["q1", "q3"]), (3, ["q1", "q2", "q3"]), (9, ["q1", "q2", "q3"])]
)
def test_limits_are_spaced(beir: Path, limit: int, chosen: list[str]) -> None:
    """So many queries from all over the judgements, each once, and the judgements of these alone."""
    held = of_folder(beir, measures=MEASURES, limit=limit)
    assert [group.query_id for group in held.ranking.groups] == chosen
    assert list(held.qrels) == chosen


def test_what_cannot_be_measured(beir: Path, tmp_path: Path) -> None:
    """A run with strange documents, one of other queries, and a split that is not there are named."""
    strange, other = tmp_path / "strange.trec", tmp_path / "other.trec"
    strange.write_text("q1 Q0 nowhere 1 2 x\n")
    other.write_text("zzz Q0 d1 1 2 x\n")
    with pytest.raises(InvalidInput, match=r"strange\.trec: document 'nowhere' of query 'q1' is not in"):
        of_folder(beir, measures=MEASURES, run=strange)
    with pytest.raises(InvalidInput, match="finds nothing for any of its 3 queries"):
        of_folder(beir, measures=MEASURES, run=other)
    with pytest.raises(InvalidInput, match="its splits are test"):
        of_folder(beir, "dev", measures=MEASURES)
