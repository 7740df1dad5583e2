"""First pass: the documents that BM25, embeddings or both of them find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.failures import spoken

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

# Elasticsearch looks at no more than this for each shard.
MOST_CANDIDATES = 10_000


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
    fields: tuple[str, ...]
    depth: int
    bm25: bool = True
    vector: Sequence[float] | None = None
    vector_field: str = "embedding"


def words_query(query: str, fields: Sequence[str]) -> dict[str, Any]:
    """BM25 over the fields and no other, without fuzziness: what BEIR's figures are measured with."""
    if len(fields) == 1:
        return {"match": {fields[0]: {"query": query}}}
    return {"multi_match": {"query": query, "fields": list(fields), "type": "most_fields"}}


def searches(first: FirstPass) -> dict[str, dict[str, Any]]:
    """The searches of a first pass by retriever, as elasticsearch-py takes them."""
    shared: dict[str, Any] = {"size": first.depth, "source": list(first.fields)}
    made: dict[str, dict[str, Any]] = {}
    if first.bm25:
        made["bm25"] = {**shared, "query": words_query(first.query, first.fields)}
    if first.vector is not None:
        knn = {
            "field": first.vector_field,
            "query_vector": list(first.vector),
            "k": first.depth,
            "num_candidates": min(10 * first.depth, MOST_CANDIDATES),
        }
        made["dense"] = {**shared, "knn": knn}
    return made


def find_candidates(client: Elasticsearch, server: str, index: str, first: FirstPass) -> list[Candidate]:
    """Ask the index; a document that two retrievers found comes once, those of the first list first.

    Raises:
        InvalidInput: the server refuses the search (no such index, no such field, other dims).
        NoAnswer, ElasticsearchFailure: as `spoken`; a shard that does not answer fails the search.
    """
    found: dict[tuple[str, str], Candidate] = {}
    for retriever, search in searches(first).items():
        with spoken(server):
            # Half an answer would look like a whole one.
            answer = client.search(
                index=index, track_total_hits=False, allow_partial_search_results=False, **search
            ).body
        for rank, hit in enumerate(answer["hits"]["hits"], start=1):
            key = (hit["_index"], hit["_id"])
            before = found.get(key)
            scores = {**(before.scores if before else {}), retriever: float(hit["_score"])}
            was = min(rank, before.was) if before else rank
            found[key] = Candidate(*key, joined(hit.get("_source") or {}, first.fields), was, scores)
    return list(found.values())


def check_fields(client: Elasticsearch, server: str, index: str, fields: Sequence[str]) -> None:
    """A field that is not there finds nothing, and Elasticsearch does not say so.

    Raises:
        InvalidInput: there is no such index, or it has not got one of the fields.
        NoAnswer, ElasticsearchFailure: as `spoken`.
    """
    with spoken(server):
        known = client.field_caps(index=index, fields=list(fields)).body["fields"]
    missing = [name for name in fields if name not in known]
    if missing:
        raise InvalidInput(f"{server}/{index} has no field {', '.join(missing)}")


def joined(source: Mapping[str, Any], fields: Sequence[str]) -> str:
    """The texts of the fields in their order, joined by a space; a dotted name looks into objects."""
    texts = (_text(_at(source, field), field) for field in fields)
    return " ".join(text for text in texts if text)


def _at(source: Mapping[str, Any], field: str) -> Any:
    if field in source:
        return source[field]
    first, _, rest = field.partition(".")
    inner = source.get(first)
    return _at(inner, rest) if rest and isinstance(inner, Mapping) else None


def _text(value: Any, field: str) -> str:
    """A field may hold several values, as every field of Elasticsearch may."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(text for text in (_text(part, field) for part in value) if text)
    if isinstance(value, Mapping):
        raise InvalidInput(f"the field {field!r} holds objects, not texts")
    return str(value)
