"""Which way to a server is taken, and what is said when there is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tests.servers.archives import KINDS, Kind
from tests.servers.containers import containered
from tests.servers.fixtures import MUST, running, together
from tests.servers.problems import NoServer
from tests.servers.sources import plain_server


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without an address, an engine, Maven and an installation."""
    for kind in KINDS:
        monkeypatch.delenv(f"{kind.upper()}_URL", raising=False)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("SECONDPASS_SERVERS", f"/nowhere/{tmp_path.name}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(MUST, raising=False)


@pytest.mark.usefixtures("nothing")
@pytest.mark.parametrize("kind", KINDS)
def test_every_way_gives_its_reason(kind: Kind) -> None:
    """One line: the variable that is not set, the engine that does not answer, what Maven's way lacks."""
    with pytest.raises(NoServer) as raised, plain_server(kind):
        pass
    told = str(raised.value)
    assert told.startswith(f"no {kind} server: {kind.upper()}_URL is not set; Docker: no engine answers; Maven: no ")
    assert "\n" not in told


def test_workers_keep_together_what_shares_a_server(request: pytest.FixtureRequest) -> None:
    """xdist reads groups from the end of a test's id: what has none goes to any worker, which starts its own server."""
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("`make test` runs it: no worker of --dist loadgroup")
    assert request.node.nodeid.endswith(f"@{together(request.node)}")


@pytest.mark.usefixtures("nothing")
def test_without_a_server_a_test_is_skipped_with_the_reason() -> None:
    """`make test` never fails for want of a server."""
    with pytest.raises(pytest.skip.Exception, match="no opensearch server: OPENSEARCH_URL is not set"):
        next(running(plain_server("opensearch")))


@pytest.mark.usefixtures("nothing")
def test_where_servers_are_asked_for_their_absence_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test-stacks`; 0 switches it off."""
    monkeypatch.setenv(MUST, "1")
    with pytest.raises(NoServer):
        next(running(plain_server("opensearch")))
    monkeypatch.setenv(MUST, "0")
    with pytest.raises(pytest.skip.Exception):
        next(running(plain_server("opensearch")))


class Answers(BaseHTTPRequestHandler):
    """Answers 503 below /down, 200 elsewhere."""

    def do_GET(self) -> None:
        self.send_response(503 if self.path.startswith("/down") else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    """Of somebody who answers."""
    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("nothing")
def test_an_address_given_comes_first(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Nothing is started; the slash at the end is dropped, paths are joined to it."""
    monkeypatch.setenv("ELASTICSEARCH_URL", f"{address}/")
    with plain_server("elasticsearch") as url:
        assert url == address


@pytest.mark.usefixtures("nothing")
def test_an_address_that_does_not_answer_is_no_reason_to_look_elsewhere(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Whoever names a server wants that one; the message does not repeat the address, which may hold a password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ELASTICSEARCH_URL", f"http://me:secret@127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(NoServer, match=r"^ELASTICSEARCH_URL is set, but no server answers there: ConnectError$"):
            plain_server("elasticsearch").__enter__()
    for wrong in ("nonsense", "http://[", "ftp://127.0.0.1"):
        monkeypatch.setenv("ELASTICSEARCH_URL", wrong)
        with pytest.raises(NoServer, match=r"^ELASTICSEARCH_URL is set, but no server answers there: "):
            plain_server("elasticsearch").__enter__()
    monkeypatch.setenv("ELASTICSEARCH_URL", f"{address}/down")
    with pytest.raises(NoServer, match=r"^ELASTICSEARCH_URL is set, but the answer there is HTTP 503$"):
        plain_server("elasticsearch").__enter__()


@pytest.mark.parametrize("kind", KINDS)
def test_the_official_image_runs_where_docker_is(kind: Kind) -> None:
    """On the host's loopback; the container goes with the test."""
    server = running(containered(kind))
    url = next(server)
    assert httpx.get(url, trust_env=False, timeout=60).json()["version"]["number"]
    with pytest.raises(StopIteration):
        next(server)
    with pytest.raises(httpx.TransportError):
        httpx.get(url, trust_env=False)
