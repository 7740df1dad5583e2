"""An index with sound defaults for two passes: BM25 reads the content alone, embeddings only where they are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int

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
