"""measures: ir_measures' values for the order that a run has, and which queries count."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from secondpass.errors import InvalidInput, MissingExtra
from secondpass.evaluation.measures import evaluate, falling, ir_measures, parsed, scikit_metrics, scipy_stats
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run

QRELS = Qrels({"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"x": 1}, "q3": {"n": 0}, "q4": {"m": -2, "k": 1}})
RUN = Run("bm25", {"q1": [("c", 3.0), ("a", 2.0), ("b", 1.0)], "q2": [("y", 1.0), ("x", 0.5)], "other": [("a", 1.0)]})


def test_hand_worked_values() -> None:
    """q1: c, a, b with gains 0, 2, 1; q2: relevant second; q4: not answered."""
    report = evaluate(QRELS, RUN, ["nDCG@10", "RR@10", "P@1", "R@2"])
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    gained = 2 / math.log2(3) + 1 / math.log2(4)
    assert report.values["nDCG@10"]["q1"] == pytest.approx(gained / ideal, abs=1e-12)
    assert report.values["RR@10"] == {"q1": 0.5, "q2": 0.5, "q4": 0.0}
    assert report.values["P@1"] == {"q1": 0.0, "q2": 0.0, "q4": 0.0}
    assert report.values["R@2"] == {"q1": 0.5, "q2": 1.0, "q4": 0.0}
    assert report.means["RR@10"] == pytest.approx(1 / 3)
    assert report.measures == ("nDCG@10", "RR@10", "P@1", "R@2")
    assert report.queries == ("q1", "q2", "q4")


def test_rows_55_to_57_which_queries_count() -> None:
    """Judged but not answered: 0. Nothing relevant: left out and told. Not judged: left out and told."""
    coverage = evaluate(QRELS, RUN, ["RR"]).coverage
    assert coverage.measured == 3
    assert coverage.unanswered == ("q4",)
    assert coverage.without_relevant == ("q3",)
    assert coverage.unjudged == ("other",)


def test_row_56_queries_without_relevant_documents_can_count_as_zero() -> None:
    """As trec_eval does with -c."""
    report = evaluate(QRELS, RUN, ["RR"], without_relevant="zero")
    assert report.values["RR"]["q3"] == 0.0
    assert report.means["RR"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("qrels", [{}, {"q": {}}, {"q": {"d": 0}}, {"q": {"d": -1}}])
def test_row_54_no_judged_query_is_refused(qrels: dict[str, dict[str, int]]) -> None:
    """A mean over nothing is NaN elsewhere."""
    with pytest.raises(InvalidInput, match="no judged queries"):
        evaluate(Qrels(qrels), RUN)


def test_row_59_a_negative_grade_gains_nothing() -> None:
    """A perfect order keeps its 1, a spoiled document counts as not relevant."""
    run = Run("r", {"q4": [("k", 2.0), ("m", 1.0)]})
    report = evaluate(QRELS.only({"q4"}), run, ["nDCG@10", "AP", "P@2"])
    assert report.means == {"nDCG@10": 1.0, "AP": 1.0, "P@2": 0.5}


def test_row_61_the_ideal_is_of_all_judged_documents() -> None:
    """A run that found one of two relevant documents is not perfect."""
    report = evaluate(Qrels({"q": {"a": 1, "b": 1}}), Run("r", {"q": [("a", 1.0)]}), ["nDCG@10"])
    assert report.means["nDCG@10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_all_measures_see_the_order_of_the_run() -> None:
    """Equal scores: RR comes from trec_eval, RR@3 from another provider, and both get the given order."""
    run = Run("r", {"q": [("a", 1.0), ("b", 1.0), ("z", 1.0)]})
    report = evaluate(Qrels({"q": {"a": 1}}), run, ["RR", "RR@3", "P@1", "Success@1"])
    assert set(report.means.values()) == {1.0}


def test_equals_ir_measures_on_random_runs() -> None:
    """Without ties, per query and in the mean, for measures of several providers."""
    library = ir_measures()
    rng = random.Random(5)
    grades = {f"q{i}": {f"d{j}": rng.randrange(-1, 4) for j in rng.sample(range(60), 20)} for i in range(50)}
    scores = {q: {f"d{j}": rng.random() for j in rng.sample(range(60), 30)} for q in grades}
    names = ["nDCG@10", "nDCG", "AP", "AP(rel=2)", "RR", "RR@10", "P@5", "P(rel=2)@5", "R@100", "Judged@10",
             "Success@1", "Rprec", "Bpref", "nDCG(judged_only=True)@10", "IPrec@0.1", "Compat(p=0.8)"]  # fmt: skip
    report = evaluate(Qrels(grades), Run.from_scores("r", scores), names, without_relevant="zero")
    measures = [library.parse_measure(name) for name in names]
    for found in library.iter_calc(measures, grades, scores):
        assert report.values[str(found.measure)][found.query_id] == pytest.approx(found.value, abs=1e-9)
    for measure, mean in library.calc_aggregate(measures, grades, scores).items():
        assert report.means[str(measure)] == pytest.approx(mean, abs=1e-9)


def test_one_thread_at_a_time_is_in_the_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once have ended the process; values are those of serial calls."""
    library = ir_measures()
    computed, inside, most = library.iter_calc, 0, 0

    def counted(*given: Any) -> Iterator[Any]:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        yield from computed(*given)
        inside -= 1

    monkeypatch.setattr(library, "iter_calc", counted)
    qrels = Qrels({"q": {"a": 1, "b": 2}})
    runs = [Run.from_scores("own", {"q": {"a": float(number % 2), "b": 0.5}}) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda run: evaluate(qrels, run, ["nDCG@10", "ERR@20", "AP"]).means, runs))
    assert most == 1
    assert together == [evaluate(qrels, run, ["nDCG@10", "ERR@20", "AP"]).means for run in runs]


def test_err_takes_ids_of_any_form() -> None:
    """gdeval, which computes it, fails on query ids that are no numbers; hand-worked with grades 2, 0, 1 of 4."""
    run = Run("r", {"q-1": [("a", 3.0), ("b", 2.0), ("c", 1.0)]})
    report = evaluate(Qrels({"q-1": {"a": 2, "b": 0, "c": 1}}), run, ["ERR@20"])
    expected = 3 / 16 + (13 / 16) * (1 / 16) / 3
    assert report.means["ERR@20"] == pytest.approx(expected, abs=1e-5)


def test_a_provider_that_fails_is_told() -> None:
    """gdeval ends with an error at grades above 4: no traceback of a subprocess, but what could not be computed."""
    with pytest.raises(InvalidInput, match="measure 'ERR@20' cannot be computed: its grades are at most 4"):
        evaluate(Qrels({"q": {"a": 9}}), Run("r", {"q": [("a", 1.0)]}), ["ERR@20"])


def test_one_measure_that_fails_does_not_take_the_others_with_it() -> None:
    """ERR knows grades up to 4; the other values are what they are without it, and the reason is in the report."""
    qrels, run = Qrels({"q": {"a": 5, "b": 1}}), Run("r", {"q": [("b", 2.0), ("a", 1.0)]})
    report = evaluate(qrels, run, ["ERR@20", "nDCG@10", "P@1"])
    assert report.measures == ("ERR@20", "nDCG@10", "P@1")
    assert {name: report.values[name]["q"] for name in ("nDCG@10", "P@1")} == evaluate(
        qrels, run, ["nDCG@10", "P@1"]
    ).means
    assert math.isnan(report.means["ERR@20"])
    assert report.undefined == {
        "ERR@20": "cannot be computed: its grades are at most 4, and document 'a' of query 'q' has 5"
    }


def test_accuracy_has_no_value_for_a_list_of_one_kind() -> None:
    """The share of pairs in order is of nothing there: no division by zero, and no 0 that pulls the mean down."""
    run = Run("r", {"q1": [("a", 3.0), ("x", 2.0), ("b", 1.0)], "q2": [("x", 1.0)], "q4": [("m", 1.0), ("y", 0.5)]})
    report = evaluate(QRELS, run, ["Accuracy@10", "nDCG@10", "Accuracy@1"])
    assert report.values["Accuracy@10"] == pytest.approx({"q1": 0.5, "q2": math.nan, "q4": math.nan}, nan_ok=True)
    assert report.means["Accuracy@10"] == 0.5
    assert report.means["nDCG@10"] == evaluate(QRELS, run, ["nDCG@10"]).means["nDCG@10"]
    assert report.undefined["Accuracy@10"] == "has no value for 2 of 3 queries, which its mean leaves out (q2, q4)"
    assert report.undefined["Accuracy@1"].startswith("has no value for 3 of 3")
    all_relevant = Run("r", {"q1": [("a", 2.0), ("b", 1.0)]})
    assert math.isnan(evaluate(QRELS, all_relevant, ["Accuracy@10", "RR"]).means["Accuracy@10"])


SUBTOPICS = Qrels({}, {"q": {"a": {"1": 1}, "b": {"1": 1, "2": 0}, "c": {"2": 1}}, "p": {"x": {"1": 1}, "y": {"2": 1}}})


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_measures_over_subtopics_see_the_subtopics(alpha: float) -> None:
    """Hand-worked: the second document of one subtopic gains 1 - alpha, the first of another 1; also beside others."""
    pytest.importorskip("pyndeval")
    run = Run("r", {"q": [("a", 3.0), ("b", 2.0), ("c", 1.0)], "p": [("y", 2.0), ("x", 1.0)]})
    name = str(next(iter(parsed([f"alpha_nDCG(alpha={alpha})@2"]))))
    report = evaluate(SUBTOPICS, run, ["alpha_nDCG(alpha=0.9)@2", "P@1", name, "StRecall@2", "P_IA@1"])
    second = 1 / math.log2(3)
    assert report.values[name]["q"] == pytest.approx((1 + (1 - alpha) * second) / (1 + second), abs=1e-6)
    assert report.values[name]["p"] == pytest.approx(1.0)
    assert report.values["StRecall@2"] == {"q": 0.5, "p": 1.0}
    assert report.means["P_IA@1"] == 0.5
    assert report.means["P@1"] == 1.0


def test_measures_over_subtopics_are_refused_where_there_are_none() -> None:
    """With one subtopic alpha_nDCG is not what its name says: 0.862 was shown where 0.7016 is right."""
    pytest.importorskip("pyndeval")
    with pytest.raises(
        InvalidInput, match=r"'alpha_nDCG@5' cannot be computed: no query is judged by several subtopics"
    ):
        evaluate(QRELS, RUN, ["alpha_nDCG@5"])
    assert evaluate(QRELS, RUN, ["alpha_nDCG@5", "RR"]).means["RR"] == pytest.approx(1 / 3)


def test_counts_are_summed() -> None:
    """ir_measures' own aggregate is used: the mean of NumRet would be no number of documents."""
    report = evaluate(QRELS, RUN, ["NumRet", "RR", "NumRelRet", "NumRel", "NumQ"])
    assert report.means["NumRet"] == 5.0
    assert report.means["NumRet(rel=1)"] == 3.0
    assert report.sums == ("NumRet", "NumRet(rel=1)", "NumRel", "NumQ")
    # They are about the judgements: a query that the run lacks has them too.
    assert (report.means["NumRel"], report.means["NumQ"]) == (4.0, 3.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_value_does_not_depend_on_what_is_asked_with_it(seed: int) -> None:
    """NumRet counts unjudged documents also beside a measure of judged ones, in whatever order they are hashed."""
    run = Run("r", {"q1": [("a", 4.0), ("x", 3.0), ("y", 2.0), ("z", 1.0)]})
    names = ["P(judged_only=True)@5", "NumRet", f"P(rel={seed + 2},judged_only=True)@{seed + 2}", "RR", "nDCG@10"]
    report = evaluate(QRELS, run, names)
    for name in names:
        assert report.means[name] == evaluate(QRELS, run, [name]).means[name]
    assert report.means["NumRet"] == 4.0


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["nDCC@10"], "measure 'nDCC@10' is unknown"),
        (["P"], "measure 'P' needs the parameter cutoff, as in P@10"),
        (["nDCG@"], "measure 'nDCG@' is unknown"),
        (["nDCG@10", "RBP"], "measure 'RBP' needs the parameter rel, as in RBP(rel=1)"),
        (["INST"], "measure 'INST' needs the parameter max_rel, as in INST(max_rel=3)"),
        (["BPM"], "measure 'BPM' needs the parameters cutoff and max_rel, as in BPM(max_rel=3)@10"),
        (["alpha_nDCG"], "measure 'alpha_nDCG' needs the parameter cutoff, as in alpha_nDCG@10"),
        (["IPrec"], "measure 'IPrec' needs the parameter recall, as in IPrec@0.1"),
        (["IPrec@0.005"], "has recall=0.005: trec_eval knows hundredths only"),
        (["P(rel=0)@5"], "measure 'P(rel=0)@5' has rel=0: it is from 1 to 1,000,000"),
        # trec_eval ends the whole process with these.
        (["P@0"], "measure 'P@0' has cutoff=0: it is from 1 to 1,000,000"),
        (["AP@-3"], "measure 'AP@-3' has cutoff=-3"),
        (["P@True"], "measure 'P@True' has cutoff=True: it is a whole number"),
        (["P(relevance=2)@5"], "has no parameter relevance; its parameters are cutoff, rel, judged_only"),
        (["NumRel(rel=2)"], "measure 'NumRel(rel=2)' takes rel=1 only"),
        (["RR(judged_only=True)@5"], "takes judged_only=False only"),
        (["nDCG(dcg='exp')@5"], "has dcg='exp': it is one of 'log2', 'exp-log2'"),
        (["nDCG(gains={1:0.5})@5"], "gains are whole numbers"),
        (["nDCG(gains={1:5, 0:-1})"], "gains are whole numbers from 0 to"),
        ([3], "measure 3 is int, not str"),
        (["__import__('os')"], "is unknown"),
        ([], "measures is empty"),
    ],
)
def test_a_measure_that_is_none_is_named(names: list[str], reason: str) -> None:
    """Before anything is computed."""
    with pytest.raises(InvalidInput) as refused:
        evaluate(QRELS, RUN, names)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("RBP(rel=1)", "cwl_eval", "cwl-eval"), ("alpha_nDCG@5", "pyndeval", "pyndeval"), ("ERR@5", "gdeval", "perl")],
)
def test_a_measure_names_the_package_that_it_needs(name, module, package, monkeypatch):
    """With the line that installs it."""
    monkeypatch.setattr(ir_measures().providers.registry[module], "_is_available", False)
    with pytest.raises(InvalidInput) as refused:
        parsed([name])
    line = "perl on the path" if package == "perl" else f'{package}: pip install "secondpass[eval]"'
    assert str(refused.value) == f"measure {name!r} needs {line}"


def test_measures_are_named_as_ir_measures_names_them() -> None:
    """One of several spellings, each once; a single name may be a plain str."""
    assert list(parsed(["ndcg@10", "nDCG@10", "MRR@10"])) == ["nDCG@10", "RR@10"]
    assert list(parsed("AP")) == ["AP"]


@pytest.mark.parametrize(("name", "grade"), [("nDCG", 10_001), ("nDCG(gains={1:10001})", 1)])
def test_ndcg_of_whole_lists_refuses_high_grades(name: str, grade: int) -> None:
    """Its time grows with the square of the highest; other measures are computed, this one with a cutoff too."""
    with_cutoff = name + "@10"
    report = evaluate(Qrels({"q": {"a": grade}}), Run("r", {"q": [("a", None)]}), [name, with_cutoff, "AP"])
    assert report.means[with_cutoff] == report.means["AP"] == 1.0
    assert "at most 10,000, and one is 10,001" in report.undefined[name]


def test_a_misspelt_rule_is_refused() -> None:
    """For queries without a relevant document there are two rules."""
    with pytest.raises(InvalidInput, match="without_relevant='skip'"):
        evaluate(QRELS, RUN, ["RR"], without_relevant="skip")


def test_falling_scores_are_the_order_alone() -> None:
    """n, n-1, ... 1."""
    assert falling(["b", "a"]) == {"b": 2.0, "a": 1.0}


@pytest.mark.parametrize(("function", "module"), [(scikit_metrics, "sklearn.metrics"), (scipy_stats, "scipy.stats")])
def test_a_missing_library_is_an_extra_to_install(function, module, monkeypatch):
    """Without the library the error says what to install; with it the module comes back."""
    assert function().__name__ == module
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r'pip install "secondpass\[eval\]"'):
        function()


PROGRAM = """
import sys
import secondpass.evaluation as evaluation
assert set(evaluation.__all__) <= set(dir(evaluation))
evaluation.CEBinaryAccuracyEvaluator([["a", "b"]], [1]), evaluation.CERerankingEvaluator
print(*{name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "sklearn", "scipy", "ir_measures"})
"""


def test_importing_the_package_loads_no_heavy_library():
    """Importing the evaluators, and making one, loads neither torch nor scikit-learn."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.split() == []
