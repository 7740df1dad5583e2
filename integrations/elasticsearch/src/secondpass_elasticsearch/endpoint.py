"""The inference endpoint through which Elasticsearch reranks with our service, and the requests that make it.

Shapes: Elasticsearch's inference API, services `custom` and `hugging_face` (8.19 and 9.1 on).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from secondpass.errors import InvalidInput
from secondpass_searching.api_request import ApiRequest
from secondpass_searching.rerank_service import check_model, service_address

TASK = "rerank"
# hugging_face demands a key, also for a service that asks for none.
NO_KEY = "none"
INFERENCE_ID = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?")


class Shape(StrEnum):
    """How Elasticsearch speaks to the service: as to Cohere, or as to text-embeddings-inference."""

    custom = "custom"
    hugging_face = "hugging_face"


PATHS = {Shape.custom: "/v2/rerank", Shape.hugging_face: "/rerank"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A `rerank` inference endpoint over our service.

    Attributes:
        inference_id: its name in Elasticsearch.
        service_url: where the service is, as Elasticsearch sees it, such as "http://rerank:8000".
        shape: which of the service's addresses is used.
        model: which model of the service; only the shape `custom` sends it.
        api_key: the service's key.
    """

    inference_id: str
    service_url: str
    shape: Shape = Shape.custom
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_id(self.inference_id)
        service_address(self.service_url)
        if self.shape is Shape.hugging_face and self.model is not None:
            raise InvalidInput("model: the shape hugging_face has no place for a model; the service's default is used")
        check_model(self.model)

    @property
    def url(self) -> str:
        """The address that Elasticsearch posts to."""
        base = self.service_url.rstrip("/")
        return base if base.endswith(PATHS[self.shape]) else base + PATHS[self.shape]

    @property
    def path(self) -> str:
        """The endpoint's own path in Elasticsearch."""
        return f"/_inference/{TASK}/{self.inference_id}"

    def settings(self) -> dict[str, Any]:
        """`service_settings` without the secret: what Elasticsearch gives back when it is asked."""
        if self.shape is Shape.hugging_face:
            return {"url": self.url}
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = "Bearer ${api_key}"
        # No quotes around ${...}: Elasticsearch puts JSON there. No ${top_n}: a retriever does not set it.
        model = "" if self.model is None else f'"model": {json.dumps(self.model)}, '
        return {
            "url": self.url,
            "headers": headers,
            "request": f'{{{model}"query": ${{query}}, "documents": ${{input}}}}',
            "response": {
                "json_parser": {
                    "relevance_score": "$.results[*].relevance_score",
                    "reranked_index": "$.results[*].index",
                }
            },
        }

    def creation(self) -> ApiRequest:
        """The request that makes the endpoint."""
        secret: dict[str, Any] = {}
        if self.shape is Shape.hugging_face:
            secret = {"api_key": self.api_key or NO_KEY}
        elif self.api_key is not None:
            secret = {"secret_parameters": {"api_key": self.api_key}}
        body = {"service": self.shape.value, "service_settings": {**secret, **self.settings()}}
        return ApiRequest("PUT", self.path, body)

    def look(self) -> ApiRequest:
        """The request that asks what the endpoint is."""
        return ApiRequest("GET", self.path)

    def trial(self) -> ApiRequest:
        """The request that reranks two documents, to see that all of it works."""
        return ApiRequest("POST", self.path, {"query": "a question", "input": ["an answer", "another text"]})

    def removal(self) -> ApiRequest:
        """The request that removes the endpoint."""
        return removal(self.inference_id)

    def ready_query(self, index: str, content: str = "content") -> ApiRequest:
        """A search in two passes: `rank_window_size` documents are read by the model, `size` are shown."""
        question = "your question"
        first = {"standard": {"query": {"match": {content: question}}}}
        reranker = {
            "retriever": first,
            "field": content,
            "inference_id": self.inference_id,
            "inference_text": question,
            "rank_window_size": 100,
        }
        return ApiRequest(
            "POST", f"/{index}/_search", {"retriever": {"text_similarity_reranker": reranker}, "size": 10}
        )


def removal(inference_id: str) -> ApiRequest:
    """The request that removes an endpoint.

    Raises:
        InvalidInput: no endpoint can have such an id.
    """
    _check_id(inference_id)
    return ApiRequest("DELETE", f"/_inference/{TASK}/{inference_id}")


def differences(endpoint: Endpoint, found: Mapping[str, Any]) -> list[str]:
    """Which settings of an endpoint in Elasticsearch are others; secrets cannot be read back and are not compared."""
    wanted = {"service": endpoint.shape.value, "task_type": TASK}
    other = [name for name, value in wanted.items() if found.get(name) != value]
    there = found.get("service_settings") or {}
    return other + [name for name, value in endpoint.settings().items() if there.get(name) != value]


def _check_id(value: str) -> None:
    if not INFERENCE_ID.fullmatch(value):
        raise InvalidInput(
            f"inference id {value!r} is not made of a-z, 0-9, - and _ with a letter or a digit at both ends"
        )
