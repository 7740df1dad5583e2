"""The ranker among other components: YAML, sockets, sync and async pipelines."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.evaluators import DocumentNDCGEvaluator
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_integrations.components.rankers.secondpass import SecondPassRanker

MakeRanker = Callable[..., SecondPassRanker]
YAML = """
components:
  retriever:
    type: haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever
    init_parameters:
      top_k: 10
      document_store:
        type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore
        init_parameters: {{index: second-pass-test}}
  ranker:
    type: haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker
    init_parameters: {{model: "{model}", device: cpu, top_k: 3}}
connections:
  - {{sender: retriever.documents, receiver: ranker.documents}}
"""


@pytest.fixture
def pipeline(tiny_folder: str, documents: list[Document]) -> Pipeline:
    """BM25 and the ranker out of YAML, over the six documents."""
    store = InMemoryDocumentStore(index="second-pass-test")
    store.delete_documents([document.id for document in store.filter_documents()])
    store.write_documents(documents)
    return Pipeline.loads(YAML.format(model=tiny_folder))


def inputs(query: str) -> dict:
    """Give the query to both components."""
    return {"retriever": {"query": query}, "ranker": {"query": query}}


def test_a_yaml_of_bm25_and_ranker_loads_under_the_default_allowlist(
    pipeline: Pipeline, make_ranker: MakeRanker, documents: list[Document]
) -> None:
    """Three documents come out in the model's order; the other outputs are there."""
    query = "the capital of france"
    result = pipeline.run(inputs(query))["ranker"]
    retrieved = InMemoryBM25Retriever(InMemoryDocumentStore(index="second-pass-test")).run(query=query)["documents"]
    expected = make_ranker(top_k=3).run(query=query, documents=retrieved)
    assert [document.id for document in result["documents"]] == [document.id for document in expected["documents"]]
    assert len(result["documents"]) == 3
    assert result["reranked"] is True
    assert result["truncated"] == []


async def test_concurrent_async_runs_equal_serial_ones(pipeline: Pipeline) -> None:
    """Four calls of run_async on one pipeline give what four calls of run give."""
    queries = ["the capital of france", "a dog", "reset the password", "cook an apple in the garden"]
    serial = [pipeline.run(inputs(query)) for query in queries]
    pipeline.close()
    together = await asyncio.gather(*(pipeline.run_async(inputs(query)) for query in queries))
    assert list(together) == serial
    await pipeline.close_async()


def test_the_async_method_has_the_sockets_of_the_sync_one(make_ranker: MakeRanker) -> None:
    """Haystack finds one set of inputs and outputs, and sees async support."""
    ranker = make_ranker()
    assert ranker.__haystack_supports_async__
    assert list(ranker.__haystack_input__._sockets_dict) == [
        "query",
        "documents",
        "top_k",
        "scale_score",
        "score_threshold",
        "instruction",
        "budget_ms",
        "min_probability",
    ]
    assert {name: socket.type for name, socket in ranker.__haystack_output__._sockets_dict.items()} == {
        "documents": list[Document],
        "truncated": list[dict[str, Any]],
        "reranked": bool,
        "passages": list[dict[str, Any]],
        "complete": bool,
        "unscored": int,
        "probabilities": list[dict[str, Any]],
        "nothing_relevant": bool | None,
    }


def test_two_retrievers_can_feed_one_ranker(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """Documents found twice are ranked once, so no joiner is needed."""
    store = InMemoryDocumentStore()
    store.write_documents(documents)
    pipeline = Pipeline()
    for name in ("first", "second"):
        pipeline.add_component(name, InMemoryBM25Retriever(store, top_k=4))
    pipeline.add_component("ranker", make_ranker())
    for name in ("first", "second"):
        pipeline.connect(f"{name}.documents", "ranker.documents")
    query = "the capital of france"
    result = pipeline.run({"first": {"query": query}, "second": {"query": query}, "ranker": {"query": query}})
    found = [document.id for document in result["ranker"]["documents"]]
    assert found
    assert len(found) == len(set(found))


def test_ranked_documents_can_go_on_to_an_evaluator(make_ranker: MakeRanker, documents: list[Document]) -> None:
    """The documents output has the stock type, so it connects wherever that of another ranker does."""
    pipeline = Pipeline()
    pipeline.add_component("ranker", make_ranker())
    pipeline.add_component("ndcg", DocumentNDCGEvaluator(document_comparison_field="id"))
    pipeline.connect("ranker.documents", "ndcg.retrieved_documents")
    result = pipeline.run(
        {
            "ranker": {"query": "paris", "documents": documents},
            "ndcg": {"ground_truth_documents": [[Document(id=document.id) for document in documents]]},
        }
    )
    assert result["ndcg"]["score"] == pytest.approx(1.0)
    assert result["ranker"]["reranked"] is True
