"""What the client raises, as one line that names the server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError, Elasticsearch
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from secondpass.errors import DeadlineExceeded, InvalidInput, Overloaded, SecondPassError
from secondpass_elasticsearch.failures import reason, spoken
from tests.elasticsearch.live_app import serving

PASSWORD = "s3cret"  # noqa: S105


def api_error(status: int, body: Any, headers: dict[str, str] | None = None) -> ApiError:
    """As the client makes it."""
    node = NodeConfig("http", "h", 1)
    return ApiError("message", ApiResponseMeta(status, "1.1", HttpHeaders(headers or {}), 0.1, node), body)


@contextmanager
def answering(status: int, content: bytes, **headers: str) -> Iterator[str]:
    """A server that always says the same."""

    async def say(request: object) -> Response:
        return Response(content, status, {"X-Elastic-Product": "Elasticsearch", **headers}, "application/json")

    with serving(Starlette(routes=[Route("/{path:path}", say, methods=["GET", "POST", "PUT"])])) as url:
        yield url


def ask(url: str, timeout: float = 5.0) -> None:
    """One request with credentials in it."""
    with Elasticsearch(url, basic_auth=("elastic", PASSWORD), request_timeout=timeout, max_retries=0) as client:
        with spoken("THE SERVER"):
            client.count(index="articles")


def test_nobody_listens() -> None:
    """The system's own words, the server, and no password."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SecondPassError) as refused:
        ask(f"http://127.0.0.1:{port}")
    assert str(refused.value) == "Elasticsearch THE SERVER: cannot be reached (Connection refused)"


def test_no_such_host_shows_no_credentials() -> None:
    """A name that is none."""
    with pytest.raises(SecondPassError, match=r"^Elasticsearch THE SERVER: cannot be reached") as refused:
        ask("http://no-such-host.invalid:9200")
    assert PASSWORD not in str(refused.value)


def test_a_server_that_says_nothing() -> None:
    """The wait ends."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        with pytest.raises(DeadlineExceeded, match=r"^Elasticsearch THE SERVER: no answer in time$"):
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.3)


def test_plain_http_where_tls_is_wanted() -> None:
    """The message says what to look at."""
    with answering(200, b"{}") as url, pytest.raises(SecondPassError, match=r"TLS failed.*ELASTICSEARCH_CA_FILE"):
        ask(url.replace("http://", "https://"))


def test_a_server_that_hangs_up() -> None:
    """Half an answer is none."""
    with socket.socket() as rude:
        rude.bind(("127.0.0.1", 0))
        rude.listen(1)

        def hang_up() -> None:
            connection, _ = rude.accept()
            connection.recv(100)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(SecondPassError, match=r"^Elasticsearch THE SERVER: cannot be reached"):
            ask(f"http://127.0.0.1:{rude.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize(
    ("status", "content", "kind", "words"),
    [
        (401, b'{"error":{"type":"security_exception","reason":"x"}}', SecondPassError, "ELASTIC_API_KEY"),
        (403, b'{"error":{"type":"security_exception","reason":"no right"}}', SecondPassError, "403.: no right"),
        (429, b'{"error":{"type":"circuit","reason":"Data too large"}}', Overloaded, "429.: Data too large"),
        (
            400,
            b'{"error":{"type":"x","reason":"a","root_cause":[{"reason":"deep"}]}}',
            InvalidInput,
            "refuses this: a: deep",
        ),
        (404, b'{"error":{"type":"index_not_found_exception","reason":"none"}}', InvalidInput, "elasticsearch create"),
        (404, b"{}", SecondPassError, "status 404"),
        (500, b"", SecondPassError, "status 500"),
        (200, b"no json", SecondPassError, "not the JSON"),
    ],
)
def test_statuses(status: int, content: bytes, kind: type[Exception], words: str) -> None:
    """Each has its class, and what the server said."""
    with answering(status, content) as url, pytest.raises(kind, match=f"^Elasticsearch THE SERVER.*{words}"):
        ask(url)


def test_another_product() -> None:
    """An OpenSearch, or any web server, is told apart."""
    with answering(200, b"{}", **{"X-Elastic-Product": "other"}) as url:
        with pytest.raises(SecondPassError, match="not as an Elasticsearch 8 or 9"):
            ask(url)


def test_reasons_of_an_answer() -> None:
    """From the outside in; an answer without any has the client's own words."""
    body = {"error": {"reason": "all shards failed", "root_cause": [{"reason": "bad query"}]}}
    assert reason(api_error(400, body)) == "all shards failed: bad query"
    assert reason(api_error(400, {"error": "no handler"})) == "no handler"
    odd_bodies: tuple[Any, ...] = (None, [], "text", {"error": []}, {"error": None})
    for odd in odd_bodies:
        assert reason(api_error(500, odd)) == "message"
