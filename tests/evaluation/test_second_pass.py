"""second_pass: the same candidates, the ceiling, and who lost what."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import (
    best_first,
    ceiling_run,
    extended,
    headroom,
    headroom_of,
    ideal_run,
    is_second_pass,
    outside,
    worth,
)

MEASURES = ["nDCG@3", "nDCG", "RR", "AP", "AP(rel=2)", "P@2", "P(rel=2)@2", "R@2", "Rprec", "Bpref", "Success@1",
            "Judged@2", "NumRet"]  # fmt: skip


def run(name: str, **rankings: str) -> Run:
    """A run of one-letter documents, best first; the scores of three are 3, 2, 1."""
    return Run(name, {query: [(document, float(len(ranking) - place)) for place, document in enumerate(ranking)]
                      for query, ranking in rankings.items()})  # fmt: skip


def test_what_each_pass_lost() -> None:
    """By hand: two relevant documents, one found, at rank 4, put at rank 2.

    RR: 1/4 before, 1/2 after, 1 at best, so a third of the gain was reached. R@4: 1/2 is all there is; the other
    half was lost by the first pass, and nothing was to be gained.
    """
    qrels = Qrels({"q": {"d": 1, "z": 1}})
    rr, recall = headroom(qrels, run("first", q="abcd"), run("second", q="adbc"), ["RR", "R@4"])
    assert (rr.measure, rr.first, rr.second, rr.ceiling) == ("RR", 0.25, 0.5, 1.0)
    assert rr.share == pytest.approx(1 / 3)
    assert (recall.first, recall.second, recall.ceiling, recall.share) == (0.5, 0.5, 0.5, None)


def test_the_ideal_is_a_perfect_order_of_all_judged_documents() -> None:
    """Two relevant documents: P@5 is 0.4 at best, whatever is found, so 0.2 is what the first pass lost, not 0.8."""
    qrels = Qrels({"q": {"d": 1, "z": 2, "a": 0}})
    (found,) = headroom(qrels, run("first", q="abcd"), run("second", q="dabc"), ["P@5"])
    assert (found.ceiling, found.ideal) == (0.2, 0.4)
    assert list(ideal_run(qrels)["q"]) == ["z", "d", "a"]


def test_a_worse_order_has_a_negative_share() -> None:
    """From rank 2 to rank 4 where rank 1 was possible: (1/4 - 1/2) / (1 - 1/2)."""
    (found,) = headroom(Qrels({"q": {"b": 1}}), run("first", q="abcd"), run("second", q="acdb"), ["RR"])
    assert found.share == -0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_ceiling_is_the_best_of_all_orders(seed: int) -> None:
    """Brute force over the permutations of five candidates: no order is better, by any measure, in any query."""
    generator = np.random.default_rng(seed)
    grades = {document: int(grade) for document, grade in zip("abcxyz", generator.integers(-1, 4, 6), strict=True)}
    qrels = Qrels({"q": grades | {"a": 2}})
    candidates = "".join(generator.permutation(list("abcde")))
    found = evaluate(qrels, ceiling_run(qrels, run("first", q=candidates)), MEASURES).means
    orders = [evaluate(qrels, run("order", q="".join(order)), MEASURES).means for order in permutations(candidates)]
    assert found == {measure: max(order[measure] for order in orders) for measure in found}


def test_a_perfect_order_keeps_what_is_equal() -> None:
    """By grade, descending; equal grades in the first pass's order; judged others before unjudged ones."""
    qrels = Qrels({"q": {"a": 0, "b": 1, "c": 2, "d": 1, "e": -2}})
    perfect = ceiling_run(qrels, run("first", q="uaedbcv", unjudged="xy"))
    assert "".join(perfect["q"]) == "cdbaeuv"
    assert "".join(perfect["unjudged"]) == "xy"


def test_worth_is_by_grade_then_judged() -> None:
    """Grades below 1 gain nothing, so they are equal, but having been judged counts for Judged@k."""
    grades = {"a": 3, "b": 1, "c": 0, "d": -1}
    assert [worth(grades, document) for document in "abcde"] == [7, 3, 1, 1, 0]
    assert best_first(grades, "edcba") == list("abdce")


def test_a_cut_ranking_is_followed_by_the_other_candidates() -> None:
    """The best two of four, then the others as the first pass had them, without a score."""
    whole = extended(run("first", q="abcd", r="xy"), run("second", q="db", r=""))
    assert list(whole["q"].items()) == [("d", 2.0), ("b", 1.0), ("a", None), ("c", None)]
    assert whole.name == "second"
    assert dict(whole["r"]) == {}


def test_a_whole_ranking_is_left_alone() -> None:
    """Nothing is copied where nothing is missing, and a query that was not answered stays so."""
    second = run("second", q="cab")
    assert extended(run("first", q="abc", other="ab"), second) is second


@pytest.mark.parametrize("second", ["abcdefgh", "abc", "a"], ids=["kept", "top 3", "top 1"])
def test_a_kept_order_gains_exactly_nothing(second: str) -> None:
    """Whole or cut, the same order has the same numbers to the last digit, and none of the gain."""
    qrels = Qrels({"q": {"b": 1, "d": 2, "g": 1, "z": 3}, "r": {"c": 1}})
    first = run("first", q="abcdefgh", r="abcdefgh")
    for found in headroom(qrels, first, run("second", q=second, r=second), MEASURES):
        assert found.second - found.first == 0.0
        assert found.share in (0.0, None)


def test_documents_from_elsewhere_count_for_the_ceiling() -> None:
    """A second pass that adds the one relevant document keeps it, and the ceiling has it too."""
    qrels, first, second = Qrels({"q": {"z": 1}}), run("first", q="ab"), run("second", q="azb")
    assert outside(first, second) == 1
    (found,) = headroom(qrels, first, second, ["RR"])
    assert (found.first, found.second, found.ceiling, found.share) == (0.0, 0.5, 1.0, 0.5)


def test_a_query_without_an_answer_is_the_second_passes_loss() -> None:
    """It counts as an empty ranking, and its candidates stay in the ceiling."""
    qrels = Qrels({"q": {"a": 1}, "r": {"b": 1}})
    (found,) = headroom(qrels, run("first", q="a", r="ab"), run("second", q="a"), ["RR"])
    assert (found.first, found.second, found.ceiling) == (0.75, 0.5, 1.0)


def test_a_query_that_only_the_second_pass_answers_is_in_the_ceiling() -> None:
    """Whatever it found could have been in a perfect order."""
    qrels = Qrels({"q": {"a": 1}, "r": {"b": 1}})
    (found,) = headroom(qrels, run("first", q="a"), run("second", q="a", r="xb"), ["RR"])
    assert (found.first, found.second, found.ceiling, found.share) == (0.5, 0.75, 1.0, 0.5)


def test_the_ceiling_is_above_both_passes() -> None:
    """Over every pair of orders of three candidates of four documents."""
    qrels = Qrels({"q": {"a": 1, "b": 2}})
    orders = ["".join(order) for order in permutations("abcd", 3)]
    for first, second in product(orders[::3], orders[::2]):
        (found,) = headroom(qrels, run("first", q=first), run("second", q=second), ["nDCG"])
        assert max(found.first, found.second) <= found.ceiling


def test_a_second_pass_ranks_mostly_candidates() -> None:
    """More than half of its documents, in queries that both answer."""
    first = run("first", q="abcd")
    assert is_second_pass(first, run("cut", q="d"))
    assert is_second_pass(first, run("added", q="abz", other="xyz"))
    assert not is_second_pass(first, run("half", q="abyz"))
    assert not is_second_pass(first, run("elsewhere", other="abcd"))


def test_headroom_of_reports_is_the_same() -> None:
    """Reports made before give what measuring again gives."""
    qrels, first, second = Qrels({"q": {"c": 1}}), run("first", q="abc"), run("second", q="acb")
    runs = (first, second, ceiling_run(qrels, first), ideal_run(qrels))
    reports = [evaluate(qrels, one, ["RR"]) for one in runs]
    assert headroom_of(*reports) == headroom(qrels, first, second, ["RR"])
