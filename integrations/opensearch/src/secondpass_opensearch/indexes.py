"""An index made for two passes: the text in `content`, BM25 on it alone, vectors only where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int
from secondpass_opensearch.failures import line_for, named, speaking_to
from secondpass_opensearch.server import Server

# Names that Haystack's document store reads and writes.
CONTENT = "content"
EMBEDDING = "embedding"
ANALYZER = "standard"
# Longer strings beside the text are stored but not indexed: a term of Lucene ends at 32,766 bytes.
LONGEST_KEYWORD = 1024
LONGEST_VECTOR = 16_000


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """What an index shall be.

    Attributes:
        name: of the index.
        analyzer: how `content` is cut into terms: "standard" for any language, "english" and others with stemming.
        dims: length of the vectors in `embedding`; None leaves k-NN out, so that no plugin is needed.
        shards: parts of the index; BM25 counts words within each, so 1 keeps scores comparable.
        replicas: copies; None takes the server's default.
    """

    name: str
    analyzer: str = ANALYZER
    dims: int | None = None
    shards: int = 1
    replicas: int | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise InvalidInput("the name of the index is blank")
        if self.dims is not None and positive_int(self.dims, "dims") > LONGEST_VECTOR:
            raise InvalidInput(f"dims={self.dims} is more than OpenSearch's {LONGEST_VECTOR}")
        positive_int(self.shards, "shards")

    def body(self) -> dict[str, Any]:
        """The request's body."""
        index: dict[str, Any] = {"query.default_field": [CONTENT], "number_of_shards": self.shards}
        if self.replicas is not None:
            index["number_of_replicas"] = self.replicas
        properties: dict[str, Any] = {CONTENT: {"type": "text", "analyzer": self.analyzer}, "id": {"type": "keyword"}}
        if self.dims is not None:
            index["knn"] = True
            properties[EMBEDDING] = vector_field(self.dims)
        return {"settings": {"index": index}, "mappings": {"properties": properties, "dynamic_templates": [_STRINGS]}}


def vector_field(dims: int) -> dict[str, Any]:
    """A field for vectors of `dims` numbers, searched by cosine with Lucene's HNSW: no native library is needed."""
    method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
    return {"type": "knn_vector", "dimension": dims, "method": method}


_STRINGS = {
    "strings": {
        "match_mapping_type": "string",
        "mapping": {"type": "keyword", "ignore_above": LONGEST_KEYWORD},
    }
}


def create_index(server: Server, plan: IndexPlan, *, dry: bool = False) -> None:
    """Create the index, or print the request for it.

    Raises:
        InvalidInput: there is an index or alias of that name, which is left as it is; or the analyzer is not there.
        SecondPassError: the server cannot be reached, or refuses; a plugin that is missing is named.
    """
    from opensearchpy.exceptions import RequestError

    if dry:
        from secondpass_opensearch.dry_run import print_request

        print_request("PUT", f"/{plan.name}", plan.body())
        return
    with speaking_to(server), server.client() as client:
        try:
            client.indices.create(index=plan.name, body=plan.body())
        except RequestError as error:
            if error.error == "resource_already_exists_exception":
                where = named(server)
                raise InvalidInput(f"the index {plan.name!r} exists on {where} already; it is left as it is") from None
            if "analyzer" in str(error):
                raise InvalidInput(f"--analyzer {plan.analyzer}: {line_for(error, server)}") from None
            raise
