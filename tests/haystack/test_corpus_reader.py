"""CorpusReader: what it reads, what it refuses, and the pipeline it starts."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack_integrations.components.converters.secondpass import CorpusReader

from secondpass.errors import InvalidInput
from tests.small_collection import CORPUS, write_beir, write_json_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small collection as a BEIR folder."""
    return write_beir(tmp_path / "beir")


def test_a_folder_and_a_file(folder: Path, tmp_path: Path) -> None:
    """Documents keep their ids and the order of their files; the title stands before the text."""
    more = tmp_path / "more.jsonl.gz"
    more.write_bytes(gzip.compress(json.dumps({"id": 7, "contents": "šéf 😀\nand more"}).encode()))
    documents = CorpusReader().run(sources=[str(folder), more])["documents"]
    expected = [(row["_id"], f"{row['title']} {row['text']}".strip()) for row in CORPUS]
    assert [(document.id, document.content) for document in documents] == [*expected, ("7", "šéf 😀\nand more")]
    assert all(document.meta == {} for document in documents)


def test_title_in_meta(folder: Path) -> None:
    """On request the title stays by itself, and a document without one has none."""
    first, second, *_ = CorpusReader(title="meta").run(sources=[folder])["documents"]
    assert (first.content, first.meta) == (CORPUS[0]["text"], {"title": "Password"})
    assert second.meta == {}


def test_other_keys_are_meta(tmp_path: Path) -> None:
    """Every key but id, title and text, whatever it is called; the three may be called otherwise, in YAML too."""
    meta = {"score": 0.5, "content": "c", "metadata": {"url": "u"}, "id": 7, "tags": ["a"], "text": None}
    file = write_json_lines(tmp_path / "c.jsonl", [{"url": "a", "h": "T", "body": "x", **meta}])
    keys = {"id_field": "url", "title_field": "h", "text_field": "body"}
    pipeline = Pipeline()
    pipeline.add_component("reader", CorpusReader(**keys))
    reader = Pipeline.loads(pipeline.dumps()).get_component("reader")
    assert reader.run(sources=[file])["documents"] == [Document(id="a", content="T x", meta=meta)]
    (found,) = CorpusReader(title="meta", **keys).run(sources=[file])["documents"]
    assert (found.content, found.meta) == ("x", {"title": "T", **meta})
    clash = write_json_lines(tmp_path / "clash.jsonl", [{"_id": "a", "h": "T", "text": "x", "title": "own"}])
    with pytest.raises(InvalidInput, match="document 'a' has a \"title\" beside its h"):
        CorpusReader(title="meta", title_field="h").run(sources=[clash])
    with pytest.raises(InvalidInput, match="text_field"):
        CorpusReader(text_field=7)  # type: ignore[arg-type]


def test_no_source_no_document() -> None:
    """An empty list is an answer, not an error."""
    assert CorpusReader().run(sources=[]) == {"documents": []}


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    """Each message names the argument or the file."""
    copy = write_json_lines(tmp_path / "copy.jsonl", CORPUS[-1:])
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"_id": "a", "text": "x"}\n{"_id": "b"}\n')
    reader = CorpusReader()
    with pytest.raises(InvalidInput, match=rf"{copy}: id 'd5' is in {folder} too"):
        reader.run(sources=[folder, copy])
    with pytest.raises(InvalidInput, match=r'broken\.jsonl:2: no "text"'):
        reader.run(sources=[broken])
    with pytest.raises(InvalidInput, match=r"nowhere: no such file"):
        reader.run(sources=[tmp_path / "nowhere"])
    with pytest.raises(InvalidInput, match="not a list"):
        reader.run(sources=str(folder))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="title='body'"):
        CorpusReader(title="body")
    with pytest.raises(InvalidInput, match="max_documents=0"):
        CorpusReader(max_documents=0)


def test_the_limit_is_reached_but_never_passed(folder: Path) -> None:
    """As many documents as allowed are read; one more is refused with the way out, not cut off."""
    assert len(CorpusReader(max_documents=5).run(sources=[folder])["documents"]) == 5
    with pytest.raises(InvalidInput, match="max_documents=4 documents; stream them with"):
        CorpusReader(max_documents=4).run(sources=[folder])


def test_async_gives_the_same(folder: Path) -> None:
    """The asynchronous run reads in a thread."""
    reader = CorpusReader()
    assert asyncio.run(reader.run_async(sources=[folder])) == reader.run(sources=[folder])


def test_in_a_pipeline(folder: Path) -> None:
    """It feeds a writer, and the pipeline comes back from YAML with its settings."""
    pipeline = Pipeline()
    pipeline.add_component("reader", CorpusReader(title="meta", max_documents=9))
    store = InMemoryDocumentStore()
    pipeline.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    pipeline.connect("reader.documents", "writer.documents")
    assert pipeline.run({"reader": {"sources": [folder]}})["writer"] == {"documents_written": 5}
    found: list[Document] = store.filter_documents()
    assert {document.id for document in found} == {row["_id"] for row in CORPUS}
    again = Pipeline.loads(pipeline.dumps())
    assert again.to_dict()["components"]["reader"] == pipeline.to_dict()["components"]["reader"]
