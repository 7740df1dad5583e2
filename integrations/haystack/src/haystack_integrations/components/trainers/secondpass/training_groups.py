"""Queries, judged documents and candidates to groups: what is learnt from, and what is measured on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from haystack import Document
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import TextLayout, deduplicated, listed
from haystack_integrations.components.evaluators.secondpass.comparison_field import ComparisonField

from secondpass.errors import InvalidInput
from secondpass.text import checked_query
from secondpass.training.data.groups import Group

IDS = ComparisonField("id")


@dataclass(frozen=True, slots=True)
class Judged:
    """A document's text with its grade; `id` is the document's."""

    id: str
    text: str
    grade: int


@dataclass(frozen=True, slots=True)
class LabelledQuery:
    """One query: judged documents, and candidates nobody has judged, in the first pass's order."""

    id: str
    text: str
    judged: tuple[Judged, ...]
    unjudged: tuple[tuple[str, str], ...]

    def group(self, labels: Sequence[float], unjudged: int) -> Group:
        """A group with these labels for the judged, and 0 for the first `unjudged` of the others."""
        others = self.unjudged[:unjudged]
        return Group(
            self.text,
            (*(document.text for document in self.judged), *(text for _, text in others)),
            (*labels, *(0.0 for _ in others)),
            f"queries[{self.id}]",
            self.id,
            (*(document.id for document in self.judged), *(name for name, _ in others)),
        )


@dataclass(frozen=True, slots=True)
class LabelledQueries:
    """All queries with a relevant document that has a text, and how much was left out."""

    kept: tuple[LabelledQuery, ...]
    without_relevant: int
    documents_without_text: int


def labelled_queries(
    queries: object, truths: object, candidates: object, query_ids: object, layout: TextLayout
) -> LabelledQueries:
    """Join what a component's sockets give, a list each with one entry a query.

    A judged document without a text takes that of the candidate of its id. A candidate with the text of a judged
    document is that document.

    Raises:
        InvalidInput: an input is no list, they are of unequal lengths, a query is blank, an id comes twice, grades are
            mixed or no whole numbers, or no query has a relevant document with a text.
    """
    asked = [checked_query(query, f"queries[{place}]") for place, query in enumerate(_lists("queries", queries))]
    if not asked:
        raise InvalidInput("queries is empty")
    judged = _lists("ground_truth_documents", truths, len(asked))
    found = [()] * len(asked) if candidates is None else _lists("documents", candidates, len(asked))
    names = _ids(query_ids, len(asked))
    kept, without_relevant, without_text = [], 0, 0
    for place, (name, query) in enumerate(zip(names, asked, strict=True)):
        truth = listed(judged[place], f"ground_truth_documents[{place}]")
        given = deduplicated(listed(found[place], f"documents[{place}]"))
        grades = IDS.grades(truth, f"ground_truth_documents[{place}]")
        texts = _texts([*truth, *given], layout)
        known = tuple(Judged(str(key), texts[str(key)], grade) for key, grade in grades.items() if str(key) in texts)
        without_text += len(grades) - len(known)
        if not any(document.grade > 0 for document in known):
            without_relevant += 1
            continue
        judged_texts = {document.text for document in known}
        others = {
            texts[document.id]: document.id
            for document in reversed(given)
            if document.id in texts and document.id not in grades and texts[document.id] not in judged_texts
        }
        kept.append(LabelledQuery(name, query, known, tuple((key, text) for text, key in reversed(others.items()))))
    if not kept:
        raise InvalidInput("ground_truth_documents has no relevant document with a text, for any query")
    return LabelledQueries(tuple(kept), without_relevant, without_text)


def _texts(documents: Iterable[Document], layout: TextLayout) -> dict[str, str]:
    """Texts by id, of the first document of that id that has one."""
    texts: dict[str, str] = {}
    for document in documents:
        if document.id not in texts and layout.has_text(document):
            texts[document.id] = layout.document(document)
    return texts


def _lists(name: str, given: object, size: int | None = None) -> Sequence[object]:
    if not isinstance(given, (list, tuple)):
        raise InvalidInput(f"{name} is {type(given).__name__}, not a list with an entry for each query")
    if size is not None and len(given) != size:
        raise InvalidInput(f"{name} has {len(given)} entries, queries {size}")
    return given


def _ids(given: object, size: int) -> list[str]:
    if given is None:
        return [str(place) for place in range(size)]
    ids = parameters.field_names("query_ids", given)
    if len(ids) != size:
        raise InvalidInput(f"query_ids has {len(ids)} entries, queries {size}")
    if len(set(ids)) < size:
        again = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise InvalidInput(f"query_ids has {again!r} twice")
    return ids
