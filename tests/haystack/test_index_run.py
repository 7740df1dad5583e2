"""Indexing pipelines a batch at a time, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")

from haystack.document_stores.in_memory import InMemoryDocumentStore

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_pipelines.indexing import IndexRequest, run_index
from tests.small_collection import CORPUS

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
    run_index(IndexRequest(str(file), beir, None, False, batch))


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
