"""The gate of every endpoint: key, place, size and JSON are settled before FastAPI sees the body.

Errors of any kind become the one body that clients read; nothing of the request is repeated in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope

from secondpass.serving.json_bodies import parse
from secondpass.serving.problems import Problem, body_of, from_error, invalid, of_validation
from secondpass.serving.reading import check_headers, read_body
from secondpass.serving.request_log import Facts, facts_of, log_failure
from secondpass.serving.service import Service

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
    """An endpoint behind the gate."""

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
