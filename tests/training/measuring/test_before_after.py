"""Runs before and after on held-out queries: candidates, judgements, and what an analysis of them says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate
from secondpass.training.data.checking import joined_by_query
from secondpass.training.data.groups import Group
from secondpass.training.measuring.before_after import (
    AFTER,
    BEFORE,
    DevRanking,
    held_out,
    of_folder,
    of_groups,
    queries_in_both,
)
from tests.small_collection import QUERIES
from tests.training.toy_run import toy_groups

pytest.importorskip("ir_measures")

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


@pytest.mark.parametrize("given", [False, True])
def test_a_querys_own_document_is_no_candidate(beir: Path, tmp_path: Path, given: bool) -> None:
    """Measured as `secondpass evaluate` measures a BEIR folder: without documents whose id is the query's, and said."""
    pytest.importorskip("bm25s")
    with (beir / "corpus.jsonl").open("a") as corpus:
        corpus.write('{"_id": "q1", "text": "reset my password"}\n')
    run = tmp_path / "own.trec"
    run.write_text("q1 Q0 q1 1 2 x\nq1 Q0 d1 2 1 x\n")
    held = of_folder(beir, measures=MEASURES, depth=1, run=run if given else None)
    assert held.first is not None
    assert list(held.first["q1"]) == ["d1"]
    assert held.note == "1 documents whose id is their query's are left out, as BEIR does"


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


GROUPS = [
    Group("cat", ("mat", "dog", "river"), (0.0, 2.0, 1.0), "a:1", "q1", ("m", "d", "r")),
    Group("dog", ("sun", "dog"), (0.0, 1.0), "a:2", "q1", ("s", "d")),
    Group("sun", ("sun", "dog"), (1.0, 0.0), "a:3"),
]


def test_the_score_is_the_measure_of_the_rankings(tiny):
    """Equal to ranking each query by hand; graded, with repeated and missing ids."""
    ranking = DevRanking(GROUPS, "nDCG@2")
    assert list(ranking.qrels) == ["q1", "q1#1", "2"]
    run = ranking.run(tiny, "model")
    for name, group in zip(run, GROUPS, strict=True):
        expected = [item["corpus_id"] for item in tiny.rank(group.query, group.documents)]
        ids = group.document_ids or ("0", "1")
        assert list(run[name]) == [ids[place] for place in expected]
    mean = evaluate(ranking.qrels, run, ["nDCG@2"]).means["nDCG@2"]
    assert ranking(tiny, output_path=None, epoch=0, steps=-1) == mean
    assert 0 < mean < 1


def test_the_given_order_is_a_run(tiny):
    """What a first pass gave, to compare with."""
    ranking = DevRanking(GROUPS)
    assert list(ranking.given("first")["q1"]) == ["m", "d", "r"]


def test_many_queries(tiny):
    """More than one call's worth, in order."""
    ranking = DevRanking(toy_groups(1, 150))
    assert list(ranking.run(tiny, "model")) == [str(number) for number in range(150)]


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "no query"),
        ([Group("q", ("a",), (0.0,))], "no query"),
        ([Group("q", ("a", "b"), (0.5, 1.0), "dev.jsonl:7")], r"dev\.jsonl:7.*0\.5"),
    ],
)
def test_refused(groups, words):
    """Nothing to measure by, or labels that are no grades."""
    with pytest.raises(InvalidInput, match=words):
        DevRanking(groups)


def test_what_measures_the_same_in_any_order_chooses_no_weights():
    """Positives alone are refused, with the way out; beside others they are counted; what only measures takes them."""
    alone = [Group(f"q{number}", ("a", "b"), (1.0, 1.0)) for number in range(2)]
    with pytest.raises(
        InvalidInput, match=r"^dev: no query has both a relevant document and another.*finds negatives$"
    ):
        DevRanking([*alone, Group("q2", ("a",), (0.0,))])
    pairs = [Group("q", ("a",), (1.0,)), Group("q", ("b",), (0.0,))]
    with pytest.raises(InvalidInput, match="to choose by; join its rows by join=True"):
        DevRanking(pairs)
    assert DevRanking(joined_by_query(pairs)).note == ""
    mixed = of_groups("dev", [*alone, Group("q2", ("a", "b"), (2.0, 1.0))], MEASURES)
    assert mixed.note == "2 of 3 queries have documents of one grade alone: they measure the same in any order"
    assert DevRanking(alone, chooses=False).note.startswith("2 of 2 queries")


def groups(count: int) -> list[Group]:
    """Two groups a query."""
    return [
        Group(f"query {number}", (f"document {part}",), (float(part),)) for number in range(count) for part in (0, 1)
    ]


@pytest.mark.parametrize(("share", "held"), [(0.1, 5), (0.5, 25), (0.001, 1), (0.999, 49)])
def test_share_of_the_queries(share: float, held: int) -> None:
    """All groups of a query go together, in order; one is held out and one left at least."""
    kept, out = held_out(groups(50), share)
    assert len({group.query for group in out}) == held
    assert len(out) == 2 * held
    assert {group.query for group in kept}.isdisjoint(group.query for group in out)
    assert sorted(kept + out, key=groups(50).index) == groups(50)
    assert kept == sorted(kept, key=groups(50).index)


def test_order_does_not_matter_and_the_seed_does() -> None:
    """The same queries are chosen whatever their order; another seed chooses others."""
    mixed = groups(50)
    random.Random(1).shuffle(mixed)
    chosen = {group.query for group in held_out(groups(50), 0.2)[1]}
    assert {group.query for group in held_out(mixed, 0.2)[1]} == chosen
    assert {group.query for group in held_out(groups(50), 0.2, seed=1)[1]} != chosen


def test_more_data_moves_few_queries() -> None:
    """Of what was held out before, most still is when a tenth more queries come."""
    before = {group.query for group in held_out(groups(100), 0.2)[1]}
    after = {group.query for group in held_out(groups(110), 0.2)[1]}
    assert len(before & after) >= 17


def test_spellings_of_one_query_stay_together() -> None:
    """Case and white space make no new query, which would be half learnt from."""
    both = [Group("How  so", ("a",), (1.0,)), Group("how so ", ("b",), (0.0,)), Group("other", ("c",), (1.0,))]
    kept, out = held_out(both, 0.5)
    assert sorted((len(kept), len(out))) == [1, 2]
    assert queries_in_both(both, ["HOW SO", "how so", "new"]) == 1
    assert queries_in_both(both, []) == 0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_bad_shares(share: float) -> None:
    """Nothing or everything cannot be held out."""
    with pytest.raises(InvalidInput, match="dev_share="):
        held_out(groups(5), share)


def test_too_few_queries_and_strange_ones() -> None:
    """One query cannot be divided; a lone surrogate is a query like others."""
    with pytest.raises(InvalidInput, match="1 query cannot be divided"):
        held_out(groups(1), 0.5)
    with pytest.raises(InvalidInput, match="0 query"):
        held_out([], 0.5)
    assert len(held_out([*groups(2), Group("\ud800", ("a",), (1.0,))], 0.3)[1]) >= 1
