"""analysis: several runs beside the first pass."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.analysis import analyse, changes, moved, query_properties, query_ranks
from secondpass.evaluation.comparison import Analysis
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.reporting.files import to_json
from secondpass.evaluation.reporting.page import to_html
from secondpass.evaluation.reporting.wording import notes, reliability_sentence, verdicts
from secondpass.evaluation.runs import Run
from secondpass.evaluation.scores import distribution, reliability, scored_pairs, thresholds

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
    pairs = [(comparison.system, comparison.baseline) for comparison in found.comparisons]
    assert pairs == [("perfect", "first"), ("other", "first"), ("other", "perfect")]
    assert [second.system for second in found.second_passes] == ["perfect"]
    assert found.reports[2] == evaluate(qrels, other, ["AP"])
    assert found.notes == (
        "other is no second pass of first: half of its documents or more are not among its candidates",
    )


@pytest.mark.parametrize("scale", [4e14, -1e30, 1e300, 1e-320])
def test_equal_scores_of_any_size_have_a_whole_report(scale: float) -> None:
    """No "too many bins", no warning of a cast, and a page with every plot."""
    qrels, first = task()
    found = analyse(qrels, [first, Run("equal", {q: [(d, scale) for d in first[q]] for q in first})], ["AP", "RR"])
    (second_pass,) = found.second_passes
    assert (second_pass.distribution is None) == (scale == 1e300)
    assert all(each.tied_queries == QUERIES for each in second_pass.ties)
    assert "<svg" in to_html(found)


def test_pairs_that_no_second_pass_tells_about_are_contrasts() -> None:
    """Two rerankers of one first pass against each other, and another retriever against all: each once, later first."""
    qrels, first = task()
    other = Run("other", {query: [(f"x{place}", 1.0) for place in range(9)] for query in first})
    best, same = perfect(qrels, first), same_order("kept", first)
    found = analyse(qrels, [first, best, same, other], ["AP"], examples=2, texts={"q1": "one"})
    pairs = [(each.system, each.baseline) for each in found.contrasts]
    assert pairs == [("same", "perfect"), ("other", "first"), ("other", "perfect"), ("other", "same")]
    values = found.reports[1].values["AP"], found.reports[2].values["AP"]
    assert (found.contrasts[0].helped, found.contrasts[0].hurt) == changes(
        qrels, best, same, *values, texts={"q1": "one"}, count=2
    )
    assert found.contrasts[0].helped == ()


def test_what_queries_are_grouped_by() -> None:
    """Lengths in characters, of documents in the mean of those known; the margin is the first score less the second."""
    run = Run(
        "first", {"q1": [("a", 3.0), ("b", 1.5), ("c", 1.0)], "q2": [("a", None), ("b", None)], "q3": [("c", 1.0)]}
    )
    properties = query_properties(run, ["q1", "q2", "q3", "q4"], {"q1": "abcd", "q4": "x y"}, {"a": 10, "b": 20})
    assert properties == {
        "query length": {"q1": 4, "q4": 3},
        "document length": {"q1": 15, "q2": 15},
        "score margin": {"q1": 1.5},
    }
    assert query_properties(run, ["q1"], margins=False) == {}


def test_the_groups_are_of_the_first_pass_s_margins() -> None:
    """Three groups by what the first pass was sure of, with the differences that the queries have."""
    qrels, first = task()
    random = np.random.default_rng(1)
    sure = Run("first", {query: [(document, float(score or 0) + (place == 0) * float(random.random()))
                                 for place, (document, score) in enumerate(ranking.items())]
                         for query, ranking in first.items()})  # fmt: skip
    (second,) = analyse(qrels, [sure, perfect(qrels, first)], ["AP"]).second_passes
    (grouping,) = second.groupings
    assert (grouping.by, [group.queries for group in grouping.groups]) == ("score margin", [14, 13, 13])
    total = sum(group.difference * group.queries for group in grouping.groups)
    assert total == pytest.approx(sum(second.differences.values()))


def test_two_second_passes_are_equals() -> None:
    """Without a first pass nothing is called its gain; all pairs are compared, and the words say which is better."""
    qrels, first = task()
    runs = [Run("base", {q: list(first[q].items()) for q in first}), perfect(qrels, first)]
    found = analyse(qrels, runs, ["AP"], first_pass=None)
    assert found.second_passes == found.notes == ()
    assert found.first_pass is None
    assert found.settings is not None
    assert found.settings["first pass"] == "none of the runs"
    assert verdicts(found)[0].headline == "perfect is better than base"
    assert "baseline: base" in to_html(found)
    assert "first pass: base" not in to_html(found)


def test_the_first_pass_is_named() -> None:
    """Wherever it stands among the runs; by default it is the first, and the report says so."""
    qrels, first = task()
    other = replace_name(same_order("kept", first), "other")
    found = analyse(qrels, [perfect(qrels, first), other, first], ["AP"], first_pass=first.name)
    assert [report.system for report in found.reports] == ["first", "perfect", "other"]
    assert [each.system for each in found.second_passes] == ["perfect", "other"]
    assert [each.headline for each in verdicts(found)] == [
        "perfect helps", "other changes nothing", "other is worse than perfect"
    ]  # fmt: skip
    named = analyse(qrels, [first, other], ["AP"])
    assert (named.settings or {})["first pass"] == "first, as the first run given"
    with pytest.raises(InvalidInput, match="first_pass='perfect' is none of the runs first, other"):
        analyse(qrels, [first, other], ["AP"], first_pass=perfect(qrels, first).name)


def replace_name(run: Run, name: str) -> Run:
    """The same rankings by another name."""
    return Run(name, {query: list(ranking.items()) for query, ranking in run.items()})


def test_a_measure_that_fails_leaves_a_report_without_it() -> None:
    """Grade 5 and lists of one kind: the next measure is the primary, the reasons are notes, the page is whole."""
    qrels, first = task()
    harder = Qrels({**qrels, "q0": {**qrels["q0"], "d3": 5}})
    names = ["ERR@10", "Accuracy@9", "AP", "NumRet"]
    found = analyse(harder, [first, perfect(harder, first)], names)
    assert found.primary == "Accuracy@9"
    assert {each.measure for each in found.comparisons} == set(names) - {"ERR@10"}
    assert {each.measure for each in found.second_passes[0].headroom} == {"Accuracy@9", "AP"}
    said = "\n".join(notes(found))
    assert "ERR@10 cannot be computed: its grades are at most 4, and document 'd3' of query 'q0' has 5" in said
    assert "Accuracy@9 has no value for" in said
    page = to_html(found)
    assert "ERR@10 cannot be computed" in page
    assert "NumRet (sum)" in page
    assert json.loads(to_json(found))["reports"][0]["means"]["ERR@10"] is None


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


def test_bins_by_hand() -> None:
    """0.1 and 0.3 (none relevant), 0.8, 0.8 and 1.0 (two relevant): equal scores stay together, as the nearest cut.

    Errors |0 - 0.2| and |2/3 - 13/15|, both 0.2. Brier: (0.01 + 0.09 + 0.04 + 0.64 + 0) / 5 = 0.156. Of the judged
    0.3 and 0.8, 1.0: (1 * 0.3 + 2 * 0.1) / 3 and (0.09 + 0.04) / 3.
    """
    qrels = Qrels({"q": {"a": 1, "b": 2, "d": 0}})
    run = Run("run", {"q": [("a", 1.0), ("b", 0.8), ("c", 0.8), ("d", 0.3), ("e", 0.1)]})
    found = reliability(qrels, run, bins=2)
    assert found is not None
    assert [(each.low, each.high, each.unjudged) for each in found.bins] == [(0.1, 0.3, 1), (0.8, 1.0, 1)]
    assert [(each.every.size, each.every.relevant) for each in found.bins] == [(2, 0), (3, 2)]
    assert [each.error for each in found.bins] == pytest.approx([0.2, 0.2])
    assert (found.error, found.brier) == pytest.approx((0.2, 0.156))
    assert (found.judged_error, found.judged_brier) == pytest.approx((0.5 / 3, 0.13 / 3))
    assert (found.top, found.finest) == ((), found.bins)
    interval = found.bins[1].every.interval  # scipy.stats.binomtest(2, 3).proportion_ci()
    assert (interval.low, interval.high) == pytest.approx((0.0943, 0.9916), abs=1e-4)


def test_high_scores_that_promise_too_much_are_told() -> None:
    """A mean of 0.97 where 41 % are relevant, among 20,000 documents next to 0: an error of 0.010 hid it.

    As is told, too, that nobody judged the rest, or that a judge who notes only what is relevant says nothing of it.
    """
    scores = [*(np.arange(19_800) / 1e7).tolist(), *np.linspace(0.96, 0.98, 200).tolist()]
    noted = {f"d{place}": int(place % 100 < 41) for place in range(19_800, 20_000)}
    run = Run("run", {"q": [(f"d{place}", score) for place, score in enumerate(scores)]})
    found = reliability(Qrels({"q": {f"d{place}": 0 for place in range(19_800)} | noted}), run)
    assert found is not None
    assert found.error < 0.01
    assert reliability_sentence(found) == (
        "Of the 200 pairs that score 0.960 to 0.980 (mean 0.970), 41 % are relevant (34 % to 48 %). "
        "Scores promise too much in 1 and too little in 0 of 19 bins, beyond 95 % intervals (by chance: 5 % of bins). "
        "Expected calibration error over 10 bins of equal count 0.007, Brier score 0.006, over 20,000 pairs, "
        "half of which score 0.001 or less: the two say little of high scores."
    )
    sparse = reliability(Qrels({"q": noted}), run)
    assert sparse is not None
    assert sparse.judged_error == pytest.approx(0.56, abs=0.01)
    assert "19,800 of the pairs are unjudged and count as not relevant; the judged alone have" in reliability_sentence(
        sparse
    )
    one_sided = reliability(Qrels({"q": {name: 1 for name, grade in noted.items() if grade}}), run)
    assert one_sided is not None
    assert one_sided.judged_error is None
    assert "; no judgement names one that is not" in reliability_sentence(one_sided)


def test_true_probabilities_have_next_to_no_error() -> None:
    """Documents that are relevant as often as their score says; half the scores are far off."""
    generator = np.random.default_rng(0)
    scores = generator.random(20_000)
    qrels = Qrels({"q": {f"d{index}": int(hit) for index, hit in enumerate(generator.random(20_000) < scores)}})
    honest = reliability(qrels, Run("run", {"q": [(f"d{index}", float(s)) for index, s in enumerate(scores)]}))
    bold = reliability(qrels, Run("run", {"q": [(f"d{index}", float(s > 0.5)) for index, s in enumerate(scores)]}))
    assert honest is not None
    assert bold is not None
    assert [each.every.size for each in honest.bins] == [2000] * 10
    assert [each.every.size for each in honest.top] == [200] * 10
    assert honest.error < 0.015
    assert sum(each.clear_error != 0 for each in honest.finest) <= 2
    assert all(each.clear_error == each.error for each in bold.bins)
    assert bold.error == pytest.approx(0.25, abs=0.01)


def test_equal_scores_are_in_one_bin() -> None:
    """Whatever the number of bins: four different scores fill four at most, one score one."""
    for scores, sizes in (([0.0, 0.1, 0.1, 0.5, 1.0], [1, 2, 1, 1]), ([0.5] * 70, [70])):
        run = Run("run", {"q": [(f"d{index}", score) for index, score in enumerate(scores)]})
        found = reliability(Qrels({"q": {"d0": 1}}), run)
        assert found is not None
        assert [each.every.size for each in found.bins] == sizes


def test_a_bin_that_nobody_judged_has_no_clear_error() -> None:
    """Its share may be anything, where judges do say "not relevant" elsewhere."""
    run = Run("run", {"q": [(f"d{index}", 0.9 if index < 50 else 0.1) for index in range(100)]})
    found = reliability(Qrels({"q": {"d50": 1, "d51": 0}}), run, bins=2)
    assert found is not None
    assert found.bins[1].judged is None
    assert found.bins[1].error == pytest.approx(0.9)
    assert found.bins[1].clear_error == 0.0


def test_one_kind_alone_is_measured() -> None:
    """All relevant, or none: the error is the distance of the scores from 1 or 0."""
    run = Run("run", {"q": [("a", 0.75), ("b", 0.75)]})
    for grade, error in ((1, 0.25), (0, 0.75)):
        found = reliability(Qrels({"q": {"a": grade, "b": grade}}), run)
        assert found is not None
        assert found.error == pytest.approx(error)
        assert found.brier == pytest.approx(error**2)


@pytest.mark.parametrize("scores", [[1.5, 0.5], [0.5, -0.1], [math.inf, 0.5], [None, None], []])
def test_what_is_no_probability_has_no_reliability(scores: list[float | None]) -> None:
    """A logit beyond [0, 1], an infinite score, or no score at all."""
    run = Run("run", {"q": list(zip("ab", scores, strict=False))})
    assert reliability(Qrels({"q": {"a": 1}}), run) is None


def test_no_bins_are_refused() -> None:
    """The message names the argument."""
    with pytest.raises(InvalidInput, match="bins=0"):
        reliability(Qrels({"q": {"a": 1}}), Run("run", {"q": [("a", 0.5)]}), bins=0)


QRELS = Qrels({query: {"x": 1, "y": 0} for query in ("up", "far", "down", "same", "lost")})
FIRST = Run("first", {"up": [("a", 2), ("x", 1)], "far": [("y", 3), ("a", 2), ("x", 1)], "down": [("x", 1), ("a", 0)],
                      "same": [("x", 1)], "lost": [("x", 1)]})  # fmt: skip
SECOND = Run("second", {"up": [("x", 2), ("a", 1)], "far": [("x", 3), ("y", 2), ("a", 1)], "down": [("a", 1), ("x", 0)],
                        "same": [("x", 1)]})  # fmt: skip
BEFORE = {"up": 0.5, "far": 1 / 3, "down": 1.0, "same": 1.0, "lost": 1.0}
AFTER = {"up": 1.0, "far": 1.0, "down": 0.5, "same": 1.0, "lost": 0.0}


def test_the_greatest_changes_come_first() -> None:
    """Helped and hurt, each by size; a query that did not change is in neither."""
    helped, hurt = changes(QRELS, FIRST, SECOND, BEFORE, AFTER)
    assert [change.query for change in helped] == ["far", "up"]
    assert [change.query for change in hurt] == ["lost", "down"]
    assert [change.difference for change in hurt] == [-1.0, -0.5]


def test_a_change_shows_its_text_and_ranks() -> None:
    """The ranks of the best relevant document (grade 1 and up), None where there is none, and the text if known."""
    helped, hurt = changes(QRELS, FIRST, SECOND, BEFORE, AFTER, texts={"far": "how far?"})
    assert (helped[0].text, helped[0].first_rank, helped[0].second_rank) == ("how far?", 3, 1)
    assert (helped[1].text, helped[1].first, helped[1].second) == ("", 0.5, 1.0)
    assert (hurt[0].first_rank, hurt[0].second_rank) == (1, None)


def test_count_bounds_each_kind() -> None:
    """At most so many of either; none at all for 0."""
    helped, hurt = changes(QRELS, FIRST, SECOND, BEFORE, AFTER, count=1)
    assert [change.query for change in (*helped, *hurt)] == ["far", "lost"]
    assert changes(QRELS, FIRST, SECOND, BEFORE, AFTER, count=0) == ((), ())


def test_equal_changes_keep_the_order_of_the_values() -> None:
    """The same input always shows the same queries."""
    helped, hurt = changes(QRELS, FIRST, SECOND, {"b": 0, "a": 0, "d": 1, "c": 1}, {"a": 1, "b": 1, "c": 0, "d": 0})
    assert ([change.query for change in helped], [change.query for change in hurt]) == (["b", "a"], ["d", "c"])


def test_where_the_documents_of_a_query_stand() -> None:
    """Relevant ones wherever they are, and the first three of each run; relevant ones that no run has are counted."""
    qrels = Qrels({"q": {"r": 1, "s": 2, "none": 1, "bad": 0, "far": 0}})
    first = Run("first", {"q": [(name, None) for name in "abcxr"]})
    second = Run("second", {"q": [("s", 1.0), ("a", 0.5)]})
    (found,) = query_ranks(qrels, [first, second], ["q"], texts={"q": "why?"})
    assert (found.query, found.text, found.unfound) == ("q", "why?", 1)
    assert [(each.document, each.grade, each.ranks) for each in found.documents] == [
        ("a", None, (1, 2)), ("s", 2, (None, 1)), ("b", None, (2, None)), ("c", None, (3, None)), ("r", 1, (5, None))
    ]  # fmt: skip
    assert [each.query for each in analyse(*task_runs(), ["AP"]).queries] == [f"q{place}" for place in range(QUERIES)]


def task_runs() -> tuple[Qrels, list[Run]]:
    """The forty queries, with a second pass."""
    qrels, first = task()
    return qrels, [first, perfect(qrels, first)]


def test_bad_input_is_refused_by_name_of_changes() -> None:
    """A query with one value, and a negative count."""
    with pytest.raises(InvalidInput, match="query 'b' has a value in one pass only"):
        changes(QRELS, FIRST, SECOND, {"a": 1.0}, {"a": 1.0, "b": 1.0})
    with pytest.raises(InvalidInput, match="count=-1"):
        changes(QRELS, FIRST, SECOND, BEFORE, AFTER, count=-1)


QRELS_SCORES = Qrels({"q": {"a": 2, "b": 0, "z": 1}, "r": {"a": 0, "b": 1}})
RUN = Run("run", {"q": [("a", 0.9), ("c", 0.8), ("b", 0.1)], "r": [("b", 0.8), ("a", 0.2), ("e", None)],
                  "unjudged": [("a", 0.5)]})  # fmt: skip


def test_pairs_are_those_with_a_score_and_a_judged_query() -> None:
    """No score, an unjudged query or a score beyond float32: not among them."""
    pairs = scored_pairs(QRELS_SCORES, RUN)
    assert pairs.scores.tolist() == [0.9, 0.8, 0.1, 0.8, 0.2]
    assert pairs.relevant.tolist() == [True, False, False, True, False]
    assert pairs.judged.tolist() == [True, False, True, True, True]
    wild = scored_pairs(QRELS_SCORES, Run("wild", {"q": [("a", math.inf), ("b", 1.0), ("c", -1e300)]}))
    assert (wild.scores.tolist(), wild.beyond) == ([1.0], 2)


def test_a_histogram_of_each_kind() -> None:
    """Two bins over 0.1 to 0.9: relevant 0.9 and 0.8, judged others 0.1 and 0.2, unjudged 0.8."""
    found = distribution(QRELS_SCORES, RUN, bins=2)
    assert found is not None
    assert found.edges == pytest.approx((0.1, 0.5, 0.9))
    assert (found.relevant, found.judged_other, found.unjudged) == ((0, 2), (2, 0), (0, 1))


def test_every_score_is_in_a_bin() -> None:
    """Thirty bins by default, and no pair is lost at an edge."""
    scores = np.random.default_rng(0).normal(size=200)
    run = Run.from_scores("run", {"q": {f"d{index}": float(score) for index, score in enumerate(scores)}})
    found = distribution(Qrels({"q": {"d3": 1, "d5": 0}}), run)
    assert found is not None
    assert len(found.edges) == 31
    assert (sum(found.relevant), sum(found.judged_other), sum(found.unjudged)) == (1, 1, 198)


@pytest.mark.parametrize(
    "scores",
    [
        [1.0, 1.0],
        [1e16, 1e16 + 2],
        [-3e38, 3e38],
        [5e-324, 0.0],
        [4e14, 4e14],
        [-1e30, -1e30],
        [3e38, 3e38],
        [0.0, 0.0],
    ],
)
def test_scores_that_are_one_or_far_apart_have_bins_too(scores: list[float]) -> None:
    """Equal scores, neighbours in floating point, the widest range and the narrowest."""
    found = distribution(QRELS_SCORES, Run("run", {"q": list(zip("ab", scores, strict=True))}))
    assert found is not None
    assert sum(found.relevant) == sum(found.judged_other) == 1
    assert all(low < high for low, high in pairwise(found.edges))


def test_no_scores_have_no_distribution() -> None:
    """A run of ranks alone; and zero bins are refused."""
    assert distribution(QRELS_SCORES, Run("run", {"q": [("a", None)]})) is None
    assert distribution(QRELS_SCORES, Run("run", {})) is None
    with pytest.raises(InvalidInput, match="bins=0"):
        distribution(QRELS_SCORES, RUN, bins=0)


def test_what_a_threshold_keeps() -> None:
    """By hand, over five pairs, two of them relevant; equal scores are kept together."""
    points = thresholds(QRELS_SCORES, RUN)
    found = [(point.threshold, point.precision, point.recall, point.kept) for point in points]
    assert found == [(0.1, 2 / 5, 1.0, 5), (0.2, 2 / 4, 1.0, 4), (0.8, 2 / 3, 1.0, 3), (0.9, 1.0, 0.5, 1)]
    assert [(point.relevant, point.unjudged) for point in points] == [(2, 1), (2, 1), (2, 1), (1, 0)]
    assert [point.judged and point.judged.share for point in points] == [2 / 4, 2 / 3, 1.0, 1.0]
    assert (points[-1].interval.low, points[-1].interval.high) == pytest.approx((0.025, 1.0))


def test_a_hundred_points_at_most() -> None:
    """Of many scores the lowest, the highest and what lies evenly between."""
    run = Run.from_scores("run", {"q": {f"d{index}": float(index) for index in range(1000)}})
    found = thresholds(Qrels({"q": {"d900": 1}}), run)
    assert 50 <= len(found) <= 100
    assert (found[0].threshold, found[0].kept, found[-1].threshold, found[-1].kept) == (0.0, 1000, 999.0, 1)
    assert all(point.recall == (point.threshold <= 900) for point in found)


def test_the_upper_end_of_the_scale_has_points_too() -> None:
    """Ten thousand documents near 0 and five above: a threshold for precision lies among those five."""
    ranking = [(f"d{place}", 0.9 - 0.1 * place if place < 5 else 0.01 / place) for place in range(10_000)]
    found = thresholds(Qrels({"q": {"d0": 1, "d1": 1}}), Run("run", {"q": ranking}))
    assert [point.kept for point in found[-5:]] == [5, 4, 3, 2, 1]
    assert len(found) <= 100


def test_nothing_relevant_has_no_thresholds() -> None:
    """Precision and recall of nothing say nothing: no points, no warning."""
    assert thresholds(QRELS_SCORES, Run("run", {"q": [("b", 1.0)]})) == ()
    assert thresholds(QRELS_SCORES, Run("run", {})) == ()


@pytest.mark.parametrize(
    ("first", "second", "rose", "expected"),
    [
        ("xyr", "rxy", True, [("r", 1, 3, 1), ("x", 0, 1, 2)]),
        ("rxy", "xyr", False, [("r", 1, 1, 3), ("x", 0, 2, 1)]),
        ("ruv", "uvr", False, [("r", 1, 1, 3), ("u", None, 2, 1)]),
        ("xy", "rxy", True, [("r", 1, None, 1), ("x", 0, 1, 2)]),
        ("rx", "sx", False, [("r", 1, 1, None)]),
        ("rs", "sr", True, [("s", 2, 2, 1)]),
    ],
)
def test_a_change_is_seen_by_the_documents_that_moved(
    first: str, second: str, rose: bool, expected: list[tuple[str, int | None, int | None, int | None]]
) -> None:
    """A relevant one that the better order has higher, and another that it has lower."""
    grades = {"r": 1, "s": 2, "x": 0, "y": 0}
    runs = ({name: None for name in order} for order in (first, second))
    found = [(one.document, one.grade, one.first_rank, one.second_rank) for one in moved(*runs, grades, rose=rose)]
    assert found == expected
