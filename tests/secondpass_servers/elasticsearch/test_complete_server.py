"""Elasticsearch reranking through the service, on a complete server: inference module and trial licence.

No published archive has the module, so these tests are skipped unless ELASTICSEARCH_URL or Docker gives such a server;
test_inference.py holds the recorded contract against the real service meanwhile. A server in a container reaches this
machine by another name than 127.0.0.1: SECONDPASS_SERVICE_HOST names it ("host.docker.internal", say).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest
from elasticsearch import ApiError, Elasticsearch, NotFoundError

from secondpass import CrossEncoder
from secondpass.errors import SecondPassError
from secondpass_servers.elasticsearch.cli import (
    ConnectResult,
    Endpoint,
    InferenceService,
    connect_service,
    disconnect_service,
    removal,
)
from secondpass_servers.elasticsearch.client import create_index
from secondpass_servers.index import IndexLayout
from tests.secondpass_servers.elasticsearch.live_app import serving
from tests.small_collection import CORPUS

pytest.importorskip("fastapi")

from secondpass.serving.application import create_app
from secondpass.serving.settings import ApiKeys, Settings

KEY = "a-key-of-the-tests-0123456789"
QUERY = 'say "cat"\n\\ 😀 train to Paris, second account'


@pytest.fixture
def complete(client: Elasticsearch) -> Elasticsearch:
    """The client, if its server has the module and a licence; a trial is begun where none was."""
    try:
        client.inference.get(task_type="rerank", inference_id="secondpass-none")
    except NotFoundError:
        pass
    except ApiError as error:
        pytest.skip(f"this Elasticsearch has no inference module: {error.message}")
    if client.license.get().body["license"]["type"] not in ("trial", "enterprise"):
        started = client.license.post_start_trial(acknowledge=True).body
        if not started.get("trial_was_started"):
            pytest.skip("no Enterprise or trial licence, and the trial cannot be begun")
    return client


@pytest.fixture
def service(tiny: CrossEncoder) -> Iterator[str]:
    """The real service, as Elasticsearch sees it."""
    host = os.environ.get("SECONDPASS_SERVICE_HOST", "127.0.0.1")
    with serving(create_app(Settings(keys=ApiKeys([KEY])), {"tiny": tiny})) as url:
        address = url.replace("127.0.0.1", host)
        try:
            socket.getaddrinfo(host, None)
        except OSError:
            pytest.skip(f"SECONDPASS_SERVICE_HOST={host} is not known here")
        yield address


@pytest.mark.parametrize("shape", list(InferenceService))
def test_a_search_reranks_through_the_service(
    shape: InferenceService, complete: Elasticsearch, service: str, index: str, tiny: CrossEncoder
) -> None:
    """connect, search with text_similarity_reranker, the engine's order; connect again, disconnect twice."""
    create_index(complete, "ES", IndexLayout(index))
    texts = {row["_id"]: f"{row['title']} {row['text']}".strip() for row in CORPUS}
    for name, text in texts.items():
        complete.index(index=index, id=name, document={"content": text}, refresh=True)
    model = "tiny" if shape is InferenceService.custom else None
    endpoint = Endpoint(f"{index}-{shape.replace('_', '-')}", service, shape, model, KEY)
    try:
        assert connect_service(complete, "ES", endpoint) is ConnectResult.created
        with pytest.raises(SecondPassError):
            connect_service(complete, "ES", replace(endpoint, api_key="a-wrong-key-000"), replace=True)
        assert connect_service(complete, "ES", endpoint) is ConnectResult.unchanged
        assert connect_service(complete, "ES", endpoint, replace=True) is ConnectResult.replaced
        body = endpoint.ready_query(index).body
        assert body is not None
        reranker = body["retriever"]["text_similarity_reranker"]
        reranker["inference_text"] = QUERY
        reranker["retriever"]["standard"]["query"] = {"match_all": {}}
        hits = complete.search(index=index, body=dict(body)).body["hits"]["hits"]
    finally:
        removed = disconnect_service(complete, "ES", removal(endpoint.inference_id))
    assert removed
    assert not disconnect_service(complete, "ES", removal(endpoint.inference_id))
    names = list(texts)
    expected = [names[row["corpus_id"]] for row in tiny.rank(QUERY, list(texts.values()))]
    assert [hit["_id"] for hit in hits] == expected


def test_a_search_that_cannot_be_reranked(
    complete: Elasticsearch, index: str, service: str, own_tiny: CrossEncoder
) -> None:
    """An error, or the first pass's order and scores if the search says so."""
    create_index(complete, "ES", IndexLayout(index))
    for name, text in {"a": "cat", "b": "cat and dog", "c": "cat, dog and cow"}.items():
        complete.index(index=index, id=name, document={"content": text}, refresh=True)
    app = create_app(Settings(keys=ApiKeys([KEY]), max_documents=2), {"tiny": own_tiny})
    with serving(app) as small:
        address = small.replace("127.0.0.1", os.environ.get("SECONDPASS_SERVICE_HOST", "127.0.0.1"))
        endpoint = Endpoint(index, address, api_key=KEY)
        try:
            connect_service(complete, "ES", endpoint)
            found = complete.search(index=index, query={"match": {"content": "cat"}}).body["hits"]["hits"]
            for first_pass in (False, True):
                body = json.loads(json.dumps(endpoint.ready_query(index, first_pass=first_pass).body))
                reranker = body["retriever"]["text_similarity_reranker"]
                reranker["retriever"]["standard"]["query"] = {"match": {"content": "cat"}}
                if first_pass:
                    hits = complete.search(index=index, body=body).body["hits"]["hits"]
                    assert [(hit["_id"], hit["_score"]) for hit in hits] == [
                        (hit["_id"], hit["_score"]) for hit in found
                    ]
                else:
                    with pytest.raises(ApiError):
                        complete.search(index=index, body=body)
        finally:
            disconnect_service(complete, "ES", removal(index))
