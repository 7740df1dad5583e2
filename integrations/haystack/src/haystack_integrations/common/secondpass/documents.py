"""Haystack documents in, texts for the model out: checked, deduplicated and laid out; nothing is changed in place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from haystack import Document

from secondpass.errors import InvalidInput
from secondpass.text import is_blank


def listed(documents: object, name: str = "documents") -> list[Document]:
    """Materialise any iterable of documents once; `name` is what a message calls it.

    Raises:
        InvalidInput: it is no iterable of documents; the message names the first element that is not one.
    """
    if isinstance(documents, (str, bytes, Document)) or not isinstance(documents, Iterable):
        raise InvalidInput(f"{name} is {type(documents).__name__}, not a list of Document")
    items: list[Document] = []
    for index, item in enumerate(documents):
        if not isinstance(item, Document):
            raise InvalidInput(f"{name}[{index}] is {type(item).__name__}, not Document")
        items.append(item)
    return items


def _retrieval_score(document: Document) -> float:
    score = document.score
    return -math.inf if score is None or math.isnan(score) else score


def deduplicated(documents: Iterable[Document]) -> list[Document]:
    """One document per id: of equal ids the highest score (the first of equals), at the place of the first."""
    best: dict[str, Document] = {}
    for document in documents:
        held = best.get(document.id)
        if held is None or _retrieval_score(document) > _retrieval_score(held):
            best[document.id] = document
    return list(best.values())


@dataclass(frozen=True, slots=True)
class Readable:
    """Documents with their texts, and those that have nothing to read; both in input order."""

    documents: tuple[Document, ...]
    texts: tuple[str, ...]
    blank: tuple[Document, ...]


@dataclass(frozen=True, slots=True)
class TextLayout:
    """How a document becomes the second text of a pair.

    Meta values stand before the content, joined by `separator`, which is cut with them. 0 and False are values; None
    and a missing key are not.
    """

    meta_fields: Sequence[str] = ()
    separator: str = "\n"

    def document(self, document: Document) -> str:
        """-> the second text of the document's pair, without what a template puts around it."""
        return self.separator.join(self._parts(document))

    def place(self, document: Document, start: int, end: int) -> tuple[int, int]:
        """A place in that text as one in the content; of what stands in front of the content, its beginning."""
        before = len(self.document(document)) - len(document.content or "")
        return max(0, start - before), max(0, end - before)

    def has_text(self, document: Document) -> bool:
        """Whether content or a meta field says something (`is_blank`); the separator does not count."""
        return not all(map(is_blank, self._parts(document)))

    def split(self, documents: Iterable[Document]) -> Readable:
        """Tell the documents that a model can read from the blank ones."""
        full: list[Document] = []
        blank: list[Document] = []
        for document in documents:
            (full if self.has_text(document) else blank).append(document)
        return Readable(tuple(full), tuple(map(self.document, full)), tuple(blank))

    def _parts(self, document: Document) -> list[str]:
        values = (document.meta.get(field) for field in self.meta_fields)
        return [*(str(value) for value in values if value is not None), document.content or ""]
