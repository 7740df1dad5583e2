"""Stores of Elasticsearch and OpenSearch in a pipeline: where the environment points them, and failures as a line."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from haystack import Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from secondpass.errors import InvalidInput
from secondpass_pipelines.stores import (
    ELASTICSEARCH,
    OPENSEARCH,
    close,
    engine_of,
    failure_line,
    point_stores,
    shown,
    store_name,
)


def components(kind: str, **settings: Any) -> dict[str, Any]:
    """Two retrievers of one store, as a YAML anchor gives them, and one deeper down."""
    store = {"type": kind, "init_parameters": {"hosts": "http://old:9200", "index": "old", **settings}}
    return {
        "words": {"type": "x", "init_parameters": {"document_store": store}},
        "vectors": {"type": "y", "init_parameters": {"document_store": store, "nested": [{"inner": dict(store)}]}},
    }


def settings_of(parts: dict[str, Any]) -> list[dict[str, Any]]:
    """The store's settings wherever it stands."""
    vectors = parts["vectors"]["init_parameters"]
    stores = [parts["words"]["init_parameters"]["document_store"], vectors["document_store"]]
    return [store["init_parameters"] for store in [*stores, vectors["nested"][0]["inner"]]]


@pytest.mark.parametrize(
    ("kind", "variable", "login"),
    [
        (ELASTICSEARCH, "ELASTICSEARCH_URL", {"basic_auth": ("someone", "s3cret")}),
        (OPENSEARCH, "OPENSEARCH_URL", {"http_auth": ["someone", "s3cret"]}),
    ],
)
def test_hosts_and_index_are_replaced_everywhere(kind: str, variable: str, login: dict[str, Any]) -> None:
    """Credentials leave the URL; what else is stated stays."""
    parts = components(kind, timeout=7)
    point_stores(parts, None, {variable: "http://someone:s3cret@new:9201", "SECONDPASS_INDEX": "new"})
    expected = {"hosts": "http://new:9201", "index": "new", "timeout": 7, **login}
    assert settings_of(parts) == [expected] * 3


def test_the_option_comes_before_the_variable() -> None:
    """And without any of them nothing changes."""
    parts = components(OPENSEARCH)
    point_stores(parts, "option", {"SECONDPASS_INDEX": "variable", "ELASTICSEARCH_URL": "http://other:1"})
    assert settings_of(parts) == [{"hosts": "http://old:9200", "index": "option"}] * 3
    same = components(ELASTICSEARCH)
    point_stores(same, None, {})
    assert same == components(ELASTICSEARCH)


def test_an_api_key_is_left_to_the_file_s_secret() -> None:
    """A user's name beside it is not used."""
    parts = components(ELASTICSEARCH)
    known = {"ELASTICSEARCH_URL": "http://new:9200", "ELASTIC_API_KEY": "k", "ELASTIC_USERNAME": "u"}
    point_stores(parts, None, known | {"ELASTIC_PASSWORD": "p"})
    assert settings_of(parts)[0] == {"hosts": "http://new:9200", "index": "old"}


def test_an_index_without_a_server_is_refused_and_the_variable_is_not() -> None:
    """The variable may be set for other pipelines."""
    parts = {"r": {"type": "x", "init_parameters": {"document_store": {"type": "InMemory"}}}, "odd": None}
    point_stores(parts, None, {"SECONDPASS_INDEX": "docs"})
    with pytest.raises(InvalidInput, match="--index docs: the pipeline has no store of"):
        point_stores(parts, "docs", {})


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ("http://user:pw@host:9200/", "http://host:9200"),
        ("user:pw@host:9200", "host:9200"),
        ([{"host": "a", "port": 1, "http_auth": "user:pw"}, "https://b/p/"], "a:1,https://b/p"),
        (None, "localhost:9200"),
        ("http://[broken", "(a host that cannot be read)"),
    ],
)
def test_hosts_are_shown_without_credentials(hosts: Any, text: str) -> None:
    """In every form that the clients take."""
    assert shown(hosts) == text


def test_other_stores_have_no_engine() -> None:
    """Nor has anything else."""
    assert [engine_of(value) for value in ({}, None, [], {"type": "x"})] == [None] * 4
    assert engine_of({"type": OPENSEARCH}) == "OpenSearch"


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
