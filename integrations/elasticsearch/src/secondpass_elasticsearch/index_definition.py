"""An index with sound defaults for two passes: BM25 reads the content alone, and nothing else is analysed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.api_request import ApiRequest
from secondpass_elasticsearch.failures import kind, spoken

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

CONTENT = "content"
EMBEDDING = "embedding"
SIMILARITIES = ("cosine", "dot_product", "l2_norm", "max_inner_product")
# Lucene refuses a keyword of more than 32,766 bytes, and with it the document; UTF-8 has up to 4 bytes a character.
LONGEST_KEYWORD = 8191
THERE = "resource_already_exists_exception"


@dataclass(frozen=True, slots=True)
class IndexDefinition:
    """What an index is to be.

    Attributes:
        name: of the index.
        analyzer: of the content, at indexing and in queries.
        shards, replicas: None leaves them to the server (1 and 1).
        dims: of the embeddings; None: the index takes none.
        similarity: of embeddings, one of `SIMILARITIES`.
    """

    name: str
    analyzer: str = "standard"
    shards: int | None = None
    replicas: int | None = None
    dims: int | None = None
    similarity: str = "cosine"

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise InvalidInput(f"similarity={self.similarity!r} is none of {', '.join(SIMILARITIES)}")

    def settings(self) -> dict[str, Any]:
        """Settings: a query that names no field, such as Haystack's, searches the content and not every keyword."""
        found: dict[str, Any] = {"index.query.default_field": CONTENT}
        if self.shards is not None:
            found["index.number_of_shards"] = self.shards
        if self.replicas is not None:
            found["index.number_of_replicas"] = self.replicas
        return found

    def mappings(self) -> dict[str, Any]:
        """Mappings: the content is text, every other string a keyword, as Haystack's store has them."""
        properties: dict[str, Any] = {
            "id": {"type": "keyword"},
            CONTENT: {"type": "text", "analyzer": self.analyzer},
        }
        if self.dims is not None:
            properties[EMBEDDING] = {
                "type": "dense_vector",
                "dims": self.dims,
                "index": True,
                "similarity": self.similarity,
            }
        keyword = {"type": "keyword", "ignore_above": LONGEST_KEYWORD}
        strings = {"path_match": "*", "match_mapping_type": "string", "mapping": keyword}
        return {"properties": properties, "dynamic_templates": [{"strings": strings}]}

    def creation(self) -> ApiRequest:
        """The request that makes the index."""
        return ApiRequest("PUT", f"/{self.name}", {"settings": self.settings(), "mappings": self.mappings()})


def create_index(client: Elasticsearch, server: str, definition: IndexDefinition) -> None:
    """Create the index; the server itself sees to it that no index is written over.

    Raises:
        InvalidInput: something of that name is there, or the server refuses name, analyzer or dims.
        NoAnswer, ElasticsearchFailure: as `spoken`.
    """
    from elasticsearch import BadRequestError

    # A repetition after a time-out would only hear that the index is there.
    once = client.options(max_retries=0, retry_on_timeout=False)
    with spoken(server):
        try:
            once.indices.create(index=definition.name, **definition.creation().body or {})
        except BadRequestError as error:
            if kind(error) == THERE:
                raise InvalidInput(
                    f"{server} has an index {definition.name!r} already, and it is left as it is: take another name"
                ) from error
            raise
