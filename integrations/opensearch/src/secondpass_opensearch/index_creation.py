"""The request that makes an index on OpenSearch, and making it."""

from __future__ import annotations

from typing import Any

from secondpass.errors import InvalidInput
from secondpass_opensearch.engine import OPENSEARCH
from secondpass_opensearch.failures import named, speaking_to
from secondpass_opensearch.server import Server
from secondpass_searching.api_request import ApiRequest
from secondpass_searching.failures import index_is_there
from secondpass_searching.index_layout import IndexLayout

LONGEST_VECTOR = 16_000
THERE = "resource_already_exists_exception"


def creation(layout: IndexLayout) -> ApiRequest:
    """The request that makes the index; one without embeddings needs no plugin.

    Raises:
        InvalidInput: the embeddings are longer than OpenSearch takes.
    """
    if layout.dims is None:
        return ApiRequest("PUT", f"/{layout.name}", layout.body())
    if layout.dims > LONGEST_VECTOR:
        raise InvalidInput(f"dims={layout.dims} is more than OpenSearch's {LONGEST_VECTOR}")
    return ApiRequest("PUT", f"/{layout.name}", layout.body(vector_field(layout.dims), knn=True))


def vector_field(dims: int) -> dict[str, Any]:
    """A field for vectors of `dims` numbers, searched by cosine with Lucene's HNSW: no native library is needed."""
    method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
    return {"type": OPENSEARCH.vector_type, OPENSEARCH.length_key: dims, "method": method}


def create_index(server: Server, layout: IndexLayout) -> None:
    """Create the index; the server itself sees to it that no index is written over.

    Raises:
        InvalidInput: something of that name is there, or the server refuses name, analyzer or dims.
        SecondPassError: as `speaking_to`; a plugin that is missing is named.
    """
    from opensearchpy.exceptions import RequestError

    with speaking_to(server), server.client(max_retries=0) as client:
        try:
            client.indices.create(index=layout.name, body=creation(layout).body)
        except RequestError as error:
            if error.error == THERE:
                raise index_is_there(named(server), layout.name) from None
            raise
