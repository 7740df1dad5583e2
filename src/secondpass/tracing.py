"""Spans of OpenTelemetry around a reranking, with the attributes that OpenInference gives a reranker.

Nothing is imported for it: who wants spans has imported OpenTelemetry and set a provider, and without one nothing
happens and nothing costs. Texts of queries and documents stay out of spans unless `SECONDPASS_TRACE_TEXTS` or the
caller says otherwise; messages of errors, which may hold them, always do.

OpenInference: https://github.com/Arize-ai/openinference/blob/main/spec/semantic_conventions.md
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from secondpass.text import repaired

__all__ = ["TRACE_TEXTS", "RerankSpan", "carrier", "reranking"]

Value = str | bool | int | float

TRACE_TEXTS = "SECONDPASS_TRACE_TEXTS"
# The SDK's own variables, the first that is set; beyond them it throws the earliest attributes away.
LIMITS = ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT")
USUAL_LIMIT = 128
# Left for what instruments around us put on a span.
LEFT = 8
# One part in so many of the room for documents is for those that came in.
INPUTS = 3
KIND = {"openinference.span.kind": "RERANKER"}


class RerankSpan:
    """A reranking under way: what is known of it is kept here, and put on its span when it ends.

    Of many documents those fit that a span has room for (`OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`, 128 attributes if nobody
    says another number): the best of those that come out, the first of those that came in. `secondpass.documents` says
    how many there were.
    """

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self._texts = False
        self._told: dict[str, Value] = {**KIND}
        self._given: list[dict[str, Value]] = []
        self._best: list[dict[str, Value]] = []

    @property
    def trace_id(self) -> str | None:
        """32 hexadecimal digits, None where nobody records."""
        return None if self._span is None else f"{self._span.get_span_context().trace_id:032x}"

    def asked(
        self,
        model: str,
        query: str | None,
        documents: Sequence[str],
        *,
        top_k: int | None = None,
        ids: Sequence[str] | None = None,
        scores: Sequence[float | None] | None = None,
        texts: bool = False,
    ) -> None:
        """Tell what is asked for.

        Args:
            model: its name.
            query: None where there are several.
            documents: their texts.
            top_k: how many are wanted; None: all.
            ids: of the documents; None: their places.
            scores: that they came with.
            texts: whether query and documents are told too; False leaves that to the environment.
        """
        if self._span is None:
            return
        self._texts = texts or os.environ.get(TRACE_TEXTS, "").lower() in ("1", "true", "yes", "on")
        self.note({"reranker.model_name": model, "reranker.top_k": top_k, "secondpass.documents": len(documents)})
        if self._texts and query is not None:
            self._told["reranker.query"] = query
        for place, text in enumerate(documents):
            document: dict[str, Value] = {"id": str(place) if ids is None else ids[place]}
            if scores is not None and (score := scores[place]) is not None:
                document["score"] = float(score)
            if self._texts:
                document["content"] = text
            self._given.append(document)

    def answered(self, best: Sequence[tuple[int, float | None]]) -> None:
        """Tell what came of it: places of the documents asked about, best first, with scores."""
        for place, score in best if self._span is not None else ():
            document = {name: value for name, value in self._given[place].items() if name != "score"}
            self._best.append(document if score is None else {**document, "score": float(score)})

    def note(self, attributes: Mapping[str, Value | None]) -> None:
        """Put further attributes on the span; None is none."""
        if self._span is not None:
            self._told |= {name: value for name, value in attributes.items() if value is not None}

    def failed(self, kind: str, is_error: bool = True) -> None:
        """Tell the kind of a failure; one that is the caller's own fault is none of the span's."""
        if self._span is not None:
            self._told["error.type"] = kind
            if is_error:
                self._span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR, kind)

    def end(self) -> None:
        """Put everything on the span; what must not be lost comes last, since the first are thrown away."""
        if self._span is None:
            return
        limit = next((int(os.environ[name]) for name in LIMITS if os.environ.get(name, "").isdecimal()), USUAL_LIMIT)
        room = max(0, limit - LEFT - len(self._told))
        outputs = _fitting("output", self._best, room - min(room // INPUTS, sum(map(len, self._given))))
        told = _fitting("input", self._given, room - len(outputs)) | outputs | self._told
        # one half of a surrogate pair, in an id or a name too, and no exporter could send any span of its batch
        self._span.set_attributes({key: repaired(one) if isinstance(one, str) else one for key, one in told.items()})


def _fitting(which: str, documents: Sequence[Mapping[str, Value]], room: int) -> dict[str, Value]:
    """The attributes of the first documents, as many as there is room for."""
    made: dict[str, Value] = {}
    for place, document in enumerate(documents):
        if len(made) + len(document) > room:
            break
        made |= {f"reranker.{which}_documents.{place}.document.{name}": value for name, value in document.items()}
    return made


# Of the calls that nobody records.
NOT_TOLD = RerankSpan()


@contextmanager
def reranking(
    name: str = "rerank", *, headers: Mapping[str, str] | None = None, serves: bool = False
) -> Iterator[RerankSpan]:
    """Open a span around a reranking, as the current one of this thread or task.

    Args:
        name: of the span.
        headers: where W3C's `traceparent` may be that this belongs to, names in small letters: those of a request, or
            what `carrier` gave another process. A span that is open here counts more.
        serves: whether this answers another process's request, where no span is open here that does.

    Yields:
        What the span is told by; where no provider is set, something that hears nothing.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or _is_idle(trace):
        yield NOT_TOLD
        return
    is_inner = trace.get_current_span().get_span_context().is_valid
    kind = trace.SpanKind.SERVER if serves and not is_inner else trace.SpanKind.INTERNAL
    outer = import_module("opentelemetry.propagate").extract(headers) if headers and not is_inner else None
    tracer = trace.get_tracer("secondpass")
    quiet = {"record_exception": False, "set_status_on_exception": False}
    with tracer.start_as_current_span(name, outer, kind, KIND, **quiet) as span:
        told = RerankSpan(span) if span.is_recording() else NOT_TOLD
        try:
            yield told
        except BaseException as error:
            told.failed(type(error).__name__)
            raise
        finally:
            told.end()


def _is_idle(trace: Any) -> bool:
    """Whether no provider is set, or one that does nothing."""
    try:
        return type(trace.get_tracer_provider()) in (trace.ProxyTracerProvider, trace.NoOpTracerProvider)
    except AttributeError:  # another thread is importing it
        return True


def carrier() -> dict[str, str]:
    """Headers that make the spans of another process children of the current one; none where nothing is recorded."""
    trace = sys.modules.get("opentelemetry.trace")
    made: dict[str, str] = {}
    if trace is not None and not _is_idle(trace):
        import_module("opentelemetry.propagate").inject(made)
    return made
