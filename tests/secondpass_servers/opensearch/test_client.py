"""Servers out of the environment, and what the client's errors become."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from secondpass.errors import DeadlineExceeded, InvalidInput, Overloaded, SecondPassError
from secondpass_servers.opensearch.client import Server, missing_plugin, speaking_to
from tests.secondpass_servers.opensearch.conftest import NOBODY


def test_an_empty_environment_means_localhost() -> None:
    """As OpenSearch listens when nobody says anything; times and tries are finite."""
    server = Server.from_environment({})
    assert (server.address, server.username) == ("http://localhost:9200", "")
    settings = server.settings()
    assert settings["timeout"] == 30.0
    assert settings["max_retries"] == 2
    assert "http_auth" not in settings


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:9300", "http://127.0.0.1:9300"),
        ("https://search.example", "https://search.example:443"),
        ("http://search.example/prefix/", "http://search.example:9200/prefix"),
        ("http://[::1]:9200", "http://[::1]:9200"),
        ("http://joe:s%40crt@h:1", "http://h:1"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    """With the port that is meant, and without what is secret."""
    assert Server.from_environment({"OPENSEARCH_URL": url}).address == address


def test_credentials_of_the_url_give_way_to_the_variables() -> None:
    """Both are usable; what is in its own variable was meant more."""
    url = {"OPENSEARCH_URL": "http://joe:s%40crt@h:1"}
    assert Server.from_environment(url).settings()["http_auth"] == ("joe", "s@crt")
    both = url | {"OPENSEARCH_USERNAME": "ann", "OPENSEARCH_PASSWORD": "other"}
    assert Server.from_environment(both).settings()["http_auth"] == ("ann", "other")


@pytest.mark.parametrize("login", ["joe:secret", "jürgen:pä€wörd", "ユーザー:語😀"])
def test_a_login_is_sent_as_utf_8(login: str) -> None:
    """As the server reads it; the client alone takes Latin-1, which has no euro sign."""
    heard: list[str] = []
    username, password = login.split(":")
    with answering(200, b'{"count": 1}', heard=heard) as server:
        with replace(server, username=username, password=password).client() as client:
            client.count(index="docs")
    assert [base64.b64decode(each.removeprefix("Basic ")).decode() for each in heard] == [login]


def test_no_repr_shows_a_secret() -> None:
    """Objects end up in logs."""
    server = Server.from_environment({"OPENSEARCH_URL": "http://joe:secret@h:1"})
    assert "secret" not in repr(server)
    assert "joe" not in repr(server)


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENSEARCH_URL": "localhost:9200"},
        {"OPENSEARCH_URL": "ftp://joe:secret@h"},
        {"OPENSEARCH_URL": "http://"},
        {"OPENSEARCH_URL": "http://joe:secret@h:port"},
        {"OPENSEARCH_URL": "http://joe:secret@h:0"},
        {"OPENSEARCH_URL": "http://joe:secret@h:99999"},
        {"OPENSEARCH_URL": "http://joe:secret@[h"},
        {"OPENSEARCH_URL": "http://h/?q=secret"},
        {"OPENSEARCH_USERNAME": "joe"},
        {"OPENSEARCH_PASSWORD": "secret"},
        {"OPENSEARCH_USERNAME": "j:oe", "OPENSEARCH_PASSWORD": "secret"},
        {"OPENSEARCH_CA_FILE": "/no/such/file"},
    ],
)
def test_what_is_refused(environment: dict[str, str]) -> None:
    """The message names the variable and shows no secret."""
    with pytest.raises(InvalidInput, match="OPENSEARCH_") as caught:
        Server.from_environment(environment)
    assert "secret" not in str(caught.value)


def test_the_authority_is_used_with_tls_only(tmp_path: Path) -> None:
    """opensearchpy refuses it without."""
    file = tmp_path / "ca.pem"
    file.write_text("x")
    named = {"OPENSEARCH_CA_FILE": str(file)}
    assert "ca_certs" not in Server.from_environment(named).settings()
    secure = Server.from_environment(named | {"OPENSEARCH_URL": "https://h:9200"})
    assert secure.settings()["ca_certs"] == str(file)


JOE = {"OPENSEARCH_USERNAME": "joe", "OPENSEARCH_PASSWORD": "secret"}


def asked(server: Server) -> str:
    """What a search on a server that fails says."""
    with pytest.raises(SecondPassError) as caught, speaking_to(server), server.client() as client:
        client.search(index="docs", body={})
    line = str(caught.value)
    assert server.address in line
    assert "\n" not in line
    assert "secret" not in line
    assert "joe" not in line
    return f"{type(caught.value).__name__}: {line}"


@contextmanager
def answering(
    status: int, body: bytes, kind: str = "application/json", heard: list[str] | None = None
) -> Iterator[Server]:
    """A server that answers every request so; `heard` gets the login of each."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if heard is not None:
                heard.append(self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield Server.from_environment({"OPENSEARCH_URL": f"http://127.0.0.1:{http.server_port}", **JOE}, retries=0)
        finally:
            http.shutdown()
            thread.join()


def test_nobody_there() -> None:
    """The host and why, without the objects that urllib3 prints."""
    line = asked(Server.from_environment({"OPENSEARCH_URL": NOBODY, **JOE}, retries=1))
    assert "cannot be reached" in line
    assert "Connection refused" in line
    assert "0x" not in line


def test_a_name_that_does_not_exist() -> None:
    """RFC 2606 keeps .invalid free."""
    assert "cannot be reached" in asked(
        Server.from_environment({"OPENSEARCH_URL": "http://no.invalid:9200"}, retries=0)
    )


def test_no_answer_in_time() -> None:
    """A server that takes the connection and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        line = asked(Server.from_environment({"OPENSEARCH_URL": url}, timeout=0.2, retries=0))
    assert line.startswith(DeadlineExceeded.__name__)
    assert "within 0.2 s" in line


def test_tls_where_there_is_none() -> None:
    """The other way round is as likely; the line names the variable that helps."""
    with answering(200, b"{}") as plain:
        url = plain.address.replace("http://", "https://")
        assert "OPENSEARCH_CA_FILE" in asked(Server.from_environment({"OPENSEARCH_URL": url}, retries=0))


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (401, b"Unauthorized", "OPENSEARCH_PASSWORD"),
        (403, b'{"error":{"reason":"no permissions for [x]"}}', "no permissions"),
        (404, b'{"error":{"reason":"no such index [docs]","type":"index_not_found_exception"}}', "no such index"),
        (429, b'{"error":{"reason":"rejected execution"}}', "Overloaded"),
        (500, b'{"error":{"reason":"a","caused_by":{"reason":"b","caused_by":{"reason":"c"}}}}', "a: b: c"),
        (502, b"<html>Bad Gateway</html>", "502"),
        (400, b'{"error":"no handler found for uri [/_plugins/_ml/models/_search]"}', "opensearch-ml"),
        (400, b'{"error":{"reason":"Invalid processor type rerank"}}', "opensearch-neural-search"),
        (200, b"not json", "not the JSON"),
    ],
)
def test_answers(status: int, body: bytes, said: str) -> None:
    """What the server says is in the line, and for a missing plugin its name."""
    with answering(status, body) as server:
        assert said in asked(server)


def test_a_busy_server_is_its_own_error() -> None:
    """So that a caller may wait."""
    with answering(429, b'{"error":{"reason":"x"}}') as server, pytest.raises(Overloaded), speaking_to(server):
        server.client().search(index="docs", body={})


def test_a_plugin_is_named_only_if_it_is_missing() -> None:
    """The same word in another refusal is about something else."""
    assert missing_plugin("no such model in ml_commons") is None
    assert missing_plugin("unknown setting [index.knn] please check") == "opensearch-knn (k-NN)"
