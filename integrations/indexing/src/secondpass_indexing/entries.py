"""Documents of a corpus as Haystack's stores write them, so that Haystack's retrievers read the index."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from secondpass.corpora import CorpusDocument
from secondpass_indexing.errors import IndexingError
from secondpass_indexing.sink import Entry

MAX_ID_BYTES = 512
"""Longest id that Elasticsearch and OpenSearch take, in UTF-8."""
ACTION_BYTES = 64
"""Bytes of the line before a document in a bulk request, its id apart."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """Texts to vectors for the field "embedding"; `name` tells two such models apart when a run is continued.

    `embed` is given contents (title, space, text) and returns for each a vector of the same length.
    """

    name: str
    embed: Callable[[Sequence[str]], Sequence[Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Item:
    """A document at its place in the corpus (from 0), as an entry, or with the reason why it cannot be one."""

    position: int
    document: CorpusDocument
    entry: Entry | None
    reason: str = ""


def item(position: int, document: CorpusDocument, vector: Sequence[float] | None = None) -> Item:
    """Lay a document out: "id", "content" (title, a space, text, lone surrogates replaced) and "embedding" if given."""
    reason = id_trouble(document.id)
    if reason:
        return Item(position, document, None, reason)
    source: dict[str, Any] = {"id": document.id, "content": sound(document.content)}
    if vector is not None:
        source["embedding"] = list(vector)
    size = ACTION_BYTES + 2 * len(document.id.encode()) + len(json.dumps(source, ensure_ascii=False).encode())
    return Item(position, document, Entry(document.id, source, size))


def id_trouble(document_id: str) -> str:
    """Why no index takes a document under this id; empty if one does."""
    try:
        size = len(document_id.encode("utf-8"))
    except UnicodeEncodeError:
        return "the id is no valid Unicode: a lone surrogate is in it"
    return "" if size <= MAX_ID_BYTES else f"the id has {size} bytes, more than {MAX_ID_BYTES}"


def sound(text: str) -> str:
    """`text` as UTF-8 can carry it: JSON's lone surrogates become U+FFFD, as the reranker reads them too."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def embedded(embedding: Embedding, texts: Sequence[str]) -> list[list[float]]:
    """A vector of Python floats for each text.

    Raises:
        IndexingError: the model gave another number of vectors, different lengths, or NaN or infinity.
    """
    vectors = [[float(value) for value in vector] for vector in embedding.embed(texts)]
    if len(vectors) != len(texts):
        raise IndexingError(f"{embedding.name} gave {len(vectors)} vectors for {len(texts)} texts")
    if len({len(vector) for vector in vectors}) > 1 or not all(vectors):
        raise IndexingError(f"{embedding.name} gave vectors of different lengths, or empty ones")
    if not all(math.isfinite(value) for vector in vectors for value in vector):
        raise IndexingError(f"{embedding.name} gave a vector with NaN or infinity in it")
    return vectors
