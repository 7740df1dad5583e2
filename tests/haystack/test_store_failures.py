"""What components raise, as a line: the clients' real errors, met through real pipelines."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("haystack")

from haystack import Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from secondpass.errors import InvalidInput
from secondpass_pipelines.stores import close, failure_line, store_name


def pipeline_of(name: str, url: str) -> Pipeline:
    """A retriever of Elasticsearch or OpenSearch that does not try twice."""
    pipeline = Pipeline()
    if name == "elasticsearch":
        from haystack_integrations.components.retrievers.elasticsearch import ElasticsearchBM25Retriever
        from haystack_integrations.document_stores.elasticsearch import ElasticsearchDocumentStore

        store = ElasticsearchDocumentStore(hosts=url, index="docs", max_retries=0, request_timeout=0.5)
        pipeline.add_component("words", ElasticsearchBM25Retriever(document_store=store))
        return pipeline
    from haystack_integrations.components.retrievers.opensearch import OpenSearchBM25Retriever
    from haystack_integrations.document_stores.opensearch import OpenSearchDocumentStore

    hidden = OpenSearchDocumentStore(hosts=url, index="docs", max_retries=0, timeout=0.5)
    pipeline.add_component("words", OpenSearchBM25Retriever(document_store=hidden))
    return pipeline


def line_of(pipeline: Pipeline) -> str:
    """The line for what a query raises."""
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the clients' many kinds are the point
            pipeline.run({"words": {"query": "cat"}})
        return failure_line(caught.value, pipeline)
    finally:
        close(pipeline)


@pytest.fixture
def answering() -> Iterator[Any]:
    """A server that gives every request the same status, or never answers."""
    servers = []

    def start(status: int | None) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                if status is None:
                    stop.wait(5)
                    return
                body = b'{"error": {"type": "odd", "reason": "so it is"}, "status": 1}'
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("X-Elastic-Product", "Elasticsearch")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        for method in ("GET", "HEAD", "PUT", "POST"):
            setattr(Handler, f"do_{method}", Handler.answer)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://user:s3cret@127.0.0.1:{server.server_port}"

    stop = threading.Event()
    yield start
    stop.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["elasticsearch", "opensearch"])
@pytest.mark.parametrize(("status", "why"), [(401, "401"), (403, "403"), (429, "429"), (503, "503"), (None, "answer")])
def test_answers_of_a_server_are_told_with_its_name(name: str, status: int | None, why: str, answering: Any) -> None:
    """Engine, host, index and reason on one line, without credentials."""
    url = answering(status)
    line = line_of(pipeline_of(name, url))
    assert f"http://{url.split('@')[1]}/docs" in line
    assert why in line
    assert "s3cret" not in line
    assert "\n" not in line


@pytest.mark.parametrize("name", ["elasticsearch", "opensearch"])
def test_nobody_listening_is_told(name: str) -> None:
    """In words, not as the client's object."""
    line = line_of(pipeline_of(name, "http://127.0.0.1:9"))
    assert "http://127.0.0.1:9/docs" in line
    assert "Connection refused" in line
    assert "0x" not in line


def test_other_errors_speak_for_themselves() -> None:
    """Ours first, else the innermost cause."""
    pipeline = Pipeline()
    store = InMemoryDocumentStore()
    pipeline.add_component("words", InMemoryBM25Retriever(store))
    assert store_name(store) == "InMemoryDocumentStore"
    outer = RuntimeError("outside")
    outer.__cause__ = ValueError("the\n inside")
    assert failure_line(outer, pipeline) == "the inside"
    outer.__cause__ = InvalidInput("ours")
    outer.__cause__.__cause__ = ValueError("the inside")
    assert failure_line(outer, pipeline) == "ours"
