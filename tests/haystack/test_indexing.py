"""A corpus into the stores of a pipeline: which stores, which embedders, and what is refused."""

from __future__ import annotations

import types
from typing import Any

import pytest

pytest.importorskip("haystack")

from haystack import Pipeline, component
from haystack.components.embedders import MockTextEmbedder
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass_pipelines.indexing import document_embedders, index
from secondpass_pipelines.stores import document_stores


def with_components(**components: Any) -> Pipeline:
    """A pipeline without connections."""
    pipeline = Pipeline()
    for name, instance in components.items():
        pipeline.add_component(name, instance)
    return pipeline


def test_a_store_that_two_retrievers_share_is_one() -> None:
    """Stores with equal settings are written once, others each, and every one gets the corpus."""
    shared = [InMemoryDocumentStore(index="test-indexing-shared") for _ in range(2)]
    other = InMemoryDocumentStore()
    pipeline = with_components(
        words=InMemoryBM25Retriever(shared[0]),
        vectors=InMemoryEmbeddingRetriever(shared[1]),
        elsewhere=InMemoryBM25Retriever(other),
    )
    assert len(document_stores(pipeline)) == 2
    heard: list[int] = []
    index(pipeline, (CorpusDocument(f"d{number}", "", "text") for number in range(150)), heard.append)
    assert sum(heard) == shared[0].count_documents() == other.count_documents() == 150


def test_no_store_is_refused() -> None:
    """A pipeline without a document store cannot be given a corpus."""
    with pytest.raises(InvalidInput, match="has a document store"):
        index(with_components(embedder=MockTextEmbedder()), [], lambda count: None)


def test_second_embedder_is_refused() -> None:
    """Two text embedders would need two embeddings a document; the second is named."""
    with pytest.raises(InvalidInput, match="'two' is a second text embedder"):
        document_embedders(with_components(one=MockTextEmbedder(), two=MockTextEmbedder(dimension=4)))


def lone_text_embedder(module: str, **init: Any) -> Any:
    """A text embedder of the class LoneTextEmbedder that claims to be of `module`."""

    def __init__(self: Any, dimension: int = 8, pooling: str | None = None) -> None:  # noqa: N807
        self.dimension = dimension
        self.pooling = pooling

    def run(self: Any, text: str) -> dict[str, Any]:
        return {"embedding": [0.0] * self.dimension}

    members = {"__init__": __init__, "run": component.output_types(embedding=list[float])(run), "__module__": module}
    made: Any = types.new_class("MockTextEmbedder", (), {}, lambda namespace: namespace.update(members))
    before = dict(component.registry)
    try:
        return component(made)(**init)
    finally:
        # Other tests of the process load the real class of this name.
        component.registry.clear()
        component.registry.update(before)


def test_embedder_without_a_sibling_is_refused() -> None:
    """A text embedder with no document embedder beside it is named with the class that was looked for."""
    embedder = lone_text_embedder("tests.no_text_embedder")
    with pytest.raises(InvalidInput, match=r"no tests\.no_document_embedder\.MockDocumentEmbedder"):
        document_embedders(with_components(mine=embedder))


def test_parameters_that_the_sibling_lacks_are_refused() -> None:
    """A parameter that changes how queries are embedded and that documents cannot be embedded with is named."""
    module = "haystack.components.embedders.mock_text_embedder"
    assert len(document_embedders(with_components(mine=lone_text_embedder(module)))) == 1
    with pytest.raises(InvalidInput, match="MockDocumentEmbedder does not take pooling of 'mine'"):
        document_embedders(with_components(mine=lone_text_embedder(module, pooling="max")))
