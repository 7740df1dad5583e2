"""One JSON line a request, without a text of it, and the request's id on its answer."""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
import uuid
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondpass.serving.metrics import Metrics
from secondpass.serving.problems import CLIENT_GONE

logger = logging.getLogger("secondpass.serving")

KEY = "secondpass.facts"
GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass
class Facts:
    """What is known of a request as it goes; `path` is the route's, so that no client invents one."""

    request_id: str
    path: str = "other"
    began: float = field(default_factory=time.monotonic)
    model: str | None = None
    pairs: int = 0
    tokens: int = 0
    cut: int = 0
    reason: str | None = None
    status: int = 0


class RequestLog:
    """Outermost part of the application: names, times, counts and logs every HTTP request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        facts = scope[KEY] = Facts(_request_id(scope))

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", facts.request_id.encode("ascii"))]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            self._note(facts, scope["method"])

    def _note(self, facts: Facts, method: str) -> None:
        seconds = time.monotonic() - facts.began
        status = facts.status or CLIENT_GONE
        self._metrics.answered(facts.path, status, seconds, facts.reason)
        shown = {
            "request_id": facts.request_id, "method": method if method.isalpha() and len(method) < 10 else "other",
            "path": facts.path, "status": status, "ms": round(1000 * seconds, 2),
            "model": facts.model, "pairs": facts.pairs, "tokens": facts.tokens, "cut": facts.cut,
            "reason": facts.reason,
        }  # fmt: skip
        logger.info("request", extra={"fields": {name: value for name, value in shown.items() if value is not None}})


def facts_of(scope: Scope) -> Facts:
    """The facts of a request in progress."""
    facts: Facts = scope[KEY]
    return facts


def log_failure(facts: Facts, error: BaseException) -> None:
    """Log where an unforeseen error came from; its message may hold a text, so only its type is told."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    fields = {"request_id": facts.request_id, "error": type(error).__name__, "at": places[-8:]}
    logger.error("failure", extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A log record as one JSON object; tracebacks are told by their places alone."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        shown = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            places = traceback.extract_tb(error.__traceback__)[-8:]
            shown |= {"error": type(error).__name__, "at": [f"{one.filename}:{one.lineno}" for one in places]}
        return json.dumps(shown, default=str)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if GIVEN_ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex
