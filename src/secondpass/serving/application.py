"""The application: models, endpoints, gate and log put together."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

from fastapi import APIRouter, Body, FastAPI, Header, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Discriminator, Tag
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from secondpass.reranker import Reranker
from secondpass.serving import shapes
from secondpass.serving.answering import Service
from secondpass.serving.models import Models, load_models
from secondpass.serving.problems import Problem, body_of, client_gone, from_error, invalid, of_validation
from secondpass.serving.settings import Settings
from secondpass.serving.telemetry import Admission, Facts, Metrics, RequestLog, facts_of, log_failure
from secondpass.text import repaired

# An escape of a surrogate: a pair of them is a character, one alone is what a client left that cut a text in half.
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse(body: bytes) -> Any:
    """Read a JSON body; lone surrogates become U+FFFD, as they do in process.

    Raises:
        Problem: 400, it is no JSON; the message gives the place, never the text.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
        return _repaired(value) if SURROGATE.search(body) else value
    except RecursionError:
        raise _bad("it is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise _bad(f"it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"{error.msg} at line {error.lineno} column {error.colno}") from None
    except ValueError:
        raise _bad("a number in it is NaN, infinite or too long") from None


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return repaired(value)
    if isinstance(value, list):
        return [_repaired(item) for item in value]
    if isinstance(value, dict):
        return {_repaired(name): _repaired(item) for name, item in value.items()}
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _bad(why: str) -> Problem:
    return Problem(400, "json", f"the body is not JSON: {why}")


JSON_TYPE = re.compile(r"application/(?:json|[\w.+-]+\+json)", re.IGNORECASE)
# Digits of a length that is certainly too much; thousands of them cannot even be read.
LONGEST_NUMBER = 18


def check_headers(headers: Mapping[str, str], max_bytes: int) -> None:
    """Refuse by the headers alone what would be refused after reading.

    A browser sends JSON to another site only after asking it, so insisting on the content type also keeps web pages
    from using a service on their visitor's machine.

    Raises:
        Problem: 415 for another content type or a compressed body, 413 for too many bytes.
    """
    if not JSON_TYPE.fullmatch(headers.get("content-type", "").partition(";")[0].strip()):
        raise Problem(415, "content_type", "send the body as JSON with Content-Type: application/json")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "content_type", "send the body without Content-Encoding")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > LONGEST_NUMBER or int(length) > max_bytes):
        raise too_large(max_bytes)


async def read_body(receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """Read a body of at most `max_bytes` within `seconds`.

    Raises:
        Problem: 413, 408, or 499 when the client went away.
    """
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(seconds):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise client_gone()
                body += message.get("body", b"")
                if len(body) > max_bytes:
                    raise too_large(max_bytes)
                more = message.get("more_body", False)
    except TimeoutError:
        slow = f"the body did not arrive within {seconds:g} s"
        raise Problem(408, "slow_body", slow, {"Connection": "close"}) from None
    return bytes(body)


def too_large(max_bytes: int) -> Problem:
    """A body above the limit: 413, and the connection closes so that nobody sends the rest."""
    return Problem(413, "too_large", f"the body has more than {max_bytes} bytes", {"Connection": "close"})


OPEN_PATHS = frozenset({"/health", "/ready"})
METRICS = "/metrics"

Handler = Callable[[Request], Awaitable[Response]]


class ReadRequest(Request):
    """A request whose body has been read and parsed."""

    def __init__(self, scope: Scope, receive: Receive, body: bytes, value: Any) -> None:
        super().__init__(scope, receive)
        self._given = body, value

    async def body(self) -> bytes:
        """The bytes."""
        return self._given[0]

    async def json(self) -> Any:
        """The value."""
        return self._given[1]


class GuardedRoute(APIRoute):
    """An endpoint behind the gate: key, place, size and JSON are settled before FastAPI sees the body.

    Errors of any kind become the one body that clients read; nothing of the request is repeated in it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's own handler."""
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            facts = facts_of(request.scope)
            facts.path = self.path
            try:
                return await _through_the_gate(request, facts, inner)
            except Exception as error:
                return told(_problem(error, facts), facts)

        return handler


def told(problem: Problem, facts: Facts) -> Response:
    """A problem as a response."""
    facts.reason = problem.reason
    return JSONResponse(body_of(problem, facts.request_id), problem.status, problem.headers)


async def _through_the_gate(request: Request, facts: Facts, inner: Handler) -> Response:
    service: Service = request.app.state.service
    settings = service.settings
    is_open = facts.path in OPEN_PATHS or (settings.open_metrics and facts.path == METRICS)
    if not is_open and not settings.keys.allow(request.headers.get("authorization")):
        message = "give an API key: Authorization: Bearer <key>"
        raise Problem(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
    if request.method != "POST":
        return await inner(request)
    with service.admission.place():
        check_headers(Headers(scope=request.scope), settings.max_body_bytes)
        body = await read_body(request.receive, settings.max_body_bytes, settings.deadline_s)
        if not body:
            raise Problem(400, "json", "the body is empty")
        return await inner(ReadRequest(request.scope, request.receive, body, parse(body)))


def _problem(error: Exception, facts: Facts) -> Problem:
    if isinstance(error, RequestValidationError):
        return invalid(of_validation(error.errors()))
    problem = from_error(error)
    if problem.reason in ("internal", "model"):
        log_failure(facts, error)
    return problem


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
    Annotated[shapes.TextsRequest, Tag("texts-shape")] | Annotated[shapes.RerankRequest, Tag("documents-shape")],
    Discriminator(shapes.shape_of),
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


class RequestLimits(BaseModel):
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
    limits: RequestLimits


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
        status: {"model": shapes.ErrorBody, "description": text} for status, text in sorted(told.items())
    }
    responses[200] = {"model": model} if model is not None else {"content": {"text/plain": {}}}
    security = [Security(HTTPBearer(auto_error=False))] if keyed else []
    return {"response_model": None, "responses": responses, "dependencies": security}


def _add_scoring(made: APIRouter, service: Service) -> None:
    async def rerank(request: Request, body: shapes.RerankRequest, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    async def rerank_either(request: Request, body: EitherShape, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    async def ranking(request: Request, body: shapes.RankingRequest, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    async def score(request: Request, body: shapes.ScoreRequest, deadline_ms: DeadlineMs = None) -> Response:
        return await service.answer(request, body, deadline_ms)

    texts = "Order texts: text-embeddings-inference's shape, or the other one when the body has documents"
    for path, endpoint, model, summary in (
        ("/v2/rerank", rerank, shapes.RerankResponse, "Order documents: Cohere's, Jina's and vLLM's shape"),
        ("/v1/rerank", rerank, shapes.RerankResponse, "The same under the older path"),
        ("/rerank", rerank_either, shapes.TextsResponse | shapes.RerankResponse, texts),
        ("/v1/ranking", ranking, shapes.RankingResponse, "Order passages: Nvidia's shape"),
        ("/score", score, shapes.ScoreResponse, "Score pairs"),
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
        limits=RequestLimits(**{name: getattr(settings, name) for name in RequestLimits.model_fields}),
    )


def create_app(settings: Settings | None = None, models: Mapping[str, Reranker] | None = None) -> FastAPI:
    """Make the ASGI application; any server can run it, `secondpass serve` uses uvicorn.

    Args:
        settings: limits and keys; None takes the defaults.
        models: loaded models by name, the first is the default; None loads those of the settings.

    Returns:
        The application. Its lifespan ends the scoring threads; `app.state.service` is the `Service`.

    Raises:
        ModelLoadError: a model cannot be had.
        InvalidInput: a model has several labels.
    """
    settings = settings or Settings()
    metrics = Metrics()
    served = Models(load_models(settings) if models is None else models, settings, metrics.watch)
    service = Service(settings, served, metrics, Admission(settings.max_requests))
    metrics.follow(service.admission, served)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.close)

    # The pages that FastAPI offers would load scripts of others into the browser of whoever opens them.
    app = FastAPI(
        title="secondpass",
        summary="Second-pass ranking",
        version=version("secondpass"),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router(service))
    app.add_exception_handler(HTTPException, _no_such_endpoint)
    app.add_middleware(RequestLog, metrics=metrics)
    return app


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    """404 and 405, in the one form that errors have."""
    status = getattr(error, "status_code", 500)
    message = {404: "there is no such path", 405: "the path does not take this method"}.get(status, "refused")
    return told(Problem(status, "no_endpoint", message, getattr(error, "headers", None)), facts_of(request.scope))
