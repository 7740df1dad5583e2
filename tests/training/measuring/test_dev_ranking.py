"""Held-out queries to one figure."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate
from secondpass.training.data.groups import Group
from secondpass.training.measuring.dev_ranking import DevRanking
from tests.training.toy_run import toy_groups

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
