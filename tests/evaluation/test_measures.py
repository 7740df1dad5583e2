"""measures: ir_measures' values for the order that a run has, and which queries count."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest

from secondpass.errors import InvalidInput, MissingExtra
from secondpass.evaluation.measures import evaluate, falling, parsed, scikit_metrics, scipy_stats
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
    import ir_measures

    rng = random.Random(5)
    grades = {f"q{i}": {f"d{j}": rng.randrange(-1, 4) for j in rng.sample(range(60), 20)} for i in range(50)}
    scores = {q: {f"d{j}": rng.random() for j in rng.sample(range(60), 30)} for q in grades}
    names = ["nDCG@10", "nDCG", "AP", "AP(rel=2)", "RR", "RR@10", "P@5", "P(rel=2)@5", "R@100", "Judged@10",
             "Success@1", "Rprec", "Bpref", "nDCG(judged_only=True)@10", "IPrec@0.1", "Compat(p=0.8)"]  # fmt: skip
    report = evaluate(Qrels(grades), Run.from_scores("r", scores), names, without_relevant="zero")
    measures = [ir_measures.parse_measure(name) for name in names]
    for found in ir_measures.iter_calc(measures, grades, scores):
        assert report.values[str(found.measure)][found.query_id] == pytest.approx(found.value, abs=1e-9)
    for measure, mean in ir_measures.calc_aggregate(measures, grades, scores).items():
        assert report.means[str(measure)] == pytest.approx(mean, abs=1e-9)


def test_err_takes_ids_of_any_form() -> None:
    """gdeval, which computes it, fails on query ids that are no numbers; hand-worked with grades 2, 0, 1 of 4."""
    run = Run("r", {"q-1": [("a", 3.0), ("b", 2.0), ("c", 1.0)]})
    report = evaluate(Qrels({"q-1": {"a": 2, "b": 0, "c": 1}}), run, ["ERR@20"])
    expected = 3 / 16 + (13 / 16) * (1 / 16) / 3
    assert report.means["ERR@20"] == pytest.approx(expected, abs=1e-5)


def test_a_provider_that_fails_is_told() -> None:
    """gdeval ends with an error at grades above 4: no traceback of a subprocess, but what could not be computed."""
    with pytest.raises(InvalidInput, match="cannot compute ERR@20"):
        evaluate(Qrels({"q": {"a": 9}}), Run("r", {"q": [("a", 1.0)]}), ["ERR@20"])


def test_counts_are_summed() -> None:
    """ir_measures' own aggregate is used: the mean of NumRet would be no number of documents."""
    assert evaluate(QRELS, RUN, ["NumRet"]).means["NumRet"] == 5.0


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["nDCC@10"], "measure 'nDCC@10' is unknown"),
        (["P"], "measure 'P' is unknown or incomplete"),
        (["nDCG@"], "measure 'nDCG@' is unknown"),
        (["__import__('os')"], "is unknown"),
        ([], "measures is empty"),
    ],
)
def test_a_measure_that_is_none_is_named(names: list[str], reason: str) -> None:
    """Before anything is computed."""
    with pytest.raises(InvalidInput) as refused:
        evaluate(QRELS, RUN, names)
    assert reason in str(refused.value)


def test_measures_are_named_as_ir_measures_names_them() -> None:
    """One of several spellings, each once; a single name may be a plain str."""
    assert list(parsed(["ndcg@10", "nDCG@10", "MRR@10"])) == ["nDCG@10", "RR@10"]
    assert list(parsed("AP")) == ["AP"]


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
