"""Counters and durations for Prometheus, in a registry of the service's own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from secondpass.merging import MergedBatch
from secondpass.serving.admission import Admission
from secondpass.serving.models import Models
from secondpass.token_cache import TokenCache

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CALLS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """What `/metrics` shows; labels are paths of routes and names of models, never what a client made up."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("secondpass_requests", "Requests answered.", ("path", "status"), registry=registry)
        self._seconds = Histogram(
            "secondpass_request_seconds", "First byte to answer.", ("path",), buckets=SECONDS, registry=registry
        )
        self._problems = Counter(
            "secondpass_problems", "Requests without scores, by reason.", ("reason",), registry=registry
        )
        self._pairs = Counter("secondpass_pairs", "Pairs scored.", ("model",), registry=registry)
        self._tokens = Counter("secondpass_tokens", "Tokens that models read.", ("model",), registry=registry)
        self._cut = Counter("secondpass_cut_pairs", "Pairs that lost tokens.", ("model",), registry=registry)
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

    def follow(self, admission: Admission, models: Models) -> None:
        """Show what is in flight, what waits and what the token cache knew, read when asked."""
        flight = Gauge("secondpass_requests_in_flight", "Requests admitted, not answered.", registry=self.registry)
        flight.set_function(lambda: admission.in_flight)
        pairs = Gauge("secondpass_waiting_pairs", "Pairs accepted, not scored.", ("model",), registry=self.registry)
        for served in models:
            pairs.labels(served.name).set_function(lambda shared=served.shared: shared.load.pairs)  # type: ignore[misc]
        if models.token_cache is not None:
            self.registry.register(_CacheCounts(models.token_cache))

    def scored(self, model: str, pairs: int, tokens: int, cut: int) -> None:
        """Count an answer."""
        self._pairs.labels(model).inc(pairs)
        self._tokens.labels(model).inc(tokens)
        self._cut.labels(model).inc(cut)

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
    """Hits and misses of a token cache."""

    def __init__(self, cache: TokenCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        looked_up = CounterMetricFamily(
            "secondpass_token_cache_documents", "Documents looked up in the token cache.", labels=("result",)
        )
        looked_up.add_metric(("hit",), self._cache.hits)
        looked_up.add_metric(("miss",), self._cache.misses)
        yield looked_up
