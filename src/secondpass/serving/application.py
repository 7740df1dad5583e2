"""The application: models, endpoints, gate and log put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Header, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Discriminator, Tag, WithJsonSchema
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from secondpass.cascade import Cascade
from secondpass.lazy import optional
from secondpass.reranker import Reranker
from secondpass.serving import scores, shapes
from secondpass.serving.answering import Service
from secondpass.serving.bodies import (
    MOST_FIELDS,
    VALUES_PER_DOCUMENT,
    check_counts,
    check_headers,
    is_misdirected,
    parse,
    read_body,
)
from secondpass.serving.info import Info, ListedModel, ListedModels, info_of
from secondpass.serving.models import Models, load_models
from secondpass.serving.playground import (
    PAGE,
    CorpusInfo,
    ExplainRequest,
    ExplainResponse,
    Playground,
    SearchRequest,
    SearchResponse,
    pages,
)
from secondpass.serving.problems import Problem, body_of, from_error, invalid, misdirected, of_validation
from secondpass.serving.settings import Settings
from secondpass.serving.telemetry import PROBES, Admission, Facts, Metrics, RequestLog, facts_of, log_failure
from secondpass.tracing import reranking

METRICS, TEI_PATH = "/metrics", "/rerank"
# Where Nvidia's own service has each of its models; here the body names the model.
HOSTED = "/v1/retrieval/{name:path}/reranking"
UNTRACED = PROBES | {METRICS}

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
            # until the body tells another shape
            facts.tei = self.path == TEI_PATH
            # what the playground asks beside a ranking is none
            if request.method != "POST" or self.path.startswith(PAGE):
                return await _answered(request, facts, inner)
            with reranking(f"rerank {self.path}", headers=request.headers, serves=True) as facts.span:
                response = await _answered(request, facts, inner)
                facts.trace(response.status_code)
                return response

        return handler


async def _answered(request: Request, facts: Facts, inner: Handler) -> Response:
    """What comes of a request, be it a problem."""
    try:
        return await _through_the_gate(request, facts, inner)
    except Exception as error:
        return told(_problem(error, facts), facts)


def told(problem: Problem, facts: Facts) -> Response:
    """A problem as a response."""
    facts.reason = problem.reason
    return JSONResponse(body_of(problem, facts.request_id, facts.tei), problem.status, problem.headers)


async def _through_the_gate(request: Request, facts: Facts, inner: Handler) -> Response:
    service: Service = request.app.state.service
    settings = service.settings
    is_open = facts.path in PROBES or (settings.open_metrics and facts.path == METRICS)
    if not is_open and not settings.keys.allow(request.headers.get("authorization")):
        message = "give an API key: Authorization: Bearer <key>"
        raise Problem(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})
    if request.method != "POST":
        return await inner(request)
    with service.admission.place():
        check_headers(Headers(scope=request.scope), settings.max_body_bytes)
        most = VALUES_PER_DOCUMENT * settings.max_documents + MOST_FIELDS
        limits = settings.max_body_bytes, settings.deadline_s, most, settings.head_s
        body = await read_body(request.receive, *limits)
        # hundreds of bodies may be whole at once
        await service.admission.turns.turn()
        if not body:
            raise Problem(400, "json", "the body is empty")
        facts.size = len(body)
        value = await service.aside(request, settings.deadline_s, parse, body)
        facts.tei = facts.path == TEI_PATH and shapes.shape_of(value) == "texts-shape"
        check_counts(value, settings.max_documents)
        return await inner(ReadRequest(request.scope, request.receive, body, value))


def _problem(error: Exception, facts: Facts) -> Problem:
    if isinstance(error, RequestValidationError):
        errors = error.errors()
        said = of_validation(errors)
        is_empty = facts.tei and errors[0]["type"] == "too_short"
        return Problem(400, "empty", said) if is_empty else invalid(said)
    problem = from_error(error)
    if problem.reason in ("internal", "model"):
        log_failure(facts, error)
    return problem


PROBLEMS = {
    400: "The body is not JSON, or in text-embeddings-inference's shape has no texts.",
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

# A header is there or not; null is none.
MILLISECONDS = WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 2**53 - 1})


def _milliseconds(name: str, about: str) -> Any:
    """A header with a whole number."""
    return Header(alias=name, ge=1, le=2**53 - 1, description=about)


DeadlineMs = Annotated[
    int | None,
    MILLISECONDS,
    _milliseconds("Secondpass-Deadline-Ms", "Milliseconds to the answer, below the service's own."),
]
BudgetMs = Annotated[
    int | None,
    MILLISECONDS,
    _milliseconds("Secondpass-Budget-Ms", "Milliseconds after which the answer is what is scored by then."),
]
Documents = Annotated[shapes.OpenRerankRequest, Tag("documents-shape")]
Voyage = Annotated[shapes.VoyageRequest, Tag("voyage-shape")]
Texts = Annotated[shapes.TextsRequest, Tag("texts-shape")]
Pairs = Annotated[scores.ScoreRequest, Tag("pairs-shape")]
TextPairs = Annotated[scores.TextPairsRequest, Tag("text-pairs-shape")]
AnyShape = Annotated[Texts | Voyage | Documents, Discriminator(shapes.shape_of), Body()]
DocumentsShape = Annotated[Voyage | Documents, Discriminator(shapes.documents_shape_of), Body()]
PairsShape = Annotated[Pairs | TextPairs, Discriminator(scores.pairs_shape_of), Body()]


class Status(BaseModel):
    """One word."""

    status: str


def router(service: Service, playground: Playground | None = None) -> APIRouter:
    """Every endpoint of a service."""
    made = APIRouter(route_class=GuardedRoute)
    _add_scoring(made, service)
    _add_watching(made, service)
    if playground is not None:
        _add_playground(made, service, playground)
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


def _answering(service: Service, shape: Any) -> Callable[..., Awaitable[Response]]:
    """An endpoint of a shape of requests, which FastAPI knows by the type of the body."""

    async def answer(
        request: Request, body: Any, deadline_ms: DeadlineMs = None, budget_ms: BudgetMs = None
    ) -> Response:
        return await service.answer(request, body, deadline_ms, budget_ms)

    answer.__annotations__["body"] = shape
    return answer


def _add_scoring(made: APIRouter, service: Service) -> None:
    documents = shapes.RerankResponse | shapes.VoyageResponse
    told = scores.ScoreResponse | scores.PairScores
    for path, shape, model, summary in (
        ("/v2/rerank", shapes.RerankRequest, shapes.RerankResponse, "Order documents: Cohere's shape"),
        ("/v1/rerank", DocumentsShape, documents, "Order documents: Jina's, vLLM's and Voyage's shape"),
        ("/voyage/v1/rerank", shapes.VoyagesOwnRequest, shapes.VoyageResponse, "Order documents: Voyage's shape alone"),
        ("/rerank", AnyShape, shapes.TextsResponse | documents, "Order texts or documents: any of the shapes"),
        ("/v1/ranking", shapes.RankingRequest, shapes.RankingResponse, "Order passages: Nvidia's shape"),
        ("/score", PairsShape, told, "Score pairs: our shape and vLLM's"),
        ("/v1/score", PairsShape, told, "The same under vLLM's other path"),
    ):
        name = path.strip("/").replace("/", "_")
        options = _options(service, model, PROBLEMS)
        endpoint = _answering(service, shape)
        made.add_api_route(path, endpoint, methods=["POST"], operation_id=name, summary=summary, **options)
    ranking = _answering(service, shapes.RankingRequest)
    hidden = _options(service, shapes.RankingResponse, PROBLEMS)
    made.add_api_route(HOSTED, ranking, methods=["POST"], include_in_schema=False, **hidden)


def _add_watching(made: APIRouter, service: Service) -> None:
    async def health() -> Response:
        return JSONResponse({"status": "alive"})

    async def ready() -> Response:
        if service.admission.draining:
            return JSONResponse({"status": "stopping"}, 503, {"Retry-After": "1"})
        return JSONResponse({"status": "ready"})

    async def info() -> Response:
        return JSONResponse(info_of(service).model_dump())

    async def models() -> Response:
        own = ((one.name, one.created, one.window) for one in service.models)
        listed = [ListedModel(id=name, created=since, root=name, max_model_len=window) for name, since, window in own]
        return JSONResponse(ListedModels(data=listed).model_dump())

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
        ("/v1/models", models, _options(service, ListedModels, gated), "Models as OpenAI lists them"),
        ("/metrics", metrics, _options(service, None, metrics_gate), "Counters for Prometheus"),
    ):
        name = path.strip("/").replace("/", "_")
        made.add_api_route(path, endpoint, methods=["GET"], operation_id=name, summary=summary, **options)
        made.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False, **options)


def _add_playground(made: APIRouter, service: Service, playground: Playground) -> None:
    async def search(request: Request, body: SearchRequest) -> Response:
        return await playground.search(request, body, service.settings)

    async def explain(request: Request, body: ExplainRequest) -> Response:
        return await playground.explain(request, body, service)

    async def corpus() -> Response:
        return Response(playground.about().model_dump_json(), media_type="application/json")

    gated = {401: UNAUTHORIZED[401]} if len(service.settings.keys) else {}
    for path, endpoint, method, model, problems, summary in (
        ("search", search, "POST", SearchResponse, PROBLEMS, "The first pass of the playground"),
        ("explain", explain, "POST", ExplainResponse, PROBLEMS, "What a document's score is made of"),
        ("corpus", corpus, "GET", CorpusInfo, gated, "What the playground searches"),
    ):
        name, options = f"playground_{path}", _options(service, model, problems)
        made.add_api_route(f"{PAGE}/{path}", endpoint, methods=[method], operation_id=name, summary=summary, **options)


def create_app(settings: Settings | None = None, models: Mapping[str, Reranker | Cascade] | None = None) -> FastAPI:
    """Make the ASGI application; any server can run it, `secondpass serve` uses uvicorn.

    Args:
        settings: limits and keys; None takes the defaults.
        models: loaded models by name, the first is the default; None loads those of the settings.

    Returns:
        The application. Its lifespan ends the scoring threads; `app.state.service` is the `Service`.

    Raises:
        ModelLoadError: a model cannot be had.
        InvalidInput: a model has several labels, or the corpus of the playground cannot be read.
        MissingExtra: pages are wanted, and fastapi-offline is not installed; or a playground, and bm25s is not.
    """
    settings = settings or Settings()
    playground = None if settings.playground is None else Playground(settings.playground)
    metrics = Metrics()
    served = Models(load_models(settings) if models is None else models, settings, metrics.watch)
    service = Service(settings, served, metrics, Admission(settings.max_requests))
    metrics.follow(service.admission, served)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(served.close)
        if playground is not None:
            playground.close()
        service.thread.shutdown(wait=False)

    # FastAPI's own pages would load scripts of others into the browser of whoever opens them.
    make = optional("fastapi_offline", "fastapi-offline", "swagger").FastAPIOffline if settings.docs else FastAPI
    app: FastAPI = make(
        title="secondpass",
        summary="Second-pass ranking",
        version=version("secondpass"),
        docs_url="/docs" if settings.docs else None,
        redoc_url=None,
        # spans of its own, where it makes any: not of probes, and messages of errors are nobody's
        telemetry={"operation_spans": False, "logs": False, "exclude": lambda scope: scope["path"] in UNTRACED},
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.service = service
    app.include_router(router(service, playground))
    if playground is not None:
        # whoever opens a page has no header for a key; what the page asks for needs one
        app.include_router(pages())
    app.add_exception_handler(HTTPException, _no_such_endpoint)
    if not (settings.keys or settings.without_keys):
        app.add_middleware(HostGuard)
    app.add_middleware(RequestLog, metrics=metrics)
    return app


class HostGuard:
    """Refuses what came over this machine's own address and was meant for another host."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] == "http" and is_misdirected(scope):
            await told(misdirected(), facts_of(scope))(scope, receive, send)
        else:
            await self._app(scope, receive, send)


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    """404 and 405, in the one form that errors have."""
    status = getattr(error, "status_code", 500)
    message = {404: "there is no such path", 405: "the path does not take this method"}.get(status, "refused")
    return told(Problem(status, "no_endpoint", message, getattr(error, "headers", None)), facts_of(request.scope))
