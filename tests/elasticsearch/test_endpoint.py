"""The requests that `connect` makes, held against the recorded contract."""

from __future__ import annotations

import json
from typing import Any

import pytest

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.endpoint import Endpoint, Shape, differences, removal
from tests.elasticsearch.inference_module import contract, outgoing, read_answer, replaced, stored

SHAPES = list(Shape)


def endpoint(shape: Shape, **given: Any) -> Endpoint:
    """The contract's endpoint."""
    model = "tiny" if shape is Shape.custom else None
    wanted = {"inference_id": "secondpass", "service_url": "http://rerank:8000", "model": model, "api_key": "KEY"}
    return Endpoint(**{**wanted, "shape": shape, **given})


@pytest.mark.parametrize("shape", SHAPES)
def test_the_creation_is_the_recorded_one(shape: Shape) -> None:
    """Method, path and body."""
    made = endpoint(shape).creation()
    assert {"method": made.method, "path": made.path, "body": made.body} == contract(shape)["creation"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_double_plays_the_contract(shape: Shape) -> None:
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
def test_an_endpoint_equals_what_is_stored_of_it(shape: Shape) -> None:
    """Whatever Elasticsearch adds; a key that is there, or not, shows in the header of custom only."""
    assert differences(endpoint(shape), contract(shape)["stored"]) == []
    assert differences(endpoint(shape, api_key="OTHER"), contract(shape)["stored"]) == []


def test_differences() -> None:
    """Each is named."""
    there = contract(Shape.custom)["stored"]
    assert differences(endpoint(Shape.custom, service_url="http://other:1"), there) == ["url"]
    assert differences(endpoint(Shape.custom, model="big"), there) == ["request"]
    assert differences(endpoint(Shape.custom, api_key=None), there) == ["headers"]
    assert differences(endpoint(Shape.hugging_face), there) == ["service", "url"]
    assert differences(endpoint(Shape.hugging_face), {}) == ["service", "task_type", "url"]


def test_without_a_key() -> None:
    """custom sends none; hugging_face demands one, so it gets a word that is none."""
    body = endpoint(Shape.custom, api_key=None).creation().body
    assert body is not None
    assert "secret_parameters" not in body["service_settings"]
    assert "Authorization" not in body["service_settings"]["headers"]
    body = endpoint(Shape.hugging_face, api_key=None).creation().body
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
    assert endpoint(Shape.custom, service_url=given).url == url


def test_a_model_with_quotes_stays_json() -> None:
    """The template with values in it is what the service can parse."""
    settings = endpoint(Shape.custom, model='a "b" \\ ü').settings()
    filled = replaced(settings["request"], {"query": '"q"', "input": '["d"]'})
    assert json.loads(filled) == {"model": 'a "b" \\ ü', "query": "q", "documents": ["d"]}
    with pytest.raises(ValueError, match="Found placeholder"):
        replaced("${top_n}", {})


@pytest.mark.parametrize("name", ["", "Upper", "-a", "a-", "a b", "a/b", "ü", "a" + "\n"])
def test_bad_ids(name: str) -> None:
    """Refused before they are part of a path."""
    with pytest.raises(InvalidInput, match="inference id"):
        endpoint(Shape.custom, inference_id=name)
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
        endpoint(Shape.custom, service_url=given)
    assert "SECRET" not in str(refused.value)


def test_a_model_where_it_has_no_place() -> None:
    """hugging_face cannot name one; a placeholder would be replaced."""
    with pytest.raises(InvalidInput, match="no place for a model"):
        endpoint(Shape.hugging_face, model="big")
    with pytest.raises(InvalidInput, match="replace"):
        endpoint(Shape.custom, model="${api_key}")


def test_the_ready_query() -> None:
    """A retriever over the endpoint, with a window wide enough."""
    request = endpoint(Shape.custom).ready_query("articles", "body")
    assert (request.method, request.path) == ("POST", "/articles/_search")
    assert request.body is not None
    reranker = request.body["retriever"]["text_similarity_reranker"]
    assert (reranker["inference_id"], reranker["field"], reranker["rank_window_size"]) == ("secondpass", "body", 100)
    assert reranker["retriever"]["standard"]["query"] == {"match": {"body": reranker["inference_text"]}}


@pytest.mark.parametrize(
    ("shape", "answer"),
    [
        (Shape.hugging_face, [{"index": 0, "score": 0.5, "extra": 1}]),
        (Shape.hugging_face, {"results": []}),
        (Shape.custom, {"results": [{"index": 0, "relevance_score": 1}]}),
    ],
)
def test_the_double_is_as_strict_as_elasticsearch(shape: Shape, answer: Any) -> None:
    """An unknown field, another form, a number without a point."""
    with pytest.raises(ValueError, match=r"unknown field|START_ARRAY|no number"):
        read_answer(shape, answer)
