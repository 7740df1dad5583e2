"""Spans around a reranking: OpenInference's attributes, no texts unless asked for, nothing where nobody listens."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from secondpass import CrossEncoder, tracing
from secondpass.errors import InvalidInput
from secondpass.serving import Settings, create_app
from secondpass.tracing import NOT_TOLD, RerankSpan, carrier, reranking
from tests.model_spy import before_forward

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
TRACE, SPAN = 0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331
SECRET = "zebra7531"  # noqa: S105


class Spans:
    """What a provider was told; `last` is the newest span of ours."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def last(self) -> ReadableSpan:
        return [one for one in self.exporter.get_finished_spans() if one.name.startswith(("re", "inner"))][-1]

    @property
    def told(self) -> Mapping[str, Any]:
        return self.last.attributes or {}


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """A provider for this test alone."""
    made = Spans()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: made.provider)
    monkeypatch.delenv(tracing.TRACE_TEXTS, raising=False)
    return made


def test_a_span_has_the_reranker_s_attributes(spans: Spans) -> None:
    """Scores are numbers, whatever a model gives; ids are the caller's; nothing is there that is not known."""
    with reranking() as span:
        span.asked("pocket", "what", ["one", "two"], top_k=1, ids=["a", "b"], scores=[0.25, None])
        span.answered([(1, np.float32(0.5))])  # type: ignore[list-item]
        span.note({"secondpass.tokens": 7, "secondpass.windows": None})
    assert spans.last.name == "rerank"
    assert spans.told == {
        "openinference.span.kind": "RERANKER",
        "reranker.model_name": "pocket",
        "reranker.top_k": 1,
        "reranker.input_documents.0.document.id": "a",
        "reranker.input_documents.0.document.score": 0.25,
        "reranker.input_documents.1.document.id": "b",
        "reranker.output_documents.0.document.id": "b",
        "reranker.output_documents.0.document.score": 0.5,
        "secondpass.documents": 2,
        "secondpass.tokens": 7,
    }
    assert type(spans.told["reranker.output_documents.0.document.score"]) is float


def test_names_are_openinferences(spans: Spans) -> None:
    """Every name that is not ours stands in its package."""
    names = pytest.importorskip("openinference.semconv.trace", reason="the package of OpenInference's names is missing")
    reranker, document = names.RerankerAttributes, names.DocumentAttributes
    with reranking() as span:
        span.asked("pocket", "what", ["one"], top_k=1, scores=[0.25], texts=True)
        span.answered([(0, 0.5)])
    own = {name for name in spans.told if not name.startswith("secondpass.")}
    inner = [document.DOCUMENT_ID, document.DOCUMENT_SCORE, document.DOCUMENT_CONTENT]
    lists = [reranker.RERANKER_INPUT_DOCUMENTS, reranker.RERANKER_OUTPUT_DOCUMENTS]
    single = {reranker.RERANKER_QUERY, reranker.RERANKER_MODEL_NAME, reranker.RERANKER_TOP_K}
    single.add(names.SpanAttributes.OPENINFERENCE_SPAN_KIND)
    assert own == single | {f"{one}.0.{name}" for one in lists for name in inner}
    assert spans.told["openinference.span.kind"] == names.OpenInferenceSpanKindValues.RERANKER.value


@pytest.mark.parametrize("by", ["caller", "environment"])
def test_texts_are_told_when_asked_for(by: str, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an exporter can send them: halves of surrogate pairs are none."""
    if by == "environment":
        monkeypatch.setenv(tracing.TRACE_TEXTS, "true")
    with reranking() as span:
        span.asked("pocket", "caf\ud83d", ["tree \ud83d\ude00"], ids=["a\udcff"], texts=by == "caller")
        span.answered([(0, None)])
    assert spans.told["reranker.query"] == "caf\ufffd"
    assert spans.told["reranker.output_documents.0.document.id"] == "a\ufffd"
    assert spans.told["reranker.input_documents.0.document.content"] == "tree \U0001f600"
    assert spans.told["reranker.output_documents.0.document.content"] == "tree \U0001f600"
    assert "reranker.output_documents.0.document.score" not in spans.told


@pytest.mark.parametrize(("limit", "texts"), [(None, False), (None, True), (64, True), (1000, False)])
def test_of_many_documents_those_are_told_that_fit(
    limit: int | None, texts: bool, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK throws the earliest attributes of a full span away, which would be the model and the query."""
    if limit is not None:
        monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", str(limit))
        spans.provider = TracerProvider()
        spans.provider.add_span_processor(SimpleSpanProcessor(spans.exporter))
    with reranking() as span:
        span.asked("pocket", "what", ["text"] * 300, scores=[0.1] * 300, texts=texts)
        span.answered([(place, 0.5) for place in reversed(range(300))])
    assert spans.last.dropped_attributes == 0
    assert (limit or 128) - 16 <= len(spans.told) <= (limit or 128)
    assert {"openinference.span.kind", "reranker.model_name", "secondpass.documents"} <= set(spans.told)
    assert ("reranker.query" in spans.told) is texts
    for which in ("input", "output"):
        places = sorted(int(name.split(".")[2]) for name in spans.told if name.startswith(f"reranker.{which}_"))
        assert len(places) > 9
        assert set(places) == set(range(places[-1] + 1))
    assert spans.told["reranker.output_documents.0.document.id"] == "299"


def test_few_documents_are_told_whole(spans: Spans) -> None:
    """Where those that come out are few, more of those that came in are there."""
    with reranking() as span:
        span.asked("pocket", "what", ["text"] * 100)
        span.answered([(place, 0.5) for place in range(5)])
    assert sum("input_documents" in name for name in spans.told) == 100


def test_an_error_is_told_by_its_kind(spans: Spans) -> None:
    """Its message may hold a text."""

    def fail() -> None:
        with reranking() as span:
            span.asked("pocket", SECRET, [SECRET])
            raise InvalidInput(f"no {SECRET}")

    with pytest.raises(InvalidInput):
        fail()
    assert spans.told["error.type"] == "InvalidInput"
    assert (spans.last.status.is_ok, spans.last.events) == (False, ())
    assert SECRET not in spans.last.to_json()


def test_the_context_comes_in_and_goes_on(spans: Spans) -> None:
    """W3C's header is the parent, unless a span is open here; what `carrier` gives is one for another process."""
    assert carrier() == {}
    with reranking(headers=PARENT, serves=True) as span:
        outer = carrier()
        assert span.trace_id == f"{TRACE:032x}"
        with reranking("inner", headers={"traceparent": PARENT["traceparent"].replace("0af", "0bf")}):
            pass
    inner, last = spans.exporter.get_finished_spans()
    assert last.parent is not None
    assert inner.parent is not None
    assert last.context is not None
    assert (last.parent.trace_id, last.parent.span_id, last.kind) == (TRACE, SPAN, trace.SpanKind.SERVER)
    assert inner.parent.span_id == last.context.span_id
    with reranking(headers=outer):
        pass
    assert spans.last.parent is not None
    assert spans.last.parent.span_id == last.context.span_id


@pytest.mark.parametrize("state", ["not imported", "no provider", "not sampled"])
def test_nothing_happens_where_nobody_listens(state: str, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported and nothing kept; what a sampler leaves out costs no attributes."""
    if state == "not imported":
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    elif state == "no provider":
        monkeypatch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
    headers = {"traceparent": PARENT["traceparent"][:-1] + "0"} if state == "not sampled" else None
    with reranking(headers=headers) as span:
        span.asked("pocket", "what", ["one"])
        span.answered([(0, 0.5)])
        assert (span, span.trace_id) == (NOT_TOLD, None)
        assert ("traceparent" in carrier()) is (state == "not sampled")
    assert spans.exporter.get_finished_spans() == ()
    assert vars(NOT_TOLD) == vars(RerankSpan())


# ---- The service.


async def posted(
    spans: Spans,
    encoder: CrossEncoder,
    body: Any,
    path: str = "/v2/rerank",
    headers: Mapping[str, str] | None = None,
    **settings: Any,
) -> Any:
    """The answer and its span."""
    made = create_app(Settings(**settings), {"one": encoder})
    transport = httpx.ASGITransport(made)
    async with (
        made.router.lifespan_context(made),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False) as client,
    ):
        await client.get("/health")
        answer = await client.post(path, json=body, headers={**PARENT, "X-Request-ID": "mine", **(headers or {})})
        await client.get("/metrics")
    span, *around = spans.exporter.get_finished_spans()
    assert span.name == f"rerank {path}"
    # FastAPI makes a span of a request by itself, from one of its versions on
    kind = trace.SpanKind.INTERNAL if around else trace.SpanKind.SERVER
    outermost = [*around, span][0]
    assert outermost.parent is not None
    assert span.context is not None
    assert (span.context.trace_id, outermost.parent.span_id, len(around) < 2) == (TRACE, SPAN, True)
    assert (span.kind, outermost.kind) == (kind, trace.SpanKind.SERVER)
    return answer


@pytest.mark.parametrize("texts", [False, True])
async def test_a_request_is_a_span(
    texts: bool, spans: Spans, tiny: CrossEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """Below its caller's, by the names of HTTP, the reranker and the log, whose line has the trace; probes are none."""
    body = {"query": f"where {SECRET}", "documents": [f"a {SECRET}", "the cat", "a dog"], "top_n": 2}
    with caplog.at_level(logging.INFO, "secondpass.serving"):
        answer = await posted(spans, tiny, body, trace_texts=texts)
    told, results = spans.told, answer.json()["results"]
    assert (SECRET in spans.last.to_json()) is texts
    assert told["reranker.model_name"] == "one"
    assert told["reranker.top_k"] == 2
    for place, result in enumerate(results):
        document = f"reranker.output_documents.{place}.document"
        assert told[f"{document}.id"] == str(result["index"])
        assert told[f"{document}.score"] == pytest.approx(result["relevance_score"], abs=1e-6)
    assert "reranker.output_documents.2.document.id" not in told
    assert "reranker.input_documents.2.document.id" in told
    assert (told["http.request.method"], told["http.route"]) == ("POST", "/v2/rerank")
    assert (told["http.response.status_code"], told["secondpass.request_id"]) == (200, "mine")
    assert (told["secondpass.pairs"], told["secondpass.tokens"]) == (3, answer.json()["usage"]["total_tokens"])
    lines = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request"]
    assert [line.get("trace_id") for line in lines] == [None, f"{TRACE:032x}", None]


@pytest.mark.parametrize(
    ("body", "status", "reason", "is_error"),
    [
        ({"query": "a", "documents": ["b", 1]}, 422, "invalid", False),
        ({"query": "a", "documents": ["b"], "model": SECRET}, 404, "unknown_model", False),
        ({"query": "a", "documents": ["b"]}, 500, "model", True),
    ],
)
async def test_a_refused_request_is_a_span_too(
    body: dict[str, Any], status: int, reason: str, is_error: bool, spans: Spans, own_tiny: CrossEncoder
) -> None:
    """With the reason; only what the service is to blame for is an error."""
    if is_error:
        own_tiny.model.classifier.weight.data.fill_(float("nan"))
    answer = await posted(spans, own_tiny, body)
    assert (answer.status_code, spans.told["http.response.status_code"]) == (status, status)
    assert spans.told["error.type"] == reason
    assert spans.last.status.status_code is (trace.StatusCode.ERROR if is_error else trace.StatusCode.UNSET)
    assert SECRET not in spans.last.to_json()


async def test_documents_that_were_not_scored_have_no_score(
    spans: Spans, own_tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A budget was spent; the score that orders them behind the others is nobody's."""
    monkeypatch.setattr("secondpass.merging.scoring_thread.batch_tokens", lambda device: 130)
    body = {"query": "cat", "documents": [f"the {number} " + "cat " * 100 for number in range(12)]}
    with before_forward(own_tiny, lambda inputs: time.sleep(0.1)):
        answer = await posted(spans, own_tiny, body, headers={"Secondpass-Budget-Ms": "500"})
    results = answer.json()["results"]
    assert answer.json()["meta"]["scored"] < len(results) == 12
    for place, result in enumerate(results):
        document = f"reranker.output_documents.{place}.document"
        assert spans.told[f"{document}.id"] == str(result["index"])
        assert (f"{document}.score" in spans.told) is result.get("scored", True)


async def test_scores_of_pairs_are_no_query_s(spans: Spans, tiny: CrossEncoder) -> None:
    """/score has pairs, which may have other queries each."""
    body = {"pairs": [["cat", "a cat"], ["dog", "a dog"]]}
    await posted(spans, tiny, body, "/score", trace_texts=True)
    assert "reranker.query" not in spans.told
    assert spans.told["reranker.input_documents.1.document.content"] == "a dog"


# ---- The Haystack ranker.


def test_a_ranker_s_run_is_a_span(spans: Spans, tiny_folder: str) -> None:
    """Below what is open, with the documents' ids and the scores that they came with."""
    pytest.importorskip("haystack")
    from haystack import Document
    from haystack_integrations.components.rankers.secondpass import SecondPassRanker

    documents = [Document(id="a", content="the cat", score=0.75), Document(id="b", content="a dog"), Document(id="c")]
    with spans.provider.get_tracer("test").start_as_current_span("pipeline") as outer:
        found = SecondPassRanker(model=tiny_folder, top_k=1).run(query="cat", documents=documents)["documents"]
    span = spans.exporter.get_finished_spans()[0]
    told = json.loads(span.to_json())["attributes"]
    assert span.parent == outer.get_span_context()
    assert (told["reranker.model_name"], told["reranker.top_k"], told["secondpass.documents"]) == (tiny_folder, 1, 2)
    assert told["reranker.input_documents.0.document.score"] == 0.75
    assert told["reranker.output_documents.0.document.id"] == found[0].id
    assert told["reranker.output_documents.0.document.score"] == pytest.approx(found[0].score)
    assert "reranker.output_documents.1.document.id" not in told
    strict = SecondPassRanker(model=tiny_folder, score_threshold=1.1)
    assert strict.run(query="cat", documents=documents)["documents"] == []
    assert not [name for name in spans.told if name.startswith("reranker.output_documents")]


# ---- Files of any size.


def test_a_part_and_a_batch_are_spans(spans: Spans, tiny_folder: str, tmp_path: Path) -> None:
    """Below what is open here or was open where the work was handed out; with counts, and no texts."""
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from secondpass.candidates import CandidateFiles
    from secondpass.rescoring import Rescorer, begun, local
    from tests.cli.test_rescore import ROWS, parquet

    files = CandidateFiles.of(parquet(tmp_path / "in.parquet"))
    tracer = spans.provider.get_tracer("test")
    with begun(tmp_path / "run", files, {"model": tiny_folder}, pairs=1) as work:
        with tracer.start_as_current_span("outer") as outer:
            done = list(local(work))
    parts = [one for one in spans.exporter.get_finished_spans() if one.name == "rescore part"]
    assert [one.parent for one in parts] == [outer.get_span_context()] * 3
    for span, part in zip(parts, done, strict=True):
        assert span.attributes == {
            "openinference.span.kind": "RERANKER",
            "reranker.model_name": tiny_folder,
            "secondpass.part": part.part,
            "secondpass.queries": 1,
            "secondpass.pairs": 6,
            "secondpass.tokens": part.tokens,
            "secondpass.cut": part.cut,
            "secondpass.cache_hits": 0,
        }
    Rescorer(tiny_folder, device="cpu", headers=PARENT)(arrow.Table.from_pylist(ROWS))
    assert spans.last.name == "rescore batch"
    assert spans.last.parent is not None
    assert (spans.last.parent.trace_id, spans.last.parent.span_id) == (TRACE, SPAN)
    assert spans.told["secondpass.documents"] == len(ROWS)
    assert ROWS[0]["document"] not in "".join(one.to_json() for one in spans.exporter.get_finished_spans())


# ---- The neighbours.


def test_a_compressor_s_call_is_a_span(spans: Spans, tiny: CrossEncoder) -> None:
    """LangChain's, and as they share the code LlamaIndex's: what comes out, not what was ranked."""
    documents = pytest.importorskip("langchain_core.documents", reason="langchain-core is not installed")
    from secondpass.langchain import SecondPassReranker

    given = [documents.Document("the cat", id="a"), documents.Document("a dog"), documents.Document("tree", id="c")]
    found = SecondPassReranker(model=tiny, top_n=2).compress_documents(given, "cat")
    assert [spans.told[f"reranker.input_documents.{place}.document.id"] for place in range(3)] == ["a", "1", "c"]
    for place, document in enumerate(found):
        told = spans.told[f"reranker.output_documents.{place}.document.score"]
        assert told == document.metadata["relevance_score"]
    assert "reranker.output_documents.2.document.id" not in spans.told


async def test_a_tool_s_call_is_a_span_of_its_client(spans: Spans, tiny: CrossEncoder) -> None:
    """MCP's clients say in `_meta` which trace it belongs to."""
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp.shared.memory import create_connected_server_and_client_session

    from secondpass.cli.mcp import Tools, server_of

    async with create_connected_server_and_client_session(server_of(Tools(tiny, name="tiny"))) as client:
        await client.call_tool("rank", {"query": "cat", "documents": ["a cat"]}, meta=dict(PARENT))
    (span,) = [one for one in spans.exporter.get_finished_spans() if one.name == "mcp rank"]
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id, span.kind) == (TRACE, SPAN, trace.SpanKind.SERVER)
    assert (span.attributes or {})["reranker.model_name"] == "tiny"
