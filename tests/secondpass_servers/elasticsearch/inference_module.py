"""Elasticsearch's inference module as far as the task `rerank` goes, for a server without it: see contract/.

It takes and gives what Elasticsearch takes and gives, and calls the real service over HTTP as Elasticsearch does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

CONTRACT = Path(__file__).with_name("contract")
KNOWN = {
    "custom": {"secret_parameters", "url", "headers", "request", "response", "query_parameters", "rate_limit"},
    "hugging_face": {"api_key", "url", "rate_limit"},
}
REQUIRED = {"custom": {"url", "request", "response"}, "hugging_face": {"api_key", "url"}}
SECRET = {"secret_parameters", "api_key"}
PLACEHOLDER = re.compile(r"\$\{[^}]*\}")


def contract(name: str) -> dict[str, Any]:
    """One file of the contract."""
    read: dict[str, Any] = json.loads((CONTRACT / f"{name}.json").read_text(encoding="utf-8"))
    return read


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, name: str, cause: str = "") -> None:
        super().__init__(name)
        found = contract("errors")[name]
        self.status = found["status"]
        self.error = found["error"]
        if cause and isinstance(self.error, dict):
            self.error = {**self.error, "caused_by": {"type": "status_exception", "reason": cause}}
        if isinstance(self.error, dict):
            self.error = {**self.error, "root_cause": [dict(self.error)]}


class InferenceModule:
    """The module's state.

    Attributes:
        endpoints: bodies of what was PUT, by id.
        hits: what the inner retriever of every search finds, best first.
        heard: every request, as (method, path, body).
        missing: name of the error that every request gets, "" for none.
    """

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.hits: list[dict[str, Any]] = []
        self.heard: list[tuple[str, str, Any]] = []
        self.missing = ""

    def app(self) -> Starlette:
        """The HTTP side."""
        methods = ["GET", "PUT", "POST", "DELETE"]
        return Starlette(
            routes=[
                Route("/_inference/rerank/{id}", self._endpoint, methods=methods),
                Route("/{index}/_search", self._search, methods=["POST"]),
            ]
        )

    async def _search(self, request: Request) -> JSONResponse:
        body = await request.json()
        recorded = contract("reranker")
        reranker = recorded["defaults"] | body["retriever"]["text_similarity_reranker"]
        assert set(reranker) <= set(recorded["parameters"])
        window = self.hits[: reranker["rank_window_size"]]
        texts = [hit["_source"][reranker["field"]] for hit in window]
        headers = {"X-Elastic-Product": "Elasticsearch"}
        try:
            found = await scores(self.endpoints[reranker["inference_id"]], reranker["inference_text"], texts)
        except (httpx.HTTPError, ValueError) as error:
            if not reranker["allow_rerank_failures"]:
                cause = {"type": "status_exception", "reason": str(error)}
                return JSONResponse({"error": recorded["failure"] | {"caused_by": cause}, "status": 500}, 500, headers)
        else:
            window = [window[row["index"]] | {"_score": positive(row["relevance_score"])} for row in found]
        return JSONResponse({"hits": {"hits": window[: body["size"]]}}, headers=headers)

    async def _endpoint(self, request: Request) -> JSONResponse:
        raw = await request.body()
        body = json.loads(raw) if raw else None
        self.heard.append((request.method, request.url.path, body))
        try:
            status, answer = 200, await self._act(request.method, request.path_params["id"], body)
        except Refusal as refusal:
            status, answer = refusal.status, {"error": refusal.error, "status": refusal.status}
        return JSONResponse(answer, status, {"X-Elastic-Product": "Elasticsearch"})

    async def _act(self, method: str, name: str, body: Any) -> dict[str, Any]:
        if self.missing:
            raise Refusal(self.missing)
        if method == "PUT":
            return await self._put(name, body)
        if name not in self.endpoints:
            raise Refusal("absent")
        if method == "GET":
            return {"endpoints": [stored(name, self.endpoints[name])]}
        if method == "DELETE":
            del self.endpoints[name]
            return {"acknowledged": True, "pipelines": []}
        return {"rerank": await scores(self.endpoints[name], body["query"], body["input"])}

    async def _put(self, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if name in self.endpoints:
            raise Refusal("present")
        service, settings = body["service"], body["service_settings"]
        assert set(body) == {"service", "service_settings"}
        assert REQUIRED[service] <= set(settings) <= KNOWN[service]
        check = contract(service)["check"]
        try:
            await scores(dict(body), check["query"], check.get("documents") or check["texts"])
        except (httpx.HTTPError, ValueError) as error:
            raise Refusal("failed_check", str(error)) from error
        self.endpoints[name] = dict(body)
        return stored(name, self.endpoints[name])


def stored(name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What Elasticsearch shows of an endpoint."""
    shown = {key: value for key, value in body["service_settings"].items() if key not in SECRET}
    per_minute = contract(body["service"])["stored"]["service_settings"]["rate_limit"]
    settings = {**shown, "rate_limit": per_minute}
    found = {"inference_id": name, "task_type": "rerank", "service": body["service"], "service_settings": settings}
    return found if body["service"] == "custom" else {**found, "task_settings": {}}


def outgoing(body: Mapping[str, Any], query: str, texts: list[str]) -> tuple[str, dict[str, str], bytes]:
    """Address, headers and body of the request that Elasticsearch makes for one reranking."""
    settings = body["service_settings"]
    if body["service"] == "hugging_face":
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {settings['api_key']}"}
        return settings["url"], headers, json.dumps({"texts": texts, "query": query}).encode()
    secrets = settings.get("secret_parameters", {})
    headers = {name: replaced(value, secrets) for name, value in settings.get("headers", {}).items()}
    values = {name: json.dumps(value) for name, value in secrets.items()}
    values |= {"query": json.dumps(query), "input": json.dumps(texts)}
    return (
        settings["url"],
        {"Content-Type": "application/json", **headers},
        replaced(settings["request"], values).encode(),
    )


def replaced(template: str, values: Mapping[str, str]) -> str:
    """Put values for ${names}; one that has no value is an error, as it is in Elasticsearch."""

    def value(found: re.Match[str]) -> str:
        name = found.group()[2:-1]
        if name not in values:
            raise ValueError(f"Found placeholder [${{{name}}}] after replacement call, please check that all are set")
        return values[name]

    return PLACEHOLDER.sub(value, template)


async def scores(body: Mapping[str, Any], query: str, texts: list[str]) -> list[dict[str, Any]]:
    """Call the service and read its answer as strictly as Elasticsearch does."""
    url, headers, content = outgoing(body, query, texts)
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        answer = await client.post(url, headers=headers, content=content)
    answer.raise_for_status()
    return read_answer(body["service"], answer.json())


def positive(score: float) -> float:
    """The score of a hit, which no engine takes below 0."""
    return max(score, 0.0) + min(math.exp(score), 1.0)


def read_answer(service: str, answer: Any) -> list[dict[str, Any]]:
    """Scores by input, best first.

    Raises:
        ValueError: the answer is not what Elasticsearch's parser of this service takes.
    """
    if service == "hugging_face":
        if not isinstance(answer, list):
            raise ValueError("Failed to parse object: expecting token of type [START_ARRAY]")
        for item in answer:
            unknown = set(item) - {"index", "score", "relevance_score", "text", "document"}
            if unknown:
                raise ValueError(f"unknown field {sorted(unknown)}")
        found = [(item["index"], item.get("score", item.get("relevance_score"))) for item in answer]
    else:
        found = [(item["index"], item["relevance_score"]) for item in answer["results"]]
    if not all(type(index) is int and isinstance(score, float) for index, score in found):
        raise ValueError("an index that is no integer, or a score that is no number")
    ordered = sorted(found, key=lambda pair: -pair[1])
    return [{"index": index, "relevance_score": score} for index, score in ordered]
