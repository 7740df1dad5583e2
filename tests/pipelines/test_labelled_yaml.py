"""The packaged pipelines over labelled queries: one measures both passes, one trains a reranker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ir_measures")
pytest.importorskip("bm25s")

from haystack import Document, Pipeline
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

from secondpass.corpora import read_corpus
from secondpass.evaluation.measures import evaluate
from secondpass.evaluation.second_pass import DatasetRequest
from secondpass_pipelines.dataset import run_dataset
from secondpass_pipelines.pipeline_files import load_pipeline, measures_of, pipeline_file, without_evaluation
from secondpass_pipelines.searching import stages_of

FOLDER = Path(__file__).parents[2] / "pipelines"
TRAIN = (FOLDER / "train_reranker.yaml").read_text()
EVALUATE = (FOLDER / "evaluate_rerank.yaml").read_text()


@pytest.fixture
def pipeline(beir: Path, tiny_folder: str) -> Iterator[Pipeline]:
    """The file with a dataset and a model of this machine, its store filled."""
    text = EVALUATE.replace("secondpass/demo", str(beir)).replace("secondpass/pocket", tiny_folder)
    loaded = Pipeline.loads(text.replace("secondpass-evaluate", f"test-{beir.parent.name}"))
    store: Any = loaded.get_component("retriever").document_store  # type: ignore[attr-defined]
    store.write_documents([Document(id=one.id, content=one.content) for one in read_corpus(beir)])
    yield loaded
    loaded.close()


def test_evaluation_loads_under_the_default_allow_list_and_round_trips() -> None:
    """`Pipeline.loads` takes the file as it is; dumped and loaded again it is the same pipeline."""
    loaded = Pipeline.loads(EVALUATE)
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


def test_training_loads_under_the_default_allow_list_and_round_trips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Pipeline.loads` takes the file as it is, also by its packaged name, and making it writes nothing."""
    monkeypatch.chdir(tmp_path)
    loaded = Pipeline.loads(TRAIN)
    again = Pipeline.loads(loaded.dumps())
    assert again.to_dict()["components"] == loaded.to_dict()["components"]
    assert sorted(map(str, again.to_dict()["connections"])) == sorted(map(str, loaded.to_dict()["connections"]))
    assert pipeline_file("train_reranker").read_text() == TRAIN
    assert list(tmp_path.iterdir()) == []
    assert "`train_reranker.yaml`" in (FOLDER / "README.md").read_text()


def test_runs_without_inputs(tiny_folder: str, tmp_path: Path) -> None:
    """On the packaged labelled queries, with a model of this machine: sync and async train the same reranker."""

    def pipeline(name: str) -> Any:
        text = TRAIN.replace("secondpass/pocket", tiny_folder).replace("my-reranker", str(tmp_path / name))
        loaded: Any = Pipeline.loads(text)
        loaded.get_component("trainer").device = "cpu"
        return loaded

    one = pipeline("one").run({})["trainer"]
    two = asyncio.run(pipeline("two").run_async({}))["trainer"]
    assert one["scores"] == two["scores"]
    assert one["report"]["queries"] == {"trained": 32, "held_out": 8, "without_relevant": 0}
    assert (one["report"]["resumed_from"], len(one["scores"])) == (None, 2)
    documents = [Document(content="reset the password"), Document(content="a cat")]
    assert SecondPassRanker(model=one["model"]).run(query="password", documents=documents)["reranked"]


def test_two_steps_on_the_embedded_model(tmp_path: Path) -> None:
    """With the model that the file names it learns, and the report has what it measured before and after."""
    loaded: Any = Pipeline.loads(TRAIN.replace("my-reranker", str(tmp_path / "out")))
    data = loaded.to_dict()
    data["components"]["trainer"]["init_parameters"]["settings"] |= {"max_steps": 2, "tokens_per_step": 500}
    data["components"]["trainer"]["init_parameters"]["max_length"] = 64
    data["components"]["labelled"]["init_parameters"]["top_k"] = 5
    found = Pipeline.from_dict(data).run({})["trainer"]["report"]
    assert found["steps"] == 2
    assert 0.3 < found["dev"]["nDCG@10"]["before"] <= 1.0
    assert found["best_score"] == max(found["dev"]["nDCG@10"]["before"], found["dev"]["nDCG@10"]["after"])
