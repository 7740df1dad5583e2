"""Figures that other libraries compute too: ir_measures asked directly, scipy, and ranx 0.3 where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import ir_measures
import numpy as np
import pytest
from scipy import stats

from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.statistics import compare
from secondpass.fusion import Candidates, Fusion

MEASURES = {"nDCG@10": "ndcg@10", "RR@10": "mrr@10", "AP": "map"}
QUERIES, DOCUMENTS, DEPTH = 25, 40, 20
Scores = dict[str, dict[str, float]]


def task() -> tuple[dict[str, dict[str, int]], dict[str, Scores]]:
    """Grades 0 to 3, and two runs of twenty documents each that share some; no two scores of a query are equal."""
    random = np.random.default_rng(17)
    grades, runs = {}, {"one": {}, "other": {}}  # type: ignore[var-annotated]
    for query in (f"q{number}" for number in range(QUERIES)):
        worth = random.choice(4, DOCUMENTS, p=[0.7, 0.15, 0.1, 0.05])
        worth[int(random.integers(DOCUMENTS))] = 1
        grades[query] = {f"d{place}": int(grade) for place, grade in enumerate(worth)}
        for name, noise in (("one", 2.0), ("other", 1.2)):
            scores = worth + random.normal(0, noise, DOCUMENTS)
            best = np.argsort(-scores)[:DEPTH]
            runs[name][query] = {f"d{place}": float(scores[place]) for place in best}
    return grades, runs


# JIT compilation of ranx takes minutes; without it the same code runs as Python.
PEER = """
import json, sys
import ranx
given = json.load(sys.stdin)
qrels = ranx.Qrels(given["grades"])
runs = [ranx.Run(scores, name=name) for name, scores in given["runs"].items()]
measures = given["measures"]
values = {run.name: ranx.evaluate(qrels, run, measures, return_mean=False) for run in runs}
values = {run: {measure: each.tolist() for measure, each in found.items()} for run, found in values.items()}
student = ranx.compare(qrels, runs, measures, stat_test="student").comparisons[frozenset(given["runs"])]
fused = {"rrf": ranx.fuse(runs, method="rrf", params={"k": 60})}
weights = {"params": {"weights": (0.3, 0.7)}}
fused["weighted"] = ranx.fuse(runs, norm="min-max", method="wsum", **weights)
json.dump({"queries": list(qrels.keys()), "values": values,
           "p": {measure: float(student[measure]["p_value"]) for measure in measures},
           "fused": {name: {query: {document: float(score) for document, score in scores.items()}
                            for query, scores in run.to_dict().items()} for name, run in fused.items()}}, sys.stdout)
"""


@pytest.fixture(scope="module")
def ranx() -> dict[str, Any]:
    """What ranx says of the task, in a process of its own."""
    if find_spec("ranx") is None:
        pytest.skip("ranx is not installed: pip install ranx==0.3.21")
    grades, runs = task()
    given = json.dumps({"grades": grades, "runs": runs, "measures": list(MEASURES.values())})
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "ignore", "-c", PEER]
    done = subprocess.run(
        command, input=given, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_measures_are_those_of_ir_measures() -> None:
    """Of each query and in the mean, asked without us."""
    grades, runs = task()
    wanted = {ir_measures.parse_measure(name): name for name in MEASURES}
    for name, scores in runs.items():
        report = evaluate(Qrels(grades), Run.from_scores(name, scores), list(MEASURES))
        told = list(ir_measures.iter_calc(list(wanted), grades, scores))
        assert len(told) == QUERIES * len(MEASURES)
        for each in told:
            assert report.values[wanted[each.measure]][each.query_id] == pytest.approx(each.value, abs=1e-12)
        for measure, mean in ir_measures.calc_aggregate(list(wanted), grades, scores).items():
            assert report.means[wanted[measure]] == pytest.approx(mean, abs=1e-12)


def test_paired_tests_are_those_of_scipy() -> None:
    """The t-test to the last digits; the randomisation test exactly where scipy can try every sign."""
    grades, runs = task()
    few = [f"q{number}" for number in range(12)]
    for queries in (list(grades), few):
        one, other = (evaluate(Qrels(grades).only(queries), Run.from_scores(name, runs[name]), ["AP"]) for name in runs)
        (found,) = compare(one, [other], resamples=2**12)
        before, after = (np.array(list(report.values["AP"].values())) for report in (one, other))
        student = stats.ttest_rel(after, before)
        assert found.p_t == pytest.approx(float(student.pvalue), rel=1e-9)
        assert found.effect is not None
        assert found.effect * len(queries) ** 0.5 == pytest.approx(float(student.statistic))
        if queries is few:
            exact = stats.permutation_test((after - before,), np.mean, permutation_type="samples", n_resamples=2**12)
            assert found.p_randomisation == pytest.approx(float(exact.pvalue), abs=1e-12)


def test_measures_and_the_t_test_are_those_of_ranx(ranx: dict[str, Any]) -> None:
    """nDCG with linear gains, reciprocal rank at ten and average precision, query by query; p of the paired t-test."""
    grades, runs = task()
    reports = [evaluate(Qrels(grades), Run.from_scores(name, scores), list(MEASURES)) for name, scores in runs.items()]
    for report in reports:
        for ours, theirs in MEASURES.items():
            told = dict(zip(ranx["queries"], ranx["values"][report.system][theirs], strict=True))
            assert report.values[ours] == pytest.approx(told, abs=1e-12)
    for each in compare(reports[0], reports[1:]):
        assert each.p_t == pytest.approx(ranx["p"][MEASURES[each.measure]], rel=1e-9)


@pytest.mark.parametrize(
    "fusion",
    [Fusion("rrf", {"one": 1.0, "other": 1.0}), Fusion("weighted", {"one": 0.3, "other": 0.7})],
    ids=lambda fusion: fusion.method,
)
def test_fusion_is_that_of_ranx(ranx: dict[str, Any], fusion: Fusion) -> None:
    """RRF with 60, and weighted sums of scores stretched by min-max, where no list is of one score only."""
    _, runs = task()
    for query, told in ranx["fused"][fusion.method].items():
        candidates = Candidates.of({name: list(scores[query].items()) for name, scores in runs.items()})
        found = dict(zip(candidates.ids, fusion.scores(candidates).tolist(), strict=True))
        assert found == pytest.approx(told, abs=1e-12)
