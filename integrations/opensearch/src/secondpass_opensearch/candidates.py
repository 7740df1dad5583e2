"""First pass: the documents that BM25, vectors or both of them find, with the passage where words were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass_opensearch.indexes import CONTENT, EMBEDDING

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

# More results than this OpenSearch does not page to (index.max_result_window).
MOST = 10_000
# Words of a query that BM25 is given: from 1,024 clauses on, OpenSearch refuses the search.
MOST_WORDS = 400
CHARACTERS = 200
# The highlighter refuses a text with more characters than a million unless it is told to stop before.
MOST_ANALYSED = 999_999


@dataclass(frozen=True, slots=True)
class FirstPass:
    """How candidates are found.

    Attributes:
        query: the text.
        fields: BM25 searches them, and their texts are what the reranker reads.
        depth: documents of each retriever.
        bm25: whether words are searched.
        vector: the embedded query, float [dims]; None: vectors are not searched.
        vector_field: where the documents' vectors are.
        passages: whether the passage that shares most words with the query is wanted of every document.
    """

    query: str
    fields: tuple[str, ...] = (CONTENT,)
    depth: int = 100
    bm25: bool = True
    vector: Sequence[float] | None = None
    vector_field: str = EMBEDDING
    passages: bool = False

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise InvalidInput("the query is blank")
        if not self.fields or not all(field.strip() for field in self.fields):
            raise InvalidInput("a field's name is blank")
        if not 1 <= self.depth <= MOST:
            raise InvalidInput(f"depth={self.depth!r} is not between 1 and {MOST:,}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that the first pass found.

    Attributes:
        index, id: where it is.
        text: its fields joined by a space, what the reranker reads; empty if it has none of them.
        was: its best rank in any list of the first pass, from 1.
        scores: what each retriever gave it, by the retriever's name.
        passage: the part of it that shares most words with the query, if it was asked for and there is one.
    """

    index: str
    id: str
    text: str
    was: int
    scores: Mapping[str, float]
    passage: str | None = None


def find_candidates(client: OpenSearch, index: str, first: FirstPass) -> list[Candidate]:
    """Ask the index; a document that both retrievers found comes once, those of BM25 first.

    opensearchpy's errors pass through: see `failures.speaking_to`. A shard that does not answer fails the search: half
    an answer would look like a whole one.
    """
    found: dict[tuple[str, str], Candidate] = {}
    for retriever, body in searches(first).items():
        answer = client.search(
            index=index, body=body, params={"track_total_hits": "false", "allow_partial_search_results": "false"}
        )
        for rank, hit in enumerate(answer["hits"]["hits"], start=1):
            candidate = _candidate(hit, rank, retriever, first.fields)
            key = (candidate.index, candidate.id)
            found[key] = _both(found[key], candidate) if key in found else candidate
    return list(found.values())


def missing_fields(client: OpenSearch, index: str, fields: Sequence[str]) -> list[str]:
    """Those of `fields` that no index of the name has."""
    there = client.field_caps(index=index, fields=",".join(fields))["fields"]
    return [field for field in fields if field not in there]


def searches(first: FirstPass) -> dict[str, dict[str, Any]]:
    """Bodies of the searches, by retriever."""
    shared: dict[str, Any] = {"size": first.depth, "_source": list(first.fields)}
    words = words_query(first.query, first.fields)
    if first.passages:
        shared["highlight"] = _highlight(words, first.fields)
    made: dict[str, dict[str, Any]] = {}
    if first.bm25:
        made["bm25"] = {**shared, "query": words}
    if first.vector is not None:
        knn = {first.vector_field: {"vector": list(first.vector), "k": first.depth}}
        made["dense"] = {**shared, "query": {"knn": knn}}
    return made


def words_query(query: str, fields: Sequence[str]) -> dict[str, Any]:
    """BM25 over the fields and no other, without fuzziness: what BEIR's figures are measured with."""
    text = shortened(query)
    if len(fields) == 1:
        return {"match": {fields[0]: {"query": text}}}
    return {"multi_match": {"query": text, "fields": list(fields), "type": "most_fields"}}


def shortened(query: str) -> str:
    """The query as it is, or its first 400 different words if it has more."""
    words = dict.fromkeys(query.split())
    return query if len(words) <= MOST_WORDS else " ".join(list(words)[:MOST_WORDS])


def joined(source: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The texts of the fields in their order, joined by a space; a dotted name looks into objects."""
    texts = (_text(_at(source, field), field) for field in fields)
    return " ".join(text for text in texts if text)


def _candidate(hit: Mapping[str, Any], rank: int, retriever: str, fields: Sequence[str]) -> Candidate:
    text = joined(hit.get("_source") or {}, fields)
    marked = hit.get("highlight", {})
    # The last field is the body where a title comes first.
    passage = next((marked[field][0] for field in reversed(fields) if marked.get(field)), None)
    return Candidate(hit["_index"], hit["_id"], text, rank, {retriever: float(hit["_score"])}, passage)


def _both(one: Candidate, other: Candidate) -> Candidate:
    return replace(one, was=min(one.was, other.was), scores={**one.scores, **other.scores})


def _highlight(words: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {
        "type": "unified",
        "number_of_fragments": 1,
        "fragment_size": CHARACTERS,
        "no_match_size": CHARACTERS,
        "max_analyzer_offset": MOST_ANALYSED,
        "order": "score",
        "pre_tags": [""],
        "post_tags": [""],
        "highlight_query": words,
        "fields": {field: {} for field in fields},
    }


def _at(source: Mapping[str, Any], field: str) -> Any:
    if field in source:
        return source[field]
    first, _, rest = field.partition(".")
    inner = source.get(first)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _text(value: Any, field: str) -> str:
    """A field may hold several values, as every field of OpenSearch may."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(text for text in (_text(part, field) for part in value) if text)
    if isinstance(value, Mapping):
        raise InvalidInput(f"the field {field!r} holds objects, not texts")
    return str(value)
