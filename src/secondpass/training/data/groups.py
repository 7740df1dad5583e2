"""One query with its documents and what is known about each: the unit that training reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from secondpass.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Group:
    """A query, its documents, and one label for each.

    What a label means is the loss's matter (`losses.contract.LabelKind`): relevance in [0, 1], a grade, a teacher's
    score, or the index of a class.

    Attributes:
        query: what is asked.
        documents: at least one.
        labels: one per document, finite.
        source: where it was read, "train.jsonl:12"; error messages begin with it.
        query_id: the collection's name for the query; empty if it has none.
        document_ids: one per document, or empty if they have none.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    source: str = ""
    query_id: str = ""
    document_ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.documents)


def merged(groups: Iterable[Group]) -> Iterator[Group]:
    """Join groups of the same query (same text and same id, or none), in order of first appearance.

    A loss over lists needs them together. A document given twice with the same label is kept once; with two labels it
    is kept twice, for a check to find. The first source stands for all; a document without an id among some that have
    one gets "". Reads everything before the first group comes out.

    Raises:
        InvalidInput: a group has not as many labels, or ids, as documents.
    """
    found: dict[tuple[str, str], dict[tuple[str, float], str]] = {}
    first: dict[tuple[str, str], Group] = {}
    for group in groups:
        key = (group.query_id, group.query)
        first.setdefault(key, group)
        kept = found.setdefault(key, {})
        ids = group.document_ids or ("",) * len(group)
        if not len(group.labels) == len(ids) == len(group):
            sizes = f"{len(group)} documents, {len(group.labels)} labels and {len(group.document_ids)} ids"
            raise InvalidInput(f"{group.source or repr(group.query)}: {sizes}")
        for document, label, document_id in zip(group.documents, group.labels, ids, strict=True):
            kept[document, label] = kept.get((document, label)) or document_id
    for key, kept in found.items():
        ids = tuple(kept.values())
        yield Group(
            key[1],
            tuple(document for document, _ in kept),
            tuple(label for _, label in kept),
            first[key].source,
            key[0],
            ids if any(ids) else (),
        )
