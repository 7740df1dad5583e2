"""analysis: several runs beside the first pass."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.analysis import analyse
from secondpass.evaluation.findings import Analysis
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run

MEASURES = ("nDCG@10", "RR@10", "AP", "R@30", "P@5", "nDCG", "Judged@10", "Success@1", "Bpref", "Rprec", "NumRet")
QUERIES, CANDIDATES = 40, 30


def task() -> tuple[Qrels, Run]:
    """Forty queries of thirty candidates, with graded judgements of some of them and of some that were not found."""
    generator = np.random.default_rng(0)
    grades = {}
    for query in range(QUERIES):
        judged = generator.choice(CANDIDATES + 5, 12, replace=False)
        grades[f"q{query}"] = {f"d{document}": int(generator.integers(-1, 3)) for document in judged} | {"d3": 1}
    first = {query: [(f"d{place}", float(CANDIDATES - place)) for place in range(CANDIDATES)] for query in grades}
    return Qrels(grades), Run("first", first)


def perfect(qrels: Qrels, first: Run) -> Run:
    """The second pass that knows the grades, with falling scores within [0, 1]."""
    ranked = {query: sorted(first[query], key=lambda document: -qrels[query].get(document, 0)) for query in first}
    return Run("perfect", {query: [(document, 1 - place / 100) for place, document in enumerate(documents)]
                           for query, documents in ranked.items()})  # fmt: skip


def same_order(mode: str, first: Run) -> Run:
    """The first pass's order, as a second pass that changes nothing would give it."""
    cut = 10 if "cut" in mode else CANDIDATES
    rescaled = {"rescaled": lambda s: 1 / (1 + np.exp(5 - s)), "tied": lambda s: 0.5, "unscored": lambda s: None}
    score = rescaled.get(mode.rsplit(maxsplit=1)[-1], lambda s: s)
    return Run("same", {query: [(document, score(value)) for document, value in list(ranking.items())[:cut]]
                        for query, ranking in first.items()})  # fmt: skip


@pytest.mark.parametrize("mode", ["kept", "kept cut", "rescaled", "cut rescaled", "tied", "cut tied", "unscored"])
def test_a_kept_order_gains_exactly_nothing(mode: str) -> None:
    """Whole or cut to ten, scores as they were, rescaled, all the same or absent: 0.0 everywhere, and p = 1.0."""
    qrels, first = task()
    found = analyse(qrels, [first, same_order(mode, first)], MEASURES, ms={"first": 5.0, "same": 50.0})
    for comparison in found.comparisons:
        assert comparison.difference == comparison.interval.low == comparison.interval.high == 0.0
        assert comparison.p_randomisation == comparison.p_t == comparison.p_adjusted == 1.0
        assert (comparison.helped, comparison.hurt, comparison.unchanged) == (0, 0, QUERIES)
    (second,) = found.second_passes
    assert all(headroom.second == headroom.first for headroom in second.headroom)
    assert all(headroom.share in (0.0, None) for headroom in second.headroom)
    assert (second.helped, second.hurt) == ((), ())
    assert set(second.differences.values()) == {0.0}
    assert second.depth is not None
    assert len({point.value for point in second.depth.points}) == 1
    assert found.reports[0].values == found.reports[1].values


def test_a_perfect_second_pass_reaches_the_ceiling() -> None:
    """All of what was to be gained, in every measure, and the rest was lost by the first pass."""
    qrels, first = task()
    found = analyse(qrels, [first, perfect(qrels, first)], ["nDCG@10", "AP", "R@30"], texts={"q1": "one"}, examples=3)
    (second,) = found.second_passes
    ndcg, average, recall = second.headroom
    assert ndcg.share == average.share == 1.0
    assert ndcg.first < ndcg.second == ndcg.ceiling < 1.0
    assert (recall.first, recall.share) == (recall.ceiling, None)
    assert len(second.helped) == 3
    assert second.helped[0].difference == max(second.differences.values())
    assert second.reliability is not None
    assert second.distribution is not None
    assert second.thresholds[-1].precision == 1.0
    assert second.ties == second.notes == ()
    assert second.depth is not None
    assert (second.depth.points[0].value, second.depth.points[-1].value) == (ndcg.first, ndcg.second)
    by_measure = {comparison.measure: comparison for comparison in found.comparisons}
    assert by_measure["AP"].p_adjusted < 0.01
    assert by_measure["R@30"].p_adjusted == 1.0


def test_values_are_those_of_the_modules() -> None:
    """Reports are `evaluate`'s, intervals hold the means, and the first measure is the primary one."""
    qrels, first = task()
    found = analyse(qrels, [first, perfect(qrels, first)], ["AP", "NumRet"], level=0.9)
    assert found.primary == "AP"
    assert found.reports[0] == evaluate(qrels, first, ["AP", "NumRet"])
    for report in found.reports:
        for measure, mean in report.means.items():
            interval = found.intervals[report.system][measure]
            assert interval.low <= mean <= interval.high
            assert interval.level == 0.9
    assert found.settings is not None
    assert found.settings["intervals"].startswith("90%")


def test_a_count_has_an_interval_of_its_sum() -> None:
    """NumRet is 30 in each of 40 queries: 1200, with no spread."""
    qrels, first = task()
    interval = analyse(qrels, [first], ["NumRet"]).intervals["first"]["NumRet"]
    assert (interval.low, interval.high) == (1200.0, 1200.0)


def test_one_run_alone_is_measured() -> None:
    """No comparison, no second pass."""
    qrels, first = task()
    found = analyse(qrels, [first])
    assert (found.comparisons, found.second_passes, found.notes) == ((), (), ())
    assert found.reports[0].system == "first"


def test_another_retriever_is_no_second_pass() -> None:
    """A run with other documents is compared as it is, and a note says why nothing more is known."""
    qrels, first = task()
    other = Run("other", {query: [(f"x{place}", 1.0) for place in range(9)] for query in first})
    found = analyse(qrels, [first, perfect(qrels, first), other], ["AP"])
    assert [comparison.system for comparison in found.comparisons] == ["perfect", "other"]
    assert [second.system for second in found.second_passes] == ["perfect"]
    assert found.reports[2] == evaluate(qrels, other, ["AP"])
    assert found.notes == (
        "other is no second pass of first: half of its documents or more are not among its candidates",
    )


def test_notes_say_what_is_not_as_it_should_be() -> None:
    """Candidates not returned, documents from elsewhere, queries not answered, milliseconds that cannot be."""
    qrels, first = (
        Qrels({"q": {"a": 1}, "r": {"a": 1}}),
        Run("first", {"q": dict.fromkeys("abc").items(), "r": [("a", 1.0)]}),
    )
    second = Run("second", {"q": [("a", 2.0), ("z", 1.0), ("b", 0.0)]})
    (found,) = analyse(qrels, [first, second], ["RR"], ms={"first": 10.0, "second": 9.0}).second_passes
    assert [note.split(" ", 1)[0] for note in found.notes] == ["1", "1", "1", "its"]
    assert found.depth is not None
    assert all(point.ms is None for point in found.depth.points)


def test_milliseconds_reach_the_depth_curve() -> None:
    """5 ms for the first pass and 50 for both: 1.5 for each of 30 candidates."""
    qrels, first = task()
    found = analyse(qrels, [first, perfect(qrels, first)], ["AP"], ms={"first": 5.0, "perfect": 50.0})
    (second,) = found.second_passes
    assert second.depth is not None
    assert {point.depth: point.ms for point in second.depth.points}[10] == pytest.approx(20.0)
    assert found.ms == {"first": 5.0, "perfect": 50.0}


def test_ties_are_told() -> None:
    """A model that gives every candidate one score has a worst and a best far apart."""
    qrels, first = task()
    (second,) = analyse(qrels, [first, same_order("tied", first)], ["AP"]).second_passes
    (ties,) = second.ties
    assert ties.worst < ties.expected < ties.best
    assert ties.tied_queries == QUERIES


def test_the_same_seed_gives_the_same_analysis() -> None:
    """Everything drawn comes out of the seed."""
    qrels, first = task()

    def found(seed: int) -> Analysis:
        return analyse(qrels, [first, same_order("tied", first)], ["AP"], seed=seed)

    assert found(1) == found(1)
    assert found(1).intervals != found(2).intervals


def test_one_query_says_so() -> None:
    """Its intervals are the value itself, which a reader must not take for certainty."""
    found = analyse(Qrels({"q": {"a": 1}}), [Run("first", {"q": [("a", 1.0)]})], ["RR"])
    assert found.notes == ("one query alone: its intervals and tests say nothing",)


def test_bad_input_is_refused_by_name() -> None:
    """No run, a name used twice, milliseconds of nobody."""
    qrels, first = task()
    with pytest.raises(InvalidInput, match="runs is empty"):
        analyse(qrels, [])
    with pytest.raises(InvalidInput, match=r"runs\[1\] has the name 'first', as runs\[0\] has"):
        analyse(qrels, [first, Run("first", {})])
    with pytest.raises(InvalidInput, match="ms names 'nobody'"):
        analyse(qrels, [first], ms={"nobody": 1.0})


def test_importing_it_loads_nothing_heavy() -> None:
    """torch, scipy and scikit-learn take seconds: a program that only imports the analysis does not pay for them."""
    program = "import sys, secondpass.evaluation.analysis; print(*{'torch', 'scipy', 'sklearn'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True, env=dict(os.environ)
    )
    assert done.stdout.split() == []
