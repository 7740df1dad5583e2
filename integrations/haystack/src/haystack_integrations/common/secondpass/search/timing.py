"""Milliseconds by component, taken from Haystack's own spans."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from haystack.tracing.tracer import Span, Tracer, enable_tracing, tracer

RUN = "haystack.component.run"
NAME = "haystack.component.name"


class ComponentClock(Tracer):
    """Passes every span on to the tracer that was there before, and adds up how long each component took."""

    def __init__(self, before: Tracer) -> None:
        self._before = before
        self.ms: dict[str, float] = {}

    @contextmanager
    def trace(
        self, operation_name: str, tags: dict[str, Any] | None = None, parent_span: Span | None = None
    ) -> Iterator[Span]:
        """Time a span of a component."""
        began = time.perf_counter()
        with self._before.trace(operation_name, tags=tags, parent_span=parent_span) as span:
            yield span
        name = (tags or {}).get(NAME)
        if operation_name == RUN and name is not None:
            self.ms[name] = self.ms.get(name, 0.0) + 1000 * (time.perf_counter() - began)

    def current_span(self) -> Span | None:
        """Return the span of the tracer that was there before."""
        return self._before.current_span()


@contextmanager
def component_times() -> Iterator[dict[str, float]]:
    """Collect milliseconds by component name while the `with` block runs pipelines (one at a time in a process)."""
    before = tracer.actual_tracer
    clock = ComponentClock(before)
    enable_tracing(clock)
    try:
        yield clock.ms
    finally:
        enable_tracing(before)
