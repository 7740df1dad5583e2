"""The inference endpoint: its requests, and connecting on a server that plays its module."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, SecondPassError
from secondpass_servers.elasticsearch.cli import (
    ConnectResult,
    Endpoint,
    InferenceService,
    connect_service,
    differences,
    disconnect_service,
    removal,
)
from tests.secondpass_servers.elasticsearch.inference_module import (
    InferenceModule,
    contract,
    outgoing,
    read_answer,
    replaced,
    scores,
    stored,
)
from tests.secondpass_servers.elasticsearch.live_app import serving

pytest.importorskip("fastapi")

from secondpass.serving.application import create_app
from secondpass.serving.settings import ApiKeys, Settings

SHAPES = list(InferenceService)


def endpoint(shape: InferenceService, **given: Any) -> Endpoint:
    """The contract's endpoint."""
    model = "tiny" if shape is InferenceService.custom else None
    wanted = {"inference_id": "secondpass", "service_url": "http://rerank:8000", "model": model, "api_key": "KEY"}
    return Endpoint(**{**wanted, "shape": shape, **given})


@pytest.mark.parametrize("shape", SHAPES)
def test_the_creation_is_the_recorded_one(shape: InferenceService) -> None:
    """Method, path and body."""
    made = endpoint(shape).creation()
    assert {"method": made.method, "path": made.path, "body": made.body} == contract(shape)["creation"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_double_plays_the_contract(shape: InferenceService) -> None:
    """What stands in for Elasticsearch in the tests shows and posts what the contract says Elasticsearch does."""
    recorded = contract(shape)
    body = recorded["creation"]["body"]
    assert stored("secondpass", body) == recorded["stored"]
    call = recorded["call"]
    texts = call["body"].get("documents") or call["body"]["texts"]
    url, headers, content = outgoing(body, call["body"]["query"], texts)
    assert (url, headers, json.loads(content)) == (call["url"], call["headers"], call["body"])
    assert [score["index"] for score in read_answer(shape, recorded["answer"])] == [0, 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_endpoint_equals_what_is_stored_of_it(shape: InferenceService) -> None:
    """Whatever Elasticsearch adds; a key that is there, or not, shows in the header of custom only."""
    assert differences(endpoint(shape), contract(shape)["stored"]) == []
    assert differences(endpoint(shape, api_key="OTHER"), contract(shape)["stored"]) == []


def test_differences() -> None:
    """Each is named."""
    there = contract(InferenceService.custom)["stored"]
    assert differences(endpoint(InferenceService.custom, service_url="http://other:1"), there) == ["url"]
    assert differences(endpoint(InferenceService.custom, model="big"), there) == ["request"]
    assert differences(endpoint(InferenceService.custom, api_key=None), there) == ["headers"]
    assert differences(endpoint(InferenceService.hugging_face), there) == ["service", "url"]
    assert differences(endpoint(InferenceService.hugging_face), {}) == ["service", "task_type", "url"]


def test_without_a_key() -> None:
    """custom sends none; hugging_face demands one, so it gets a word that is none."""
    body = endpoint(InferenceService.custom, api_key=None).creation().body
    assert body is not None
    assert "secret_parameters" not in body["service_settings"]
    assert "Authorization" not in body["service_settings"]["headers"]
    body = endpoint(InferenceService.hugging_face, api_key=None).creation().body
    assert body is not None
    assert body["service_settings"]["api_key"] == "none"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://rerank:8000/", "http://rerank:8000/v2/rerank"),
        ("http://rerank:8000/v2/rerank", "http://rerank:8000/v2/rerank"),
        ("https://host/prefix", "https://host/prefix/v2/rerank"),
    ],
)
def test_the_address(given: str, url: str) -> None:
    """The shape's path is added once."""
    assert endpoint(InferenceService.custom, service_url=given).url == url


def test_a_model_with_quotes_stays_json() -> None:
    """The template with values in it is what the service can parse."""
    settings = endpoint(InferenceService.custom, model='a "b" \\ ü').settings()
    filled = replaced(settings["request"], {"query": '"q"', "input": '["d"]'})
    assert json.loads(filled) == {"model": 'a "b" \\ ü', "query": "q", "documents": ["d"]}
    with pytest.raises(ValueError, match="Found placeholder"):
        replaced("${top_n}", {})


@pytest.mark.parametrize("name", ["", "Upper", "-a", "a-", "a b", "a/b", "ü", "a" + "\n"])
def test_bad_ids(name: str) -> None:
    """Refused before they are part of a path."""
    with pytest.raises(InvalidInput, match="inference id"):
        endpoint(InferenceService.custom, inference_id=name)
    with pytest.raises(InvalidInput, match="inference id"):
        removal(name)


@pytest.mark.parametrize(
    "given",
    [
        "rerank:8000",
        "ftp://h",
        "http://",
        "http://u:SECRET@h:1",
        "http://h/${api_key}",
        "http://h?x=SECRET",
        "http://h:99999",
    ],
)
def test_bad_addresses(given: str) -> None:
    """Refused without repeating what may be a secret."""
    with pytest.raises(InvalidInput, match="the service's address") as refused:
        endpoint(InferenceService.custom, service_url=given)
    assert "SECRET" not in str(refused.value)


def test_a_model_where_it_has_no_place() -> None:
    """hugging_face cannot name one; a placeholder would be replaced."""
    with pytest.raises(InvalidInput, match="no place for a model"):
        endpoint(InferenceService.hugging_face, model="big")
    with pytest.raises(InvalidInput, match="replace"):
        endpoint(InferenceService.custom, model="${api_key}")


def test_the_ready_query() -> None:
    """A retriever over the endpoint, with a window wide enough."""
    request = endpoint(InferenceService.custom).ready_query("articles", "body")
    assert (request.method, request.path) == ("POST", "/articles/_search")
    assert request.body is not None
    reranker = request.body["retriever"]["text_similarity_reranker"]
    assert (reranker["inference_id"], reranker["field"], reranker["rank_window_size"]) == ("secondpass", "body", 100)
    assert reranker["retriever"]["standard"]["query"] == {"match": {"body": reranker["inference_text"]}}


def test_the_ready_query_that_falls_back_is_the_recorded_one() -> None:
    """One word more than the one that fails, which has none of it."""
    made = endpoint(InferenceService.custom)
    wanted = contract("reranker")["search"]
    assert made.ready_query("articles", first_pass=True).body == wanted
    del wanted["retriever"]["text_similarity_reranker"]["allow_rerank_failures"]
    assert made.ready_query("articles").body == wanted


@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        (InferenceService.hugging_face, [{"index": 0, "score": 0.5, "extra": 1}]),
        (InferenceService.hugging_face, {"results": []}),
        (InferenceService.custom, {"results": [{"index": 0, "relevance_score": 1}]}),
    ],
)
def test_the_double_is_as_strict_as_elasticsearch(shape: InferenceService, answer: Any) -> None:
    """An unknown field, another form, a number without a point."""
    with pytest.raises(ValueError, match=r"unknown field|START_ARRAY|no number"):
        read_answer(shape, answer)


KEY = "a-key-of-the-tests-0123456789"


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


def over(service: str, shape: InferenceService = InferenceService.custom, **given: Any) -> Endpoint:
    """An endpoint over the service."""
    model = "tiny" if shape is InferenceService.custom else None
    return Endpoint(
        **{"inference_id": "mine", "service_url": service, "model": model, "api_key": KEY, "shape": shape, **given}
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_elasticsearch_and_the_service_understand_each_other(
    shape: InferenceService, service: str, playing: Elasticsearch, module: InferenceModule, tiny: CrossEncoder
) -> None:
    """Its own check, our trial, and a search with every awkward character: one score an input, the engine's own.

    An empty text gets the service's score for blank documents, 0.
    """
    assert connect_service(playing, "ES", over(service, shape)) is ConnectResult.created
    assert [method for method, _, _ in module.heard] == ["GET", "PUT", "POST"]
    call = contract(shape)["call"]["body"]
    texts = [*(call.get("documents") or call["texts"]), "", 'ünï 😀 "quoted" \\ \n\u2028 text', "cat"]
    answer = playing.inference.inference(inference_id="mine", task_type="rerank", query=call["query"], input=texts)
    found = {row["index"]: row["relevance_score"] for row in answer["rerank"]}
    expected = {row["corpus_id"]: float(row["score"]) for row in tiny.rank(call["query"], texts)}
    expected[texts.index("")] = 0.0
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_twice_is_once(shape: InferenceService, service: str, playing: Elasticsearch, module: InferenceModule) -> None:
    """A second connect changes nothing, and a second disconnect finds nothing."""
    wanted = over(service, shape)
    assert connect_service(playing, "ES", wanted) is ConnectResult.created
    assert connect_service(playing, "ES", wanted) is ConnectResult.unchanged
    assert [method for method, _, _ in module.heard].count("PUT") == 1
    assert disconnect_service(playing, "ES", removal("mine")) is True
    assert disconnect_service(playing, "ES", removal("mine")) is False
    assert module.endpoints == {}


def test_another_endpoint_of_that_name(service: str, playing: Elasticsearch, module: InferenceModule) -> None:
    """It is left alone unless --replace says otherwise."""
    connect_service(playing, "ES", over(service))
    other = over(service, InferenceService.hugging_face)
    with pytest.raises(InvalidInput, match=r"'mine' with another service, url: take another --id, or --replace it"):
        connect_service(playing, "ES", other)
    assert module.endpoints["mine"]["service"] == "custom"
    assert connect_service(playing, "ES", other, replace=True) is ConnectResult.replaced
    assert module.endpoints["mine"]["service"] == "hugging_face"


def test_a_wrong_key_leaves_no_endpoint(service: str, playing: Elasticsearch, module: InferenceModule) -> None:
    """Elasticsearch asks the service first; what the service said is passed on, the key is not."""
    with pytest.raises(InvalidInput, match=r"Could not complete inference endpoint creation.*401") as refused:
        connect_service(playing, "ES", over(service, api_key="a-wrong-key-000"))
    assert "a-wrong-key-000" not in str(refused.value)
    assert module.endpoints == {}


def test_an_endpoint_that_works_is_not_replaced_by_one_that_does_not(
    service: str, playing: Elasticsearch, module: InferenceModule
) -> None:
    """The new one is tried under another id first, and nothing of that stays, whether it works or not."""
    connect_service(playing, "ES", over(service))
    before = dict(module.endpoints)
    with pytest.raises(InvalidInput, match=r"401") as refused:
        connect_service(playing, "ES", over(service, api_key="a-wrong-key-000"), replace=True)
    assert "gone" not in str(refused.value)
    assert module.endpoints == before
    assert connect_service(playing, "ES", over(service)) is ConnectResult.unchanged
    assert connect_service(playing, "ES", over(service), replace=True) is ConnectResult.replaced
    assert module.endpoints == before


def test_an_endpoint_that_is_gone_is_told(playing: Elasticsearch, module: InferenceModule) -> None:
    """A service that ends between the trial and the new endpoint."""
    calls: list[int] = []

    async def rerank(request: Request) -> JSONResponse:
        calls.append(1)
        documents = (await request.json())["documents"]
        results = [{"index": place, "relevance_score": 0.5} for place in range(len(documents))]
        # Two calls each for the first endpoint and the trial: Elasticsearch's own and ours.
        return JSONResponse({"results": results}, 200 if len(calls) < 5 else 500)

    with serving(Starlette(routes=[Route("/v2/rerank", rerank, methods=["POST"])])) as ending:
        connect_service(playing, "ES", over(ending))
        with pytest.raises(InvalidInput, match=r"creation.*500.*; the endpoint 'mine' that was there is gone"):
            connect_service(playing, "ES", over(ending), replace=True)
    assert module.endpoints == {}


def test_a_service_that_is_not_there(playing: Elasticsearch, module: InferenceModule) -> None:
    """The same."""
    with pytest.raises(InvalidInput, match="Could not complete inference endpoint creation"):
        connect_service(playing, "ES", over("http://127.0.0.1:9"))
    assert module.endpoints == {}


def test_a_service_that_leaves_out_documents(playing: Elasticsearch) -> None:
    """Elasticsearch's check has one input; only our trial sees that the second has no score."""

    async def first_only(request: object) -> JSONResponse:
        return JSONResponse({"results": [{"index": 0, "relevance_score": 0.5}]})

    with serving(Starlette(routes=[Route("/v2/rerank", first_only, methods=["POST"])])) as broken:
        with pytest.raises(SecondPassError, match=f"the service at {broken}/v2/rerank did not score each"):
            connect_service(playing, "ES", over(broken))


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
        connect_service(playing, "ES", over("http://127.0.0.1:9"))


def test_a_real_server_without_the_module(client: Elasticsearch, index: str) -> None:
    """Said of both commands; a complete server passes by."""
    if client.info().body["version"]["build_type"] == "docker":
        pytest.skip("a complete server has the module")
    with pytest.raises(SecondPassError, match="no inference module"):
        connect_service(client, "ES", over("http://127.0.0.1:9", inference_id=index))
    with pytest.raises(SecondPassError, match="no inference module"):
        disconnect_service(client, "ES", removal(index))


def test_a_dead_server() -> None:
    """One line."""
    with (
        Elasticsearch("http://127.0.0.1:9", max_retries=0) as client,
        pytest.raises(SecondPassError, match="Connection refused"),
    ):
        connect_service(client, "ES", over("http://127.0.0.1:9"))


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_services_answer_has_no_field_too_many(shape: InferenceService, service: str) -> None:
    """The service's own bytes through the strict reader: the recorded call gets the recorded answer, scores apart."""
    recorded = contract(shape)
    body = recorded["creation"]["body"]
    moved = {**body["service_settings"], "url": recorded["call"]["url"].replace("http://rerank:8000", service)}
    moved |= {"secret_parameters": {"api_key": KEY}} if shape is InferenceService.custom else {"api_key": KEY}
    call = recorded["call"]["body"]
    texts = call.get("documents") or call["texts"]
    found = await scores({**body, "service_settings": moved}, call["query"], texts)
    assert sorted(row["index"] for row in found) == [0, 1]
    assert [row["relevance_score"] for row in found] == sorted((row["relevance_score"] for row in found), reverse=True)
