"""SecondPassEvaluator among other components, in threads and coroutines, and its results in Haystack's reports."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")

from haystack import Document, Pipeline
from haystack.evaluation import EvaluationRunResult
from haystack_integrations.components.evaluators.secondpass import SecondPassEvaluator
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from tests.haystack.judged import Lists, graded, random_queries, ranked


async def test_async_equals_sync() -> None:
    """`run_async`, alone and in an asynchronous pipeline, gives what `run` gives."""
    truths, rankings = random_queries(3, (1, 2))
    inputs = {"ground_truth_documents": truths, "retrieved_documents": rankings}
    evaluator = SecondPassEvaluator()
    expected = evaluator.run(**inputs)
    pipeline = Pipeline()
    pipeline.add_component("evaluator", evaluator)
    answers = await asyncio.gather(evaluator.run_async(**inputs), pipeline.run_async({"evaluator": inputs}))
    assert list(answers) == [expected, {"evaluator": expected}]


def test_eight_threads() -> None:
    """Calls from eight threads on one component give what serial calls give."""
    evaluator = SecondPassEvaluator(["nDCG@10", "AP", "ERR@20"])
    calls = [random_queries(seed, (0, 1, 2)) for seed in range(16)]

    def measure(call: tuple[Lists, Lists]) -> dict[str, Any]:
        return evaluator.run(ground_truth_documents=call[0], retrieved_documents=call[1])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(measure, calls)) == [measure(call) for call in calls]


def test_results_fit_evaluation_run_result(tmp_path: Path) -> None:
    """`results` goes into EvaluationRunResult as it is; its reports have a row a measure and a row a query."""
    truths, rankings = [graded({"a": 1.0}), graded({"a": 0.0})], [ranked("b", "a"), ranked("a")]
    found = SecondPassEvaluator(["RR", "nDCG@10"]).run(ground_truth_documents=truths, retrieved_documents=rankings)
    result = EvaluationRunResult("run", {"query": ["one", "two"]}, found["results"])
    assert result.aggregated_report() == {"metrics": ["RR", "nDCG@10"], "score": [0.5, 1 / math.log2(3)]}
    detailed: Any = result.detailed_report()
    assert detailed["query"] == ["one", "two"]
    assert detailed["RR"] == pytest.approx([0.5, math.nan], nan_ok=True)
    other = EvaluationRunResult("other", {"query": ["one", "two"]}, found["results"])
    compared: Any = result.comparative_detailed_report(other)
    assert list(compared) == ["query", "run_RR", "run_nDCG@10", "other_RR", "other_nDCG@10"]
    result.detailed_report(output_format="csv", csv_file=str(tmp_path / "d.csv"))
    assert (tmp_path / "d.csv").read_text().splitlines()[2] == "two,nan,nan"
    assert (found["score"], found["individual_scores"][0]) == (0.5, 0.5)


def single_query_pipeline(ranker: SecondPassRanker, **parameters: Any) -> Pipeline:
    """A ranker with one evaluator behind it; a second one gets the documents as they came."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    pipeline.add_component("after", SecondPassEvaluator(["nDCG@10", "RR@10", "AP", "P@1"], **parameters))
    pipeline.add_component("before", SecondPassEvaluator(["nDCG@10", "RR@10", "AP", "P@1"], **parameters))
    pipeline.connect("ranker.documents", "after.retrieved_documents")
    return pipeline


def test_right_after_the_ranker(make_ranker: Callable[..., SecondPassRanker], documents: list[Document]) -> None:
    """In a pipeline for one query it takes the ranker's list itself, and measures the order that came out."""
    truth = [graded({"d1": 1.0, "d4": 2.0})]
    pipeline = single_query_pipeline(make_ranker())
    given = {"ground_truth_documents": truth}
    found = pipeline.run(
        {
            "ranker": {"query": "a dog", "documents": documents},
            "after": given,
            "before": given | {"retrieved_documents": [documents]},
        },
        include_outputs_from={"ranker"},
    )
    order = found["ranker"]["documents"]
    assert [d.id for d in order] != [d.id for d in documents]
    expected = SecondPassEvaluator(["nDCG@10", "RR@10", "AP", "P@1"]).run(retrieved_documents=[order], **given)
    assert found["after"] == expected
    assert found["before"]["results"] != found["after"]["results"]


@pytest.mark.parametrize("by_file", [False, True], ids=["ground truth", "qrels"])
@pytest.mark.parametrize("without_relevant", ["leave out", "zero"])
def test_unchanged_order_is_exactly_no_gain(
    documents: list[Document], tmp_path: Path, by_file: bool, without_relevant: str
) -> None:
    """A ranker that gives its documents back as they came has, in every mode, exactly the first pass's values."""
    file = tmp_path / "judged.txt"
    file.write_text("q 0 d3 1\nq 0 d5 3\nq 0 d0 0\n")
    # No model is there, so nothing is re-ordered.
    ranker = SecondPassRanker(model=str(tmp_path / "absent"), raise_on_failure=False)
    pipeline = single_query_pipeline(ranker, qrels=file if by_file else None, without_relevant=without_relevant)
    truth = {"ground_truth_documents": [graded({"d3": 1.0, "d5": 3.0, "d0": 0.0})]}
    given: dict[str, Any] = {"query_ids": ["q"]} if by_file else truth
    found = pipeline.run(
        {
            "ranker": {"query": "a dog", "documents": documents},
            "after": given,
            "before": given | {"retrieved_documents": [documents]},
        },
        include_outputs_from={"ranker"},
    )
    assert found["ranker"]["reranked"] is False
    assert found["after"] == found["before"]
    assert 0 < found["after"]["score"] < 1


def test_needs_no_torch() -> None:
    """Evaluators work where torch is not installed: they only count."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from haystack import Document\n"
        "from haystack_integrations.components.evaluators.secondpass import LabelledQuery, SecondPassEvaluator\n"
        "truth, found = [[Document(id='a')]], [[Document(id='b'), Document(id='a')]]\n"
        "evaluator = SecondPassEvaluator(['RR'])\n"
        "print(evaluator.run(ground_truth_documents=truth, retrieved_documents=found)['score'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0.5"]
