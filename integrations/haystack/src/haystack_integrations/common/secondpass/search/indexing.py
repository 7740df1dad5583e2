"""A corpus into the document stores of a pipeline, embedded as the pipeline embeds its queries."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from haystack import Document
from haystack.core.serialization import component_from_dict, component_to_dict
from haystack.document_stores.types import DuplicatePolicy
from haystack_integrations.common.secondpass.search.server_stores import engine_of
from haystack_integrations.common.secondpass.search.stores import document_stores

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput

if TYPE_CHECKING:
    from haystack import Pipeline

BATCH = 64
TEXT_EMBEDDER = "TextEmbedder"
DOCUMENT_EMBEDDER = "DocumentEmbedder"


def index(pipeline: Pipeline, documents: Iterable[CorpusDocument], step: Callable[[int], object]) -> None:
    """Write a corpus into every document store of a pipeline; `step` hears how many documents each batch had.

    The content of a document is its title, a space and its text (BEIR's convention), so that every retriever and
    ranker sees the title without being told of it; meta stays empty.

    Raises:
        InvalidInput: the pipeline has no document store, or a text embedder without a document embedder to match.
    """
    stores = document_stores(pipeline)
    if not stores:
        raise InvalidInput("no component of the pipeline has a document store to put the corpus into")
    embedders = document_embedders(pipeline)
    for batch in _batches(Document(id=document.id, content=document.content) for document in documents):
        embedded = batch
        for embedder in embedders:
            embedded = embedder.run(documents=embedded)["documents"]
        for store in stores:
            _write(store, embedded)
        step(len(batch))
    for store in stores:
        _make_searchable(store)


def _write(store: Any, documents: list[Document]) -> None:
    """Write without waiting for a server's next refresh, which would take a second for every batch."""
    given: dict[str, Any] = {"policy": DuplicatePolicy.OVERWRITE}
    if "refresh" in inspect.signature(store.write_documents).parameters:
        given["refresh"] = False
    store.write_documents(documents, **given)


def _make_searchable(store: Any) -> None:
    """Have a server refresh its index: without documents a bulk request does not, so the store's client is asked."""
    client = getattr(store, "client", None) or getattr(store, "_client", None)
    if engine_of(store.to_dict()) is not None and client is not None:
        client.indices.refresh(index=store.to_dict()["init_parameters"]["index"])


def document_embedders(pipeline: Pipeline) -> list[Any]:
    """For each text embedder of a pipeline the document embedder that matches it, warmed up.

    Raises:
        InvalidInput: one has no match, or two give embeddings of the same kind: a document holds only one.
    """
    made: dict[str, Any] = {}
    for name, component in pipeline.walk():
        if not type(component).__name__.endswith(TEXT_EMBEDDER):
            continue
        kind = "sparse_embedding" if "Sparse" in type(component).__name__ else "embedding"
        if kind in made:
            raise InvalidInput(f"{name!r} is a second text embedder; a document can hold only one embedding")
        made[kind] = matching_document_embedder(name, component)
    for embedder in made.values():
        if hasattr(embedder, "warm_up"):
            embedder.warm_up()
    return list(made.values())


def matching_document_embedder(name: str, text_embedder: Any) -> Any:
    """Build the document embedder beside a text embedder: XTextEmbedder -> XDocumentEmbedder, same parameters.

    Raises:
        InvalidInput: there is no such class, or it does not take a parameter of the text embedder.
    """
    cls = _sibling(name, type(text_embedder))
    settings = component_to_dict(text_embedder, name)["init_parameters"]
    # The class's own signature is that of the component decorator's metaclass.
    accepted = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    unknown = sorted(key for key, value in settings.items() if key not in accepted and value is not None)
    if unknown:
        raise InvalidInput(f"{cls.__name__} does not take {', '.join(unknown)} of {name!r}")
    known = {key: value for key, value in settings.items() if key in accepted}
    if "progress_bar" in accepted:
        known["progress_bar"] = False
    data = {"type": f"{cls.__module__}.{cls.__name__}", "init_parameters": known}
    return component_from_dict(cls, data, name)


def _sibling(name: str, text_embedder: type) -> type:
    module = text_embedder.__module__.replace("text_embedder", "document_embedder")
    wanted = text_embedder.__name__.replace(TEXT_EMBEDDER, DOCUMENT_EMBEDDER)
    try:
        sibling = getattr(importlib.import_module(module), wanted, None)
    except ImportError:
        sibling = None
    if not isinstance(sibling, type):
        raise InvalidInput(f"no {module}.{wanted} to embed documents as {name!r} embeds queries")
    return sibling


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    stream = iter(documents)
    while batch := list(islice(stream, BATCH)):
        yield batch
