"""A corpus as pieces of work: runs of neighbouring documents that are settled, and noted, together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from secondpass.corpora import CorpusDocument
from secondpass_indexing.entries import Embedding, Item, embedded, item
from secondpass_indexing.settings import IndexingSettings

Placed = tuple[int, CorpusDocument]


@dataclass(frozen=True, slots=True)
class Work:
    """Items of the places `start` to `end` - 1, all of them."""

    start: int
    end: int
    items: tuple[Item, ...]


def works(placed: Iterable[Placed], settings: IndexingSettings, embedding: Embedding | None) -> Iterator[Work]:
    """Cut documents that are still to be indexed into pieces; a gap in the places ends a piece.

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


def _by_bytes(items: Sequence[Item], most: int) -> Iterator[Work]:
    kept: list[Item] = []
    size = 0
    for each in items:
        own = 0 if each.entry is None else each.entry.size
        if kept and size + own > most:
            yield _work(kept)
            kept, size = [], 0
        kept.append(each)
        size += own
    if kept:
        yield _work(kept)


def _work(items: Sequence[Item]) -> Work:
    return Work(items[0].position, items[-1].position + 1, tuple(items))
