"""First pass: the documents that BM25, embeddings or both of them find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.text import is_blank
from secondpass_searching.index_layout import CONTENT, EMBEDDING
from secondpass_searching.query_words import most_words, shortened
from secondpass_searching.searched_index import SearchedIndex
from secondpass_searching.source_texts import joined

# More results than this neither engine pages to (index.max_result_window).
MOST = 10_000


@dataclass(frozen=True, slots=True)
class FirstPass:
    """How candidates are found.

    Attributes:
        query: the text.
        fields: BM25 searches them, and their texts are what the reranker reads.
        depth: documents of each retriever.
        bm25: whether words are searched.
        vector: the embedded query, float [dims]; None: embeddings are not searched.
        vector_field: where the documents' embeddings are.
    """

    query: str
    fields: tuple[str, ...] = (CONTENT,)
    depth: int = 100
    bm25: bool = True
    vector: Sequence[float] | None = None
    vector_field: str = EMBEDDING

    def __post_init__(self) -> None:
        if is_blank(self.query):
            raise InvalidInput("the query is blank")
        if not self.fields or not all(field.strip() for field in self.fields):
            raise InvalidInput("a field's name is blank")
        if not 1 <= self.depth <= MOST:
            raise InvalidInput(f"depth={self.depth!r} is not between 1 and {MOST:,}")

    @property
    def words(self) -> str:
        """What BM25 is given of the query: all of it, or as much as the engines take."""
        return shortened(self.query, most_words(len(self.fields)))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that the first pass found.

    Attributes:
        index, id: where it is.
        text: its fields joined by a space, what the reranker reads; empty if it has none of them.
        was: its best rank in any list of the first pass, from 1.
        scores: what each retriever gave it, by the retriever's name.
    """

    index: str
    id: str
    text: str
    was: int
    scores: Mapping[str, float]


def words_query(words: str, fields: Sequence[str]) -> dict[str, Any]:
    """BM25 over the fields and no other, without fuzziness: what BEIR's figures are measured with."""
    if len(fields) == 1:
        return {"match": {fields[0]: {"query": words}}}
    return {"multi_match": {"query": words, "fields": list(fields), "type": "most_fields"}}


def searches(index: SearchedIndex, first: FirstPass) -> dict[str, dict[str, Any]]:
    """Bodies of the searches, by retriever."""
    shared: dict[str, Any] = {"size": first.depth, "_source": list(first.fields), "track_total_hits": False}
    made: dict[str, dict[str, Any]] = {}
    if first.bm25:
        made["bm25"] = {**shared, "query": words_query(first.words, first.fields)}
    if first.vector is not None:
        made["dense"] = {**shared, **index.nearest(first.vector, first.vector_field, first.depth)}
    return made


def find_candidates(index: SearchedIndex, first: FirstPass) -> list[Candidate]:
    """Ask the index; a document that both retrievers found comes once, those of BM25 first.

    Raises:
        InvalidInput, SecondPassError: as `SearchedIndex.hits`.
    """
    found: dict[tuple[str, str], Candidate] = {}
    for retriever, body in searches(index, first).items():
        for rank, hit in enumerate(index.hits(body), start=1):
            text = joined(hit.get("_source") or {}, first.fields)
            candidate = Candidate(hit["_index"], hit["_id"], text, rank, {retriever: float(hit["_score"])})
            key = (candidate.index, candidate.id)
            found[key] = _both(found[key], candidate) if key in found else candidate
    return list(found.values())


def _both(one: Candidate, other: Candidate) -> Candidate:
    return replace(one, was=min(one.was, other.was), scores={**one.scores, **other.scores})
