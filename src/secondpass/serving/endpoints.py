"""The endpoints and what OpenAPI says of them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Security
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Discriminator, Tag
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from secondpass.serving.guarded_route import GuardedRoute
from secondpass.serving.service import Service
from secondpass.serving.shapes.documents import RerankRequest, RerankResponse
from secondpass.serving.shapes.pairs import ScoreRequest, ScoreResponse
from secondpass.serving.shapes.parts import ErrorBody
from secondpass.serving.shapes.passages import RankingRequest, RankingResponse
from secondpass.serving.shapes.texts import TextsRequest, TextsResponse, shape_of

PROBLEMS = {
    400: "The body is not JSON.",
    404: "No model of this name.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The body is not declared as plain JSON.",
    422: "A field is refused.",
    429: "Too much is going on; Retry-After says when to come back.",
    500: "The model or the service failed.",
    503: "The service is stopping.",
    504: "No answer within the deadline.",
}
UNAUTHORIZED = {401: "No or another API key."}

DeadlineMs = Annotated[
    int | None,
    Header(alias="Secondpass-Deadline-Ms", ge=1, description="Milliseconds to the answer, below the service's own."),
]
EitherShape = Annotated[
    Annotated[TextsRequest, Tag("texts-shape")] | Annotated[RerankRequest, Tag("documents-shape")],
    Discriminator(shape_of),
    Body(),
]


class Status(BaseModel):
    """One word."""

    status: str


class ModelInfo(BaseModel):
    """A served model: the precision it was asked for, and the type of its large matrix products."""

    name: str
    max_tokens: int
    truncation: str
    device: str
    precision: str
    dtype: str


class Limits(BaseModel):
    """What a request may be."""

    max_requests: int
    max_documents: int
    max_body_bytes: int
    max_characters: int
    deadline_s: float


class Info(BaseModel):
    """The service; `model_id` and the two after it are named as text-embeddings-inference names them."""

    name: str
    version: str
    model_id: str
    max_input_length: int
    max_concurrent_requests: int
    models: list[ModelInfo]
    limits: Limits


def router(service: Service) -> APIRouter:
    """Every endpoint of a service."""
    made = APIRouter(route_class=GuardedRoute)
    _add_scoring(made, service)
    _add_watching(made, service)
    return made


def _options(service: Service, model: Any, problems: dict[int, str]) -> dict[str, Any]:
    """What every endpoint with a gate says about itself."""
    keyed = len(service.settings.keys) > 0
    told = problems | (UNAUTHORIZED if keyed else {})
    responses: dict[int, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": text} for status, text in sorted(told.items())
    }
    responses[200] = {"model": model} if model is not None else {"content": {"text/plain": {}}}
    security = [Security(HTTPBearer(auto_error=False))] if keyed else []
    return {"response_model": None, "responses": responses, "dependencies": security}


def _add_scoring(made: APIRouter, service: Service) -> None:
    async def rerank(request: Request, body: RerankRequest, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    async def rerank_either(request: Request, body: EitherShape, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    async def ranking(request: Request, body: RankingRequest, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    async def score(request: Request, body: ScoreRequest, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    texts = "Order texts: text-embeddings-inference's shape, or the other one when the body has documents"
    for path, endpoint, model, summary in (
        ("/v2/rerank", rerank, RerankResponse, "Order documents: Cohere's, Jina's and vLLM's shape"),
        ("/v1/rerank", rerank, RerankResponse, "The same under the older path"),
        ("/rerank", rerank_either, TextsResponse | RerankResponse, texts),
        ("/v1/ranking", ranking, RankingResponse, "Order passages: Nvidia's shape"),
        ("/score", score, ScoreResponse, "Score pairs"),
    ):
        name = path.strip("/").replace("/", "_")
        options = _options(service, model, PROBLEMS)
        made.add_api_route(path, endpoint, methods=["POST"], operation_id=name, summary=summary, **options)


def _add_watching(made: APIRouter, service: Service) -> None:
    async def health() -> Response:
        return JSONResponse({"status": "alive"})

    async def ready() -> Response:
        if service.admission.draining:
            return JSONResponse({"status": "stopping"}, 503, {"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def info() -> Response:
        return JSONResponse(_info(service).model_dump())

    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    leaving = {503: {"model": Status, "description": "The service is stopping: send nothing new."}}
    gated = {401: UNAUTHORIZED[401]} if len(service.settings.keys) else {}
    free = {"response_model": None, "responses": {200: {"model": Status}}}
    ready_options = {"response_model": None, "responses": {200: {"model": Status}, **leaving}}
    metrics_gate = {} if service.settings.open_metrics else gated
    for path, endpoint, options, summary in (
        ("/health", health, free, "Whether the process answers"),
        ("/ready", ready, ready_options, "Whether it takes requests"),
        ("/info", info, _options(service, Info, gated), "Models and limits"),
        ("/metrics", metrics, _options(service, None, metrics_gate), "Counters for Prometheus"),
    ):
        made.add_api_route(path, endpoint, methods=["GET"], operation_id=path[1:], summary=summary, **options)
        made.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False, **options)


def _info(service: Service) -> Info:
    settings = service.settings
    models = [
        ModelInfo(
            name=served.name,
            max_tokens=served.window,
            truncation=served.reranker.truncation,
            device=str(served.reranker.device),
            precision=served.reranker.precision,
            dtype=served.dtype,
        )
        for served in service.models
    ]
    return Info(
        name="secondpass",
        version=version("secondpass"),
        model_id=models[0].name,
        max_input_length=models[0].max_tokens,
        max_concurrent_requests=settings.max_requests,
        models=models,
        limits=Limits(**{name: getattr(settings, name) for name in Limits.model_fields}),
    )
