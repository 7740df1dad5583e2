"""A corpus into the stores of a pipeline, before a search or through an indexing pipeline, without a server."""

from __future__ import annotations

import types
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from haystack import Pipeline, component
from haystack.components.builders import PromptBuilder
from haystack.components.embedders import MockDocumentEmbedder, MockTextEmbedder
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack_integrations.components.rankers.secondpass import SecondPassRanker
from haystack_integrations.components.readers.secondpass import SentenceReader

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput, SecondPassError
from secondpass_pipelines.asking import answer_sockets
from secondpass_pipelines.indexing import document_embedders, index, run_index
from secondpass_pipelines.searching import searcher, stages_of
from secondpass_pipelines.stores import document_stores
from tests.small_collection import CORPUS


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


@pytest.mark.parametrize("engine", ["Elasticsearch", "OpenSearch"])
def test_the_embedder_inside_a_hybrid_retriever_is_seen(engine: str) -> None:
    """Those of both servers, whose two searches take a depth each; no server is asked."""
    retrievers = pytest.importorskip(f"haystack_integrations.components.retrievers.{engine.lower()}")
    stores = import_module(f"haystack_integrations.document_stores.{engine.lower()}")
    store = getattr(stores, f"{engine}DocumentStore")(hosts="http://127.0.0.1:9", index="docs")
    hybrid = getattr(retrievers, f"{engine}HybridRetriever")(store, embedder=MockTextEmbedder(dimension=8))
    pipeline = with_components(hybrid=hybrid, ranker=SecondPassRanker())
    pipeline.connect("hybrid.documents", "ranker.documents")
    (embedder,) = document_embedders(pipeline)
    assert isinstance(embedder, MockDocumentEmbedder)
    assert document_stores(pipeline) == [store]
    given = stages_of(pipeline).inputs("cat", 7, 3)
    assert given["hybrid"] == {"query": "cat", "top_k_bm25": 7, "top_k_embedding": 7}
    assert given["ranker"] == {"query": "cat", "top_k": 3}


@pytest.mark.parametrize("engine", ["Elasticsearch", "OpenSearch"])
def test_a_server_gets_the_words_that_it_takes(engine: str) -> None:
    """The first 1,024 of a search and of a question, of which ranker and reader get all."""
    retrievers = pytest.importorskip(f"haystack_integrations.components.retrievers.{engine.lower()}")
    stores = import_module(f"haystack_integrations.document_stores.{engine.lower()}")
    store = getattr(stores, f"{engine}DocumentStore")(hosts="http://127.0.0.1:9", index="docs")
    retriever = getattr(retrievers, f"{engine}BM25Retriever")(document_store=store)
    pipeline = with_components(retriever=retriever, ranker=SecondPassRanker(), reader=SentenceReader())
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("ranker.documents", "reader.documents")
    words = [f"word{number}" for number in range(3_000)]
    query = " ".join(words)
    wanted = {name: {"query": query} for name in ("ranker", "reader")}
    wanted["retriever"] = {"query": " ".join(words[:1_024])}
    assert answer_sockets(pipeline, Path("ask.yaml")).inputs(query) == wanted
    assert stages_of(pipeline).inputs(query, None, None) == wanted


def test_a_prompt_gets_the_query_and_what_joins_keeps_its_own_top_k() -> None:
    """A search's query is for a prompt's variable too, its depth for what finds alone."""
    pipeline = with_components(
        prompt=PromptBuilder("{{ question }}", required_variables="*"),
        one=InMemoryBM25Retriever(InMemoryDocumentStore()),
        two=InMemoryBM25Retriever(InMemoryDocumentStore()),
        joiner=DocumentJoiner(top_k=3),
        ranker=SecondPassRanker(),
    )
    pipeline.connect("prompt.prompt", "one.query")
    for sender, receiver in (("one", "joiner"), ("two", "joiner"), ("joiner", "ranker")):
        pipeline.connect(f"{sender}.documents", f"{receiver}.documents")
    assert stages_of(pipeline).inputs("cat", 7, 5) == {
        "prompt": {"question": "cat"},
        "one": {"top_k": 7},
        "two": {"query": "cat", "top_k": 7},
        "ranker": {"query": "cat", "top_k": 5},
    }
    assert searcher(pipeline, 7, 5).shallow().startswith("the first pass gives 3 documents at most")


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


READER = "haystack_integrations.components.converters.secondpass.corpus_reader.CorpusReader"
PIPELINE = f"""
components:
  reader: {{type: {READER}, init_parameters: {{title: TITLE}}}}
  embedder:
    type: haystack.components.embedders.mock_document_embedder.MockDocumentEmbedder
    init_parameters: {{dimension: 8}}
  writer:
    type: haystack.components.writers.document_writer.DocumentWriter
    init_parameters:
      policy: FAIL
      document_store: {{type: haystack.document_stores.in_memory.document_store.InMemoryDocumentStore}}
connections:
  - {{sender: reader.documents, receiver: embedder.documents}}
  - {{sender: embedder.documents, receiver: writer.documents}}
"""


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """Every batch that any store in memory was given."""
    batches: list[list[Any]] = []
    real = InMemoryDocumentStore.write_documents

    def write(self: InMemoryDocumentStore, documents: list[Any], *arguments: Any, **rest: Any) -> int:
        batches.append(documents)
        return real(self, documents, *arguments, **rest)

    monkeypatch.setattr(InMemoryDocumentStore, "write_documents", write)
    return batches


def indexed(text: str, beir: Path, batch: int = 2) -> None:
    """Run a pipeline of this text over the collection."""
    file = beir.parent / "indexing.yaml"
    file.write_text(text)
    run_index(str(file), beir, None, False, batch)


@pytest.mark.parametrize("title", ["content", "meta"])
def test_batches_go_through_the_whole_pipeline(
    beir: Path, written: list[list[Any]], title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of the corpus, with the titles where the reader puts them, embedded."""
    indexed(PIPELINE.replace("TITLE", title), beir)
    assert [len(batch) for batch in written] == [2, 2, 1]
    documents = [document for batch in written for document in batch]
    assert [document.id for document in documents] == [row["_id"] for row in CORPUS]
    first = documents[0]
    assert first.content.startswith("Password Reset" if title == "content" else "Reset")
    assert first.meta == ({} if title == "content" else {"title": "Password"})
    assert all(len(document.embedding) == 8 for document in documents)
    assert capsys.readouterr().out.startswith("5 documents indexed in ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "components: {w: {type: haystack.components.embedders.mock_document_embedder.MockDocumentEmbedder}}",
            "an indexing pipeline has one CorpusReader; this one has 0",
        ),
        (f"components: {{r: {{type: {READER}}}}}", "no component of the pipeline has a document store"),
        (
            PIPELINE.replace("connections:", "connections:\n  []\nunused:").replace("TITLE", "content"),
            "component 'embedder' needs 'documents', which indexing has not got",
        ),
    ],
)
def test_what_is_no_indexing_pipeline_is_refused(beir: Path, text: str, reason: str) -> None:
    """With the file's name, before anything is read."""
    with pytest.raises(InvalidInput, match=reason):
        indexed(text, beir)


def test_documents_that_are_split_are_not_looked_for(
    beir: Path, written: list[list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Their parts are in the store under ids of their own, embedded."""
    kind = "haystack.components.preprocessors.document_splitter.DocumentSplitter"
    splitter = f"  split: {{type: {kind}, init_parameters: {{split_by: word, split_length: 2, split_overlap: 0}}}}\n"
    text = PIPELINE.replace("TITLE", "content").replace("  embedder:\n", splitter + "  embedder:\n")
    link = "  - {sender: reader.documents, receiver: embedder.documents}\n"
    through = link.replace("embedder", "split") + link.replace("reader", "split")
    assert link in text
    indexed(text.replace(link, through), beir)
    parts = [document for batch in written for document in batch]
    assert len(parts) > len(CORPUS)
    assert {part.meta["source_id"] for part in parts} == {row["_id"] for row in CORPUS}
    assert all(len(part.embedding) == 8 for part in parts)
    assert capsys.readouterr().out.startswith("5 documents indexed in ")


def test_documents_that_a_store_took_and_has_not_are_missed(beir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing between reader and store makes other documents of them."""
    real = InMemoryDocumentStore.write_documents

    def write(self: InMemoryDocumentStore, documents: list[Any], *arguments: Any, **rest: Any) -> int:
        return real(self, documents[1:], *arguments, **rest)

    monkeypatch.setattr(InMemoryDocumentStore, "write_documents", write)
    with pytest.raises(SecondPassError, match="2 of 5 documents are not in the index"):
        indexed(PIPELINE.replace("TITLE", "content"), beir, batch=3)


def test_a_component_that_fails_says_how_far_it_came(
    beir: Path, written: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batches before it are written."""
    real = InMemoryDocumentStore.write_documents

    def write(self: InMemoryDocumentStore, documents: list[Any], *arguments: Any, **rest: Any) -> int:
        if len(written) == 2:
            raise RuntimeError("the disk is full")
        return real(self, documents, *arguments, **rest)

    monkeypatch.setattr(InMemoryDocumentStore, "write_documents", write)
    with pytest.raises(SecondPassError, match="the disk is full; 4 of 5 documents were written before"):
        indexed(PIPELINE.replace("TITLE", "content"), beir)
