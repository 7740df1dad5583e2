"""What a running service knows of itself: who is in it, counters for Prometheus, one JSON line a request."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondpass.merging import MergedBatch
from secondpass.score_cache import ScoreCache
from secondpass.serving.models import Models
from secondpass.serving.problems import CLIENT_GONE, overloaded, stopping
from secondpass.serving.work import Answer
from secondpass.token_cache import TokenCache
from secondpass.tracing import NOT_TOLD, RerankSpan

# Requests that begin in one round of the event loop.
AT_ONCE = 8
PROBES = frozenset({"/health", "/ready"})


class Turns:
    """Lets requests begin a few at a time, in the order they came: a probe waits for a few, not for hundreds."""

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_counting = False

    async def turn(self) -> None:
        """Wait for this request's turn."""
        if not self._is_counting:
            self._is_counting = True
            asyncio.get_running_loop().call_soon(self._next_round)
        if self._left:
            self._left -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        await mine

    def _next_round(self) -> None:
        self._left = AT_ONCE
        while self._waiting and self._left:
            one = self._waiting.popleft()
            if not one.done():
                self._left -= 1
                one.set_result(None)
        self._is_counting = self._left < AT_ONCE
        if self._is_counting:
            asyncio.get_running_loop().call_soon(self._next_round)


class Admission:
    """Who may come in: so many requests at once, and nobody once the service is leaving.

    Used by one event loop only, so it needs no lock.
    """

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.in_flight = 0
        self.draining_since: float | None = None
        self.turns = Turns()

    @property
    def draining(self) -> bool:
        """Whether the service finishes what it has and takes nothing new."""
        return self.draining_since is not None

    def drain(self) -> None:
        """Take nothing new from now on."""
        if self.draining_since is None:
            self.draining_since = time.monotonic()

    def drained(self, after_s: float, at_last_s: float) -> bool:
        """Whether the service may leave: `after_s` have passed and nothing is in flight, or `at_last_s` have."""
        if self.draining_since is None:
            return False
        passed = time.monotonic() - self.draining_since
        return (passed >= after_s and self.in_flight == 0) or passed >= at_last_s

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of the places.

        Raises:
            Problem: 503 while draining, 429 when all places are taken.
        """
        if self.draining:
            raise stopping()
        if self.in_flight >= self.max_requests:
            raise overloaded(f"{self.max_requests} requests are in flight already")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CALLS = (1, 2, 4, 8, 16, 32, 64)
# None is below 0: prometheus_client leaves out the sum of such a histogram.
AGREEMENT = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


class Metrics:
    """What `/metrics` shows, in a registry of the service's own.

    Labels are paths of routes and names of models, never what a client made up.
    """

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("secondpass_requests", "Requests answered.", ("path", "status"), registry=registry)
        self._seconds = Histogram(
            "secondpass_request_seconds", "First byte to answer.", ("path",), buckets=SECONDS, registry=registry
        )
        self._model_seconds = Histogram(
            "secondpass_model_seconds", "First byte to scores.", ("model",), buckets=SECONDS, registry=registry
        )
        self._round_seconds = Histogram(
            "secondpass_round_seconds", "A round through the model.", ("model",), buckets=SECONDS, registry=registry
        )
        self._problems = Counter(
            "secondpass_problems", "Requests without scores, by reason.", ("reason",), registry=registry
        )
        self._pairs = Counter("secondpass_pairs", "Pairs scored.", ("model",), registry=registry)
        self._tokens = Counter("secondpass_tokens", "Tokens that models read.", ("model",), registry=registry)
        self._cut = Counter("secondpass_cut_pairs", "Pairs that lost tokens.", ("model",), registry=registry)
        self._incomplete = Counter(
            "secondpass_incomplete_answers", "Answers whose budget was spent.", ("model",), registry=registry
        )
        pair = ("model", "shadow")
        self._shadowed = Counter(
            "secondpass_shadow_requests", "Answers another model scored too.", (*pair, "outcome"), registry=registry
        )
        self._agreement = Histogram(
            "secondpass_shadow_agreement",
            "Of the orders of a model and its shadow: first, top10, pairs.",
            (*pair, "measure"),
            buckets=AGREEMENT,
            registry=registry,
        )
        self._turned_away = Counter(
            "secondpass_connections_refused", "Connections without a file descriptor for them.", registry=registry
        )
        self._rounds = Histogram(
            "secondpass_round_calls",
            "Requests that shared a round through the model.",
            ("model",),
            buckets=CALLS,
            registry=registry,
        )

    def watch(self, model: str, batch: MergedBatch) -> None:
        """Count a round; called by the scoring thread."""
        self._rounds.labels(model).observe(batch.calls)
        self._round_seconds.labels(model).observe(batch.seconds)

    def follow(self, admission: Admission, models: Models) -> None:
        """Show what is in flight, what waits and what the token cache knew, read when asked."""
        flight = Gauge("secondpass_requests_in_flight", "Requests admitted, not answered.", registry=self.registry)
        flight.set_function(lambda: admission.in_flight)
        pairs = Gauge("secondpass_waiting_pairs", "Pairs accepted, not scored.", ("model",), registry=self.registry)
        for served in models:
            # by name: another model may have taken its place
            pairs.labels(served.name).set_function(lambda name=served.name: models.waiting(name))  # type: ignore[misc]
        if models.token_cache is not None:
            self.registry.register(_CacheCounts("token_cache_documents", "Documents", models.token_cache))
        cache = models.score_cache
        if cache is not None:
            self.registry.register(_CacheCounts("score_cache_pairs", "Pairs", cache))
            held = Gauge("secondpass_score_cache_bytes", "Bytes of the score cache.", registry=self.registry)
            held.set_function(lambda: cache.bytes_held)

    def follow_connections(self, count: Callable[[], int]) -> None:
        """Show how many connections are open, read when asked."""
        Gauge("secondpass_connections", "Connections open.", registry=self.registry).set_function(count)

    def turned_away(self) -> None:
        """Count a connection for which there was no file descriptor."""
        self._turned_away.inc()

    def scored(self, model: str, answer: Answer, seconds: float) -> None:
        """Count an answer, which was there so many seconds after the first byte."""
        self._model_seconds.labels(model).observe(seconds)
        self._pairs.labels(model).inc(answer.pairs)
        self._tokens.labels(model).inc(answer.tokens)
        self._cut.labels(model).inc(len(answer.cuts))
        self._incomplete.labels(model).inc(answer.is_short or not answer.complete)

    def shadowed(self, model: str, shadow: str, outcome: str, agreement: Mapping[str, float] | None = None) -> None:
        """Count what became of an answer that a second model was to score: compared, failed or skipped."""
        self._shadowed.labels(model, shadow, outcome).inc()
        for measure, value in (agreement or {}).items():
            self._agreement.labels(model, shadow, measure).observe(value)

    def answered(self, path: str, status: int, seconds: float, reason: str | None) -> None:
        """Count a request, whatever came of it."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)
        if reason is not None:
            self._problems.labels(reason).inc()

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


class _CacheCounts(Collector):
    """Hits and misses of a cache."""

    def __init__(self, name: str, what: str, cache: TokenCache | ScoreCache) -> None:
        self._name, self._about, self._cache = name, f"{what} looked up in the cache.", cache

    def collect(self) -> Iterator[Metric]:
        looked_up = CounterMetricFamily(f"secondpass_{self._name}", self._about, labels=("result",))
        looked_up.add_metric(("hit",), self._cache.hits)
        looked_up.add_metric(("miss",), self._cache.misses)
        yield looked_up


logger = logging.getLogger("secondpass.serving")

KEY = "secondpass.facts"
GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass
class Facts:
    """What is known of a request as it goes; `path` is the route's, so that no client invents one.

    `size`: bytes of the body; `tei`: whether errors are told in text-embeddings-inference's words; `span`: what else
    hears of it.
    """

    request_id: str
    path: str = "other"
    began: float = field(default_factory=time.monotonic)
    model: str | None = None
    pairs: int = 0
    tokens: int = 0
    cut: int = 0
    windows: int | None = None
    unscored: int | None = None
    cache_hits: int | None = None
    reason: str | None = None
    status: int = 0
    size: int = 0
    tei: bool = False
    span: RerankSpan = NOT_TOLD

    def answered(self, answer: Answer, has_cache: bool) -> None:
        """Take what an answer took; what did not happen is not told."""
        self.tokens, self.cut = answer.tokens, len(answer.cuts)
        self.windows, self.unscored = answer.windows or None, len(answer.unscored or ()) or None
        self.cache_hits = answer.cache_hits if has_cache else None

    def trace(self, status: int) -> None:
        """Tell the span what is known now, by the names of OpenTelemetry and, below `secondpass`, those of the log."""
        own = ("request_id", "pairs", "tokens", "cut", "windows", "unscored", "cache_hits")
        self.span.note({"http.request.method": "POST", "http.route": self.path, "http.response.status_code": status})
        self.span.note({f"secondpass.{name}": getattr(self, name) for name in own})
        if self.reason is not None:
            self.span.failed(self.reason, status >= 500)


class RequestLog:
    """Outermost part of the application: names, times, counts and logs every HTTP request."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self._turns = Turns()

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
            if scope["path"] not in PROBES:
                await self._turns.turn()
            await self._app(scope, receive, sent)
        finally:
            note(facts, scope["method"], self._metrics)


def note(facts: Facts, method: str, metrics: Metrics) -> None:
    """Count and log a request that is over."""
    seconds = time.monotonic() - facts.began
    status = facts.status or CLIENT_GONE
    metrics.answered(facts.path, status, seconds, facts.reason)
    shown = {
        "request_id": facts.request_id, "method": method if method.isalpha() and len(method) < 10 else "other",
        "path": facts.path, "status": status, "ms": round(1000 * seconds, 2),
        "model": facts.model, "pairs": facts.pairs, "tokens": facts.tokens, "cut": facts.cut,
        "windows": facts.windows, "unscored": facts.unscored, "cache_hits": facts.cache_hits, "reason": facts.reason,
        "trace_id": facts.span.trace_id,
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


@contextmanager
def logs_as_json() -> Iterator[None]:
    """Send the service's and uvicorn's records to stderr, a JSON object a line; afterwards all is as it was."""
    handler = logging.StreamHandler(_unbuffered(sys.stderr))
    handler.setFormatter(JsonLines())
    named = {logging.getLogger("secondpass"): logging.INFO, logging.getLogger("uvicorn"): logging.WARNING}
    before = [(each, each.handlers, each.level, each.propagate) for each in named]
    for each, level in named.items():
        each.handlers, each.propagate = [handler], False
        each.setLevel(level)
    try:
        yield
    finally:
        for each, handlers, level, propagate in before:
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)


def _unbuffered(stream: TextIO) -> TextIO:
    """Another way to the same file, if it is one: a buffer refuses what a signal handler logs amid a line."""
    try:
        file = open(stream.fileno(), "wb", buffering=0, closefd=False)
    except (AttributeError, OSError):
        return stream
    return io.TextIOWrapper(file, stream.encoding, stream.errors, write_through=True)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if GIVEN_ID.fullmatch(given):
                return str(given)
    return uuid.uuid4().hex
