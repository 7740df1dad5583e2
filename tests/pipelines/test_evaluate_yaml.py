"""pipelines/evaluate_rerank.yaml: a query at a time in Haystack, all of them by the command line, as a search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

haystack = pytest.importorskip("haystack")
pytest.importorskip("ir_measures")

from haystack import Document, Pipeline  # noqa: E402

from secondpass.corpora import read_corpus  # noqa: E402
from secondpass.evaluation.dataset_runs import DatasetRequest  # noqa: E402
from secondpass.evaluation.measures import evaluate  # noqa: E402
from secondpass_pipelines.dataset import run_dataset  # noqa: E402
from secondpass_pipelines.pipeline_files import (  # noqa: E402  # noqa: E402
    load_pipeline,
    measures_of,
    pipeline_file,
    without_evaluation,
)
from secondpass_pipelines.searching import stages_of  # noqa: E402

FOLDER = Path(__file__).parents[2] / "pipelines"
TEXT = (FOLDER / "evaluate_rerank.yaml").read_text()


@pytest.fixture
def pipeline(beir: Path, tiny_folder: str) -> Iterator[Pipeline]:
    """The file with a dataset and a model of this machine, its store filled."""
    text = TEXT.replace("secondpass/demo", str(beir)).replace("secondpass/pocket", tiny_folder)
    loaded = Pipeline.loads(text.replace("secondpass-evaluate", f"test-{beir.parent.name}"))
    store: Any = loaded.get_component("retriever").document_store  # type: ignore[attr-defined]
    store.write_documents([Document(id=one.id, content=one.content) for one in read_corpus(beir)])
    yield loaded
    loaded.close()


def test_loads_under_the_default_allow_list_and_round_trips() -> None:
    """`Pipeline.loads` takes the file as it is; dumped and loaded again it is the same pipeline."""
    loaded = Pipeline.loads(TEXT)
    ranker: Any = loaded.get_component("ranker")
    # The second pass must not be shorter than the first, or deep measures would compare different lists.
    assert ranker.top_k == loaded.get_component("retriever").top_k == 100  # type: ignore[attr-defined]
    again = Pipeline.loads(loaded.dumps())
    assert again.to_dict()["components"] == loaded.to_dict()["components"]
    assert sorted(map(str, again.to_dict()["connections"])) == sorted(map(str, loaded.to_dict()["connections"]))
    assert "`evaluate_rerank.yaml`" in (FOLDER / "README.md").read_text()


def test_query_by_query_equals_the_command_line(pipeline: Pipeline, beir: Path, tiny_folder: str) -> None:
    """The nodes' values for each query are, exactly, those of the runs over the whole dataset."""
    found = run_dataset(DatasetRequest("evaluate_rerank", beir, model=tiny_folder))
    reports = {
        "first_pass": evaluate(found.qrels, found.first[0], found.measures),
        "second_pass": evaluate(found.qrels, found.second, found.measures),
    }
    for query in found.texts:
        outputs = pipeline.run({"labelled": {"query_id": query}})
        for node, report in reports.items():
            assert outputs[node]["query_ids"] == [query]
            assert list(outputs[node]["results"]) == list(report.measures)
            for measure, result in outputs[node]["results"].items():
                assert result["individual_scores"] == [report.values[measure][query]]
                assert result["score"] == report.values[measure][query]


async def test_async_equals_sync(pipeline: Pipeline) -> None:
    """`run_async` gives what `run` gives."""
    inputs = {"labelled": {"query_id": "q2"}}
    assert await pipeline.run_async(inputs) == pipeline.run(inputs)


def test_a_search_sets_the_evaluation_aside(tiny_folder: str) -> None:
    """Loaded to search, it is BM25 and the ranker, each with a query and a top_k of its own."""
    stages = stages_of(load_pipeline(pipeline_file("evaluate_rerank"), tiny_folder))
    assert (stages.first, stages.last, stages.feeding) == (("retriever",), "ranker", ("retriever",))
    assert stages.inputs("a cat", 5, 3) == {
        "retriever": {"query": "a cat", "top_k": 5},
        "ranker": {"query": "a cat", "top_k": 3},
    }


def test_evaluation_nodes_of_anyone_are_set_aside() -> None:
    """Haystack's evaluators go too, with every connection to them; what they state is not asked of ours."""
    data = {
        "metadata": {"kept": True},
        "components": {
            "ranker": {"type": "haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker"},
            "mrr": {"type": "haystack.components.evaluators.document_mrr.DocumentMRREvaluator"},
            "ours": {
                "type": "haystack_integrations.components.evaluators.secondpass.evaluator.SecondPassEvaluator",
                "init_parameters": {"measures": ["RR", "AP", "RR"]},
            },
            "default": {"type": "haystack_integrations.components.evaluators.secondpass.evaluator.SecondPassEvaluator"},
        },
        "connections": [
            {"sender": "ranker.documents", "receiver": "mrr.retrieved_documents"},
            {"sender": "ranker.documents", "receiver": "reader.documents"},
        ],
    }
    kept = without_evaluation(data)
    assert list(kept["components"]) == ["ranker"]
    assert kept["connections"] == data["connections"][1:]  # type: ignore[index]
    assert kept["metadata"] == {"kept": True}
    assert len(data["components"]) == 4
    assert measures_of(data) == ("RR", "AP")
