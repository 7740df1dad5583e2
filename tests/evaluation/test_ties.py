"""ties: what equal scores leave open."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.ties import over_ties


def scored(**rankings: list[tuple[str, float | None]]) -> Run:
    """A run in the order given."""
    return Run("run", rankings)


def test_two_tied_documents_are_either_way() -> None:
    """The relevant one is first or second: RR is 1/2, 1, and 3/4 on average."""
    (found,) = over_ties(Qrels({"q": {"b": 1}}), scored(q=[("a", 1.0), ("b", 1.0)]), ["RR"], samples=400)
    assert (found.measure, found.worst, found.best, found.tied_queries) == ("RR", 0.5, 1.0, 1)
    assert found.expected == pytest.approx(0.75, abs=0.05)


def test_worst_and_best_are_those_of_all_orders() -> None:
    """Brute force over the orders that a block of four allows between two documents that stand alone."""
    qrels = Qrels({"q": {"b": 2, "c": 1, "d": 0, "f": 1, "z": 3}})
    block = [(document, 0.5) for document in "bcde"]
    run = scored(q=[("a", 0.9), *block, ("f", 0.1)])
    measures = ["nDCG@3", "AP", "RR", "P@2", "Judged@3"]
    orders = [
        evaluate(qrels, scored(q=[("a", 0.9), *order, ("f", 0.1)]), measures).means for order in permutations(block)
    ]
    for found in over_ties(qrels, run, measures, samples=600):
        values = [order[found.measure] for order in orders]
        assert (found.worst, found.best) == (min(values), max(values))
        assert found.expected == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(600) + 1e-12)


def test_without_ties_all_three_are_the_measure() -> None:
    """Exactly the report's mean, whether it was made before or not, in the order asked for."""
    qrels, run = Qrels({"q": {"b": 1}, "r": {"x": 1}}), scored(q=[("a", 2.0), ("b", 1.0)], r=[("x", 1.0)])
    report = evaluate(qrels, run, ["AP", "RR"])
    found = over_ties(qrels, run, ["RR", "AP"], report=report)
    assert found == over_ties(qrels, run, ["RR", "AP"])
    assert [ties.measure for ties in found] == ["RR", "AP"]
    assert all(ties.worst == ties.expected == ties.best == report.means[ties.measure] for ties in found)
    assert all(ties.tied_queries == 0 for ties in found)


def test_ties_among_equals_open_nothing() -> None:
    """Two documents of one grade, or two that nobody judged, may stand either way."""
    run = scored(q=[("a", 1.0), ("b", 1.0), ("c", 0.5), ("d", 0.5)])
    (found,) = over_ties(Qrels({"q": {"a": 1, "b": 1}}), run, ["AP"])
    assert found.tied_queries == 0


def test_scores_equal_in_float32_are_tied() -> None:
    """A difference that float32 does not hold is none; documents without a score are in order, not tied."""
    qrels = Qrels({"q": {"b": 1}})
    (near,) = over_ties(qrels, scored(q=[("a", 1.0 + 1e-12), ("b", 1.0)]), ["RR"])
    assert (near.worst, near.best) == (0.5, 1.0)
    (unscored,) = over_ties(qrels, scored(q=[("a", None), ("b", None)]), ["RR"])
    assert (unscored.worst, unscored.best, unscored.tied_queries) == (0.5, 0.5, 0)
    (huge,) = over_ties(qrels, scored(q=[("a", 1e300), ("b", 1e299)]), ["RR"])
    assert huge.tied_queries == 1


def test_only_tied_queries_vary() -> None:
    """A query without ties and one without an answer keep their values: (x + 1/2 + 0) / 3 with x of 1/2 or 1."""
    qrels = Qrels({"tied": {"b": 1}, "plain": {"b": 1}, "silent": {"b": 1}})
    run = scored(tied=[("a", 1.0), ("b", 1.0)], plain=[("a", 2.0), ("b", 1.0)], unjudged=[("a", 1.0), ("b", 1.0)])
    (found,) = over_ties(qrels, run, ["RR"])
    assert (found.worst, found.best) == pytest.approx((1 / 3, 1 / 2))
    assert found.worst < found.expected < found.best
    assert found.tied_queries == 1


def test_a_count_is_summed_over_ties_too() -> None:
    """NumRet(rel=1) is a sum over queries, and no order changes it."""
    qrels = Qrels({"q": {"a": 1}, "r": {"a": 1}})
    run = scored(q=[("a", 1.0), ("b", 1.0)], r=[("a", 1.0), ("b", 1.0)])
    (found,) = over_ties(qrels, run, ["NumRet(rel=1)"])
    assert found.worst == found.expected == found.best == 2.0


def test_the_seed_decides() -> None:
    """Same seed, same expected value."""
    run = scored(q=[(document, 1.0) for document in "abcdefgh"])
    found = [over_ties(Qrels({"q": {"h": 1}}), run, ["RR"], seed=seed)[0].expected for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_many_documents_take_fewer_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bound of 8 documents, 2 of them tied, the 64 samples become 4: a mean of four halves and ones."""
    run = scored(q=[("a", 1.0), ("b", 1.0)])
    (whole,) = over_ties(Qrels({"q": {"b": 1}}), run, ["RR"])
    assert (whole.expected * 8) % 1 != 0.0
    monkeypatch.setattr("secondpass.evaluation.ties.MOST_DOCUMENTS", 8)
    (found,) = over_ties(Qrels({"q": {"b": 1}}), run, ["RR"])
    assert (found.expected * 8) % 1 == 0.0


def test_no_sample_is_refused() -> None:
    """The message names the argument."""
    with pytest.raises(InvalidInput, match="samples=0"):
        over_ties(Qrels({"q": {"b": 1}}), scored(q=[("b", 1.0)]), ["RR"], samples=0)
