"""An index with sound defaults for two passes, and whether a field of one takes a model's embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.text import positive_int
from secondpass_servers.contract import SearchedIndex, SearchEngine

# Names that Haystack's document stores read and write.
CONTENT = "content"
EMBEDDING = "embedding"
# Lucene refuses a keyword of more than 32,766 bytes, and with it the document; UTF-8 has up to 4 bytes a character.
LONGEST_KEYWORD = 8191


@dataclass(frozen=True, slots=True)
class IndexLayout:
    """What an index is to be.

    Attributes:
        name: of the index.
        analyzer: of the content, at indexing and in queries.
        shards, replicas: None leaves them to the server; BM25 counts words within each shard.
        dims: of the embeddings; None: the index takes none.
    """

    name: str
    analyzer: str = "standard"
    shards: int | None = None
    replicas: int | None = None
    dims: int | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InvalidInput("the name of the index is blank")
        for name in ("dims", "shards"):
            if getattr(self, name) is not None:
                positive_int(getattr(self, name), name)

    def body(self, vector: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Body of the request that makes the index; `vector` is the mapping of embeddings, `more` further settings.

        A query that names no field, such as Haystack's, searches the content and not every keyword. Every other string
        is a keyword, as Haystack's stores have them.
        """
        settings: dict[str, Any] = {"query.default_field": CONTENT, **more}
        for name, count in (("number_of_shards", self.shards), ("number_of_replicas", self.replicas)):
            if count is not None:
                settings[name] = count
        properties: dict[str, Any] = {"id": {"type": "keyword"}, CONTENT: {"type": "text", "analyzer": self.analyzer}}
        if vector is not None:
            properties[EMBEDDING] = dict(vector)
        keyword = {"type": "keyword", "ignore_above": LONGEST_KEYWORD}
        strings = {"match_mapping_type": "string", "mapping": keyword}
        return {
            "settings": {"index": settings},
            "mappings": {"properties": properties, "dynamic_templates": [{"strings": strings}]},
        }

    def made(self, address: str) -> str:
        """What `create` says when it is done."""
        embeddings = "no embeddings" if self.dims is None else f"embeddings of {self.dims} numbers"
        return f"Created {address}/{self.name}: BM25 on {CONTENT}, analyzer {self.analyzer}, {embeddings}."


def check_vector_field(
    engine: SearchEngine, name: str, mappings: Sequence[Mapping[str, Any]], field: str, dims: int | None = None
) -> None:
    """Refuse embeddings that the index would not take, or would take for something else.

    Args:
        engine: what the type of such a field is called.
        name: the index in messages.
        mappings: the field's mapping in each index that has it.
        field: where the embeddings are.
        dims: how long the model's embeddings are; None: not known yet.

    Raises:
        InvalidInput: no index has the field, or it holds something else, or embeddings of another length.
    """
    if not mappings:
        advice = f"`secondpass {engine.command} create NEW_INDEX --dims {dims or 'LENGTH'}` makes an index with one"
        raise InvalidInput(f"{name} has no field {field} for embeddings: {advice}")
    for mapping in mappings:
        kind, length = mapping.get("type"), mapping.get(engine.length_key)
        if kind != engine.vector_type:
            raise InvalidInput(f"{name}: the field {field} holds values of the type {kind}, not embeddings")
        if dims is not None and length is not None and length != dims:
            raise InvalidInput(
                f"{name}: the field {field} takes embeddings of {length} numbers, and those of --embedder have {dims}"
            )


def mappings_in(answer: Mapping[str, Any], field: str) -> list[Mapping[str, Any]]:
    """The field's mapping in each index that has it, out of the answer to GET /INDEX/_mapping/field/FIELD."""
    described = [found["mappings"][field] for found in answer.values() if field in found.get("mappings", {})]
    # Inside, it stands under the last part of the field's name.
    return [next(iter(found["mapping"].values()), {}) for found in described]


def mappings_of(index: SearchedIndex, field: str) -> list[Mapping[str, Any]]:
    """The same, asked of an index; who may search but not look at mappings gets types without lengths.

    Raises:
        InvalidInput, SecondPassError: as `SearchedIndex.hits`.
    """
    answer = index.field_mapping(field)
    if answer is not None:
        return mappings_in(answer, field)
    return [{"type": kind} for kind in index.known_fields([field]).get(field, ())]
