"""Elasticsearch told to rerank through our service, or to forget it again; both may be done twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_elasticsearch.endpoint import TASK, Endpoint, differences
from secondpass_elasticsearch.engine import ELASTICSEARCH
from secondpass_elasticsearch.failures import kind, reason, spoken
from secondpass_searching.api_request import ApiRequest

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch

NO_MODULE = (
    "this server has no inference module, which the services custom and hugging_face need: "
    "take a complete Elasticsearch, 8.19 or 9.1 or later"
)
NO_LICENCE = (
    "the inference API and text_similarity_reranker need an Enterprise or a trial licence "
    "(a trial of 30 days: POST /_license/start_trial?acknowledge=true)"
)


class Connected(StrEnum):
    """What `connect` did."""

    created = "created"
    unchanged = "unchanged"
    replaced = "replaced"


def connect(client: Elasticsearch, server: str, endpoint: Endpoint, replace: bool = False) -> Connected:
    """Make the endpoint, unless it is there with these settings, and rerank two documents through it.

    Elasticsearch itself calls the service before it takes a new endpoint. The key of an endpoint that is there cannot
    be read back: `replace` sends a new one.

    Raises:
        InvalidInput: an endpoint of that id has other settings and `replace` is False, or the settings are refused.
        SecondPassError: no inference module, no licence, or the service does not answer as it should.
    """
    found = _found(client, server, endpoint)
    done = Connected.created
    if found is not None:
        other = differences(endpoint, found)
        if other and not replace:
            raise InvalidInput(
                f"{ELASTICSEARCH.at(server)} has an inference endpoint {endpoint.inference_id!r} "
                f"with another {', '.join(other)}: take another --id, or --replace it"
            )
        done = Connected.replaced if replace else Connected.unchanged
    if done is Connected.replaced:
        disconnect(client, server, endpoint.removal())
    if done is not Connected.unchanged:
        _create(client, server, endpoint)
    _try_out(client, server, endpoint)
    return done


def disconnect(client: Elasticsearch, server: str, removal: ApiRequest) -> bool:
    """Remove the endpoint; False if there was none.

    Raises:
        SecondPassError: no inference module, no right, or an ingest pipeline still uses the endpoint.
    """
    from elasticsearch import NotFoundError

    with _explained(server):
        try:
            client.inference.delete(task_type=TASK, inference_id=removal.path.rsplit("/", 1)[1])
        except NotFoundError:
            return False
    return True


def _found(client: Elasticsearch, server: str, endpoint: Endpoint) -> dict[str, Any] | None:
    from elasticsearch import NotFoundError

    with _explained(server):
        try:
            answer = client.inference.get(task_type=TASK, inference_id=endpoint.inference_id).body
        except NotFoundError:
            return None
    endpoints = answer.get("endpoints") or []
    return dict(endpoints[0]) if endpoints else None


def _create(client: Elasticsearch, server: str, endpoint: Endpoint) -> None:
    body = endpoint.creation().body
    # An endpoint is made once: a repetition after a time-out would only hear that it is there.
    once = client.options(max_retries=0, retry_on_timeout=False)
    with _explained(server):
        once.inference.put(task_type=TASK, inference_id=endpoint.inference_id, inference_config=body)


def _try_out(client: Elasticsearch, server: str, endpoint: Endpoint) -> None:
    """One score for each input, or the retriever would fail for every search."""
    body = endpoint.trial().body or {}
    with _explained(server):
        answer = client.inference.inference(task_type=TASK, inference_id=endpoint.inference_id, **body).body
    scores = answer.get(TASK)
    if not isinstance(scores, list) or {score.get("index") for score in scores} != set(range(len(body["input"]))):
        raise SecondPassError(
            f"{ELASTICSEARCH.at(server)}: the service at {endpoint.url} did not score each of the inputs once"
        )


@contextmanager
def _explained(server: str) -> Iterator[None]:
    """As `spoken`; what is missing on a server without module or licence is named."""
    from elasticsearch import ApiError

    with spoken(server):
        try:
            yield
        except ApiError as error:
            if _has_no_module(error):
                raise SecondPassError(f"{ELASTICSEARCH.at(server)}: {NO_MODULE}") from error
            if error.status_code == 403 and "non-compliant" in reason(error):
                raise SecondPassError(f"{ELASTICSEARCH.at(server)}: {NO_LICENCE}: {reason(error)}") from error
            raise


def _has_no_module(error: ApiError) -> bool:
    """Whether nothing in the server handles the address, or nothing in its module knows the service."""
    unknown = "Unknown service" in reason(error)
    return error.status_code in (400, 405) and (unknown or (not kind(error) and "_inference" in reason(error)))
