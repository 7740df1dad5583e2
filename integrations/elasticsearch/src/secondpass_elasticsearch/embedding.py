"""Texts to vectors by a bi-encoder, through Haystack's embedders for queries and for documents."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from haystack_integrations.common.secondpass.search.quiet_haystack import need_haystack

from secondpass.errors import InvalidInput, MissingExtra
from secondpass_indexing.entries import Embedding

EMBEDDERS = "haystack_integrations.components.embedders.sentence_transformers"
INSTALL = 'sentence-transformers-haystack is not installed: pip install "secondpass[embedding]"'


def query_vector(model: str, query: str) -> list[float]:
    """The embedding of a query, float [dims]; documents must have been embedded by the same model.

    Raises:
        MissingExtra: Haystack's embedders are not installed.
        InvalidInput: the model cannot be loaded.
    """
    embedder = _embedder("SentenceTransformersTextEmbedder", model)
    return [float(value) for value in embedder.run(text=query)["embedding"]]


def document_embedding(model: str) -> Embedding:
    """The same model for `secondpass_indexing`, loaded.

    Raises:
        MissingExtra, InvalidInput: as `query_vector`.
    """
    embedder = _embedder("SentenceTransformersDocumentEmbedder", model)
    from haystack import Document

    def embed(texts: Sequence[str]) -> list[list[float]]:
        documents = embedder.run(documents=[Document(id=str(i), content=text) for i, text in enumerate(texts)])
        return [document.embedding for document in documents["documents"]]

    return Embedding(model, embed)


def _embedder(name: str, model: str) -> Any:
    need_haystack()
    try:
        embedders = import_module(EMBEDDERS)
    except ImportError as error:
        raise MissingExtra(INSTALL) from error
    embedder = getattr(embedders, name)(model=model, progress_bar=False)
    from secondpass.persistence.quiet import quiet_transformers

    try:
        with quiet_transformers():
            embedder.warm_up()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--embedder {model}: cannot be loaded: {error}") from error
    return embedder
