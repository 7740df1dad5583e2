"""connect and disconnect: against the recorded inference module and the real service, and on a server without one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, SecondPassError
from secondpass_elasticsearch.connecting import Connected, connect, disconnect
from secondpass_elasticsearch.endpoint import Endpoint, Shape, removal
from tests.elasticsearch.inference_module import InferenceModule, contract, scores
from tests.elasticsearch.live_app import serving

pytest.importorskip("fastapi")

from secondpass.serving.api_keys import ApiKeys
from secondpass.serving.application import create_app
from secondpass.serving.settings import Settings

KEY = "a-key-of-the-tests-0123456789"
SHAPES = list(Shape)


@pytest.fixture(scope="module")
def service(tiny: CrossEncoder) -> Iterator[str]:
    """The real service, with a key."""
    with serving(create_app(Settings(keys=ApiKeys([KEY])), {"tiny": tiny})) as url:
        yield url


@pytest.fixture
def module() -> InferenceModule:
    """A new inference module."""
    return InferenceModule()


@pytest.fixture
def playing(module: InferenceModule) -> Iterator[Elasticsearch]:
    """A client of it."""
    with serving(module.app()) as url, Elasticsearch(url, request_timeout=30, max_retries=0) as client:
        yield client


def endpoint(service: str, shape: Shape = Shape.custom, **given: Any) -> Endpoint:
    """An endpoint over the service."""
    model = "tiny" if shape is Shape.custom else None
    return Endpoint(
        **{"inference_id": "mine", "service_url": service, "model": model, "api_key": KEY, "shape": shape, **given}
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_elasticsearch_and_the_service_understand_each_other(
    shape: Shape, service: str, playing: Elasticsearch, module: InferenceModule, tiny: CrossEncoder
) -> None:
    """Its own check, our trial, and a search with every awkward character: one score an input, the engine's own.

    An empty text gets the service's score for blank documents, 0.
    """
    assert connect(playing, "ES", endpoint(service, shape)) is Connected.created
    assert [method for method, _, _ in module.heard] == ["GET", "PUT", "POST"]
    call = contract(shape)["call"]["body"]
    texts = [*(call.get("documents") or call["texts"]), "", 'ünï 😀 "quoted" \\ \n\u2028 text', "cat"]
    answer = playing.inference.inference(inference_id="mine", task_type="rerank", query=call["query"], input=texts)
    found = {row["index"]: row["relevance_score"] for row in answer["rerank"]}
    expected = {row["corpus_id"]: float(row["score"]) for row in tiny.rank(call["query"], texts)}
    expected[texts.index("")] = 0.0
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_twice_is_once(shape: Shape, service: str, playing: Elasticsearch, module: InferenceModule) -> None:
    """A second connect changes nothing, and a second disconnect finds nothing."""
    wanted = endpoint(service, shape)
    assert connect(playing, "ES", wanted) is Connected.created
    assert connect(playing, "ES", wanted) is Connected.unchanged
    assert [method for method, _, _ in module.heard].count("PUT") == 1
    assert disconnect(playing, "ES", removal("mine")) is True
    assert disconnect(playing, "ES", removal("mine")) is False
    assert module.endpoints == {}


def test_another_endpoint_of_that_name(service: str, playing: Elasticsearch, module: InferenceModule) -> None:
    """It is left alone unless --replace says otherwise."""
    connect(playing, "ES", endpoint(service))
    other = endpoint(service, Shape.hugging_face)
    with pytest.raises(InvalidInput, match=r"'mine' with another service, url: take another --id, or --replace it"):
        connect(playing, "ES", other)
    assert module.endpoints["mine"]["service"] == "custom"
    assert connect(playing, "ES", other, replace=True) is Connected.replaced
    assert module.endpoints["mine"]["service"] == "hugging_face"


def test_a_wrong_key_leaves_no_endpoint(service: str, playing: Elasticsearch, module: InferenceModule) -> None:
    """Elasticsearch asks the service first; what the service said is passed on, the key is not."""
    with pytest.raises(InvalidInput, match=r"Could not complete inference endpoint creation.*401") as refused:
        connect(playing, "ES", endpoint(service, api_key="a-wrong-key-000"))
    assert "a-wrong-key-000" not in str(refused.value)
    assert module.endpoints == {}


def test_a_service_that_is_not_there(playing: Elasticsearch, module: InferenceModule) -> None:
    """The same."""
    with pytest.raises(InvalidInput, match="Could not complete inference endpoint creation"):
        connect(playing, "ES", endpoint("http://127.0.0.1:9"))
    assert module.endpoints == {}


def test_a_service_that_leaves_out_documents(playing: Elasticsearch) -> None:
    """Elasticsearch's check has one input; only our trial sees that the second has no score."""

    async def first_only(request: object) -> JSONResponse:
        return JSONResponse({"results": [{"index": 0, "relevance_score": 0.5}]})

    with serving(Starlette(routes=[Route("/v2/rerank", first_only, methods=["POST"])])) as broken:
        with pytest.raises(SecondPassError, match=f"the service at {broken}/v2/rerank did not score each"):
            connect(playing, "ES", endpoint(broken))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("no_module", "this server has no inference module.*8.19 or 9.1"),
        ("unknown_service", "this server has no inference module"),
        ("no_licence", "Enterprise or a trial licence.*start_trial.*non-compliant"),
    ],
)
def test_what_a_server_lacks_is_named(
    missing: str, words: str, playing: Elasticsearch, module: InferenceModule
) -> None:
    """Module or licence."""
    module.missing = missing
    with pytest.raises(SecondPassError, match=f"^Elasticsearch ES: .*{words}"):
        connect(playing, "ES", endpoint("http://127.0.0.1:9"))


def test_a_real_server_without_the_module(client: Elasticsearch, index: str) -> None:
    """Said of both commands; a complete server passes by."""
    if client.info().body["version"]["build_type"] == "docker":
        pytest.skip("a complete server has the module")
    with pytest.raises(SecondPassError, match="no inference module"):
        connect(client, "ES", endpoint("http://127.0.0.1:9", inference_id=index))
    with pytest.raises(SecondPassError, match="no inference module"):
        disconnect(client, "ES", removal(index))


def test_a_dead_server() -> None:
    """One line."""
    with (
        Elasticsearch("http://127.0.0.1:9", max_retries=0) as client,
        pytest.raises(SecondPassError, match="Connection refused"),
    ):
        connect(client, "ES", endpoint("http://127.0.0.1:9"))


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_services_answer_has_no_field_too_many(shape: Shape, service: str) -> None:
    """The service's own bytes through the strict reader: the recorded call gets the recorded answer, scores apart."""
    recorded = contract(shape)
    body = recorded["creation"]["body"]
    moved = {**body["service_settings"], "url": recorded["call"]["url"].replace("http://rerank:8000", service)}
    moved |= {"secret_parameters": {"api_key": KEY}} if shape is Shape.custom else {"api_key": KEY}
    call = recorded["call"]["body"]
    texts = call.get("documents") or call["texts"]
    found = await scores({**body, "service_settings": moved}, call["query"], texts)
    assert sorted(row["index"] for row in found) == [0, 1]
    assert [row["relevance_score"] for row in found] == sorted((row["relevance_score"] for row in found), reverse=True)
