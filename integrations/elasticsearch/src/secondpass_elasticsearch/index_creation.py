"""The request that makes an index on Elasticsearch, and making it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.engine import ELASTICSEARCH
from secondpass_elasticsearch.failures import kind, spoken
from secondpass_searching.api_request import ApiRequest
from secondpass_searching.failures import index_is_there
from secondpass_searching.index_layout import IndexLayout

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

SIMILARITIES = ("cosine", "dot_product", "l2_norm", "max_inner_product")
THERE = "resource_already_exists_exception"


def creation(layout: IndexLayout, similarity: str = "cosine") -> ApiRequest:
    """The request that makes the index; `similarity` says how embeddings are compared.

    Raises:
        InvalidInput: `similarity` is none of `SIMILARITIES`.
    """
    if similarity not in SIMILARITIES:
        raise InvalidInput(f"similarity={similarity!r} is none of {', '.join(SIMILARITIES)}")
    vector = None
    if layout.dims is not None:
        vector = {"type": ELASTICSEARCH.vector_type, "dims": layout.dims, "index": True, "similarity": similarity}
    return ApiRequest("PUT", f"/{layout.name}", layout.body(vector))


def create_index(client: Elasticsearch, server: str, layout: IndexLayout, similarity: str = "cosine") -> None:
    """Create the index; the server itself sees to it that no index is written over.

    Raises:
        InvalidInput: something of that name is there, or the server refuses name, analyzer or dims.
        SecondPassError: as `spoken`.
    """
    from elasticsearch import BadRequestError

    # A repetition after a time-out would only hear that the index is there.
    once = client.options(max_retries=0, retry_on_timeout=False)
    with spoken(server):
        try:
            once.indices.create(index=layout.name, body=creation(layout, similarity).body)
        except BadRequestError as error:
            if kind(error) == THERE:
                raise index_is_there(ELASTICSEARCH.at(server), layout.name) from error
            raise
