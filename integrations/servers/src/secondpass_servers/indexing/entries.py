"""Documents of a corpus as Haystack's stores write them, laid out in chunks that are settled together."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass.text import positive_int, repaired
from secondpass_servers.contract import Entry, IndexingError
from secondpass_servers.index import laid_out

MAX_ID_BYTES = 512
"""Longest id that Elasticsearch and OpenSearch take, in UTF-8."""
ACTION_BYTES = 64
"""Bytes of the line before a document in a bulk request, its id apart."""
COUNTS = ("max_documents", "max_bytes", "in_flight", "tries", "max_dead")


@dataclass(frozen=True, slots=True)
class IndexingSettings:
    """Bounds of one run; the defaults suit a server of one small node.

    Attributes:
        max_documents: documents in one request, at most.
        max_bytes: bytes of one request; a single larger document goes alone.
        in_flight: requests under way at the same time.
        give_up_after: seconds that nothing at all gets through before the run gives up.
        first_wait: seconds before the first repetition; every further wait is twice as long, less a random part.
        longest_wait: ceiling of one wait in seconds.
        tries: how often a document is put off while others are taken before it is a dead letter.
        max_dead: refused documents in one run before it stops: the mapping is wrong rather than the documents.
    """

    max_documents: int = 500
    max_bytes: int = 5_000_000
    in_flight: int = 2
    give_up_after: float = 300.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    tries: int = 10
    max_dead: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what could not work.

        Raises:
            InvalidInput: a count is no positive int, or a time is negative or not finite.
        """
        for name in COUNTS:
            positive_int(getattr(self, name), name)
        for name in (each.name for each in fields(self) if each.name not in COUNTS):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InvalidInput(f"{name}={value!r} is not a number of seconds")


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
    """Lay a document out: "id", "content" (title, a space, text), its metadata, and "embedding" if given.

    Lone surrogates are replaced: JSON in UTF-8 has none.
    """
    reason = id_trouble(document.id)
    if reason:
        return Item(position, document, None, reason)
    source: dict[str, Any] = {"id": document.id, "content": repaired(document.content), **laid_out(document.meta)}
    if vector is not None:
        source["embedding"] = list(vector)
    try:
        size = len(_line(source))
    except UnicodeEncodeError:
        source = _repaired(source)
        size = len(_line(source))
    except ValueError:
        return Item(position, document, None, "the metadata holds NaN or infinity, which JSON has not got")
    return Item(position, document, Entry(document.id, source, ACTION_BYTES + 2 * len(document.id.encode()) + size))


def _line(source: dict[str, Any]) -> bytes:
    return json.dumps(source, ensure_ascii=False, allow_nan=False).encode()


def _repaired(value: Any) -> Any:
    """A copy of a JSON value whose strings are all valid Unicode."""
    if isinstance(value, dict):
        return {repaired(key): _repaired(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_repaired(each) for each in value]
    return repaired(value) if isinstance(value, str) else value


def id_trouble(document_id: str) -> str:
    """Why no index takes a document under this id; empty if one does."""
    try:
        size = len(document_id.encode("utf-8"))
    except UnicodeEncodeError:
        return "the id is no valid Unicode: a lone surrogate is in it"
    return "" if size <= MAX_ID_BYTES else f"the id has {size} bytes, more than {MAX_ID_BYTES}"


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


Placed = tuple[int, CorpusDocument]


@dataclass(frozen=True, slots=True)
class CorpusChunk:
    """Items of the places `start` to `end` - 1, all of them."""

    start: int
    end: int
    items: tuple[Item, ...]

    @classmethod
    def of(cls, items: Sequence[Item]) -> CorpusChunk:
        """Items that are neighbours."""
        return cls(items[0].position, items[-1].position + 1, tuple(items))


def chunks(placed: Iterable[Placed], settings: IndexingSettings, embedding: Embedding | None) -> Iterator[CorpusChunk]:
    """Cut documents that are still to be indexed into chunks; a gap in the places ends one.

    Raises:
        IndexingError: the embedding model gave something else than vectors.
    """
    for group in _neighbours(placed, settings.max_documents):
        yield from _by_bytes(items_of(group, embedding), settings.max_bytes)


def items_of(group: Sequence[Placed], embedding: Embedding | None) -> list[Item]:
    """Lay out a group of documents, embedded together."""
    if embedding is None:
        return [item(place, document) for place, document in group]
    vectors = embedded(embedding, [document.content for _, document in group])
    return [item(place, document, vector) for (place, document), vector in zip(group, vectors, strict=True)]


def _neighbours(placed: Iterable[Placed], most: int) -> Iterator[list[Placed]]:
    group: list[Placed] = []
    for place, document in placed:
        if group and (len(group) == most or place != group[-1][0] + 1):
            yield group
            group = []
        group.append((place, document))
    if group:
        yield group


def _by_bytes(items: Sequence[Item], most: int) -> Iterator[CorpusChunk]:
    kept: list[Item] = []
    size = 0
    for each in items:
        own = 0 if each.entry is None else each.entry.size
        if kept and size + own > most:
            yield CorpusChunk.of(kept)
            kept, size = [], 0
        kept.append(each)
        size += own
    if kept:
        yield CorpusChunk.of(kept)
