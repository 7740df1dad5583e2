"""Connections out of the environment, and what the client's errors become."""

from __future__ import annotations

import base64
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, NodeConfig
from elasticsearch import ApiError, Elasticsearch
from elasticsearch.exceptions import ElasticsearchWarning
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from secondpass.errors import DeadlineExceeded, InvalidInput, Overloaded, SecondPassError
from secondpass_servers.elasticsearch.client import Connection, connection, reason, session, spoken
from tests.secondpass_servers.elasticsearch.live_app import serving

SECRET = "s3cret-p@ss"  # noqa: S105


def test_without_anything_it_is_the_local_server() -> None:
    """Finite patience is the default."""
    assert connection(environment={}) == Connection("http://localhost:9200", timeout=30.0, retries=3)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://127.0.0.1:9201/", "http://127.0.0.1:9201"),
        ("https://es.example", "https://es.example:443"),
        ("http://es.example/prefix/", "http://es.example:9200/prefix"),
        ("http://[::1]:9200", "http://[::1]:9200"),
        ("http://u:p@es.example:1", "http://es.example:1"),
    ],
)
def test_urls(given: str, shown: str) -> None:
    """The URL that may be shown has its port and no credentials."""
    assert connection(environment={"ELASTICSEARCH_URL": given}).url == shown


def test_an_api_key_comes_before_a_password_and_both_before_the_url() -> None:
    """One login is used; escapes in a URL are undone."""
    url = {"ELASTICSEARCH_URL": "http://us%40er:p%3Aw@es.example:9200"}
    user = {"ELASTIC_USERNAME": "elastic", "ELASTIC_PASSWORD": SECRET}
    assert connection(environment=url).basic_auth == ("us@er", "p:w")
    assert connection(environment=url | user).basic_auth == ("elastic", SECRET)
    both = connection(environment=url | user | {"ELASTIC_API_KEY": "encoded"})
    assert (both.api_key, both.basic_auth) == ("encoded", None)
    parts = connection(environment={"ELASTIC_API_KEY": "secret", "ELASTIC_API_KEY_ID": "id"})
    assert parts.api_key == ("id", "secret")


def test_a_given_url_takes_the_place_of_the_environment() -> None:
    """But it brings no credentials: others can read a command line."""
    known = {"ELASTICSEARCH_URL": "http://other.example:1"}
    assert connection("http://es.example:2", environment=known).url == "http://es.example:2"
    with pytest.raises(InvalidInput, match="--url holds a user or a password") as refused:
        connection(f"http://elastic:{SECRET}@es.example:2", environment=known)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://u:{SECRET}@es.example",
        f"es.example:{SECRET}",
        "http://",
        f"http://u:{SECRET}@es.example:99999",
        f"http://u:{SECRET}@es.example:port",
        f"http://[u:{SECRET}",
        f"http://es.example:9200/?key={SECRET}",
        "http://es.example:0",
    ],
)
def test_bad_urls_are_refused_without_repeating_them(url: str) -> None:
    """The message names the variable, and nothing of its value."""
    with pytest.raises(InvalidInput, match=r"^ELASTICSEARCH_URL ") as refused:
        connection(environment={"ELASTICSEARCH_URL": url})
    assert SECRET not in str(refused.value)


def test_halves_of_a_login_and_a_missing_authority_are_refused(tmp_path: Path) -> None:
    """Each message names its variable."""
    with pytest.raises(InvalidInput, match="only together"):
        connection(environment={"ELASTIC_USERNAME": "elastic"})
    with pytest.raises(InvalidInput, match="ELASTIC_API_KEY_ID is set, but ELASTIC_API_KEY is not"):
        connection(environment={"ELASTIC_API_KEY_ID": "id"})
    with pytest.raises(InvalidInput, match=r"ELASTICSEARCH_CA_FILE=.*no such file"):
        connection(environment={"ELASTICSEARCH_CA_FILE": str(tmp_path / "ca.pem")})


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", " "])
def test_a_line_end_of_a_key_file_is_no_part_of_the_key(end: str, no_credentials: None) -> None:
    """The server hears the key; the client would refuse it with an error that repeats it."""
    heard: list[str] = []

    async def listen(request: Request) -> JSONResponse:
        heard.append(request.headers["authorization"])
        return JSONResponse({"count": 1}, headers={"X-Elastic-Product": "Elasticsearch"})

    with serving(Starlette(routes=[Route("/{path:path}", listen, methods=["GET", "POST"])])) as url:
        known = {"ELASTICSEARCH_URL": url, "ELASTIC_API_KEY": f"encoded{end}"}
        for more in ({}, {"ELASTIC_API_KEY_ID": f"id{end}"}):
            with connection(environment=known | more).client() as client:
                client.count(index="x")
    assert heard == ["ApiKey encoded", f"ApiKey {base64.b64encode(b'id:encoded').decode()}"]


@pytest.mark.parametrize("name", ["ELASTIC_API_KEY", "ELASTIC_API_KEY_ID"])
@pytest.mark.parametrize("value", [f"{SECRET}\r{SECRET}", f"{SECRET}\n{SECRET}", f"{SECRET}é", f"\0{SECRET}"])
def test_a_key_that_no_header_takes_is_refused_without_showing_it(name: str, value: str) -> None:
    """The message names the variable."""
    with pytest.raises(InvalidInput, match=rf"^{name} holds a character that no HTTP header takes$"):
        connection(environment={"ELASTIC_API_KEY": "encoded", name: value})


def test_no_secret_in_the_repr() -> None:
    """A connection may be logged."""
    known = {"ELASTICSEARCH_URL": f"http://u:{SECRET}@h:1", "ELASTIC_USERNAME": "e", "ELASTIC_PASSWORD": SECRET}
    assert SECRET not in repr(connection(environment=known))
    assert SECRET not in repr(connection(environment={"ELASTIC_API_KEY": SECRET}))


async def warn(request: object) -> JSONResponse:
    """A server without security, which says so in every answer."""
    notice = '299 Elasticsearch-8.19.0 "security features are not enabled"'
    return JSONResponse({"count": 1}, headers={"X-Elastic-Product": "Elasticsearch", "Warning": notice})


def test_its_warnings_stay_inside(no_credentials: None) -> None:
    """They would be an error here, and noise for a user; outside they come as before."""
    with serving(Starlette(routes=[Route("/{path:path}", warn, methods=["GET", "POST"])])) as url:
        with session(url, 5.0) as (client, server):
            assert client.count(index="x")["count"] == 1
        assert server == url
    with pytest.warns(ElasticsearchWarning):
        warnings.warn("outside", ElasticsearchWarning, stacklevel=1)


def test_it_ends_with_an_error_too(no_credentials: None) -> None:
    """What happens inside comes out."""
    with pytest.raises(ZeroDivisionError), session("http://127.0.0.1:9", 5.0):
        raise ZeroDivisionError


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
