"""A server with users and TLS: everything works with the right ones, and every wrong one is told in a line."""

from __future__ import annotations

import secrets
from dataclasses import replace
from pathlib import Path

import pytest

from secondpass import CrossEncoder
from secondpass.errors import SecondPassError
from secondpass_servers.contract import IndexingError
from secondpass_servers.index import IndexLayout
from secondpass_servers.opensearch.client import OpenSearchSink, Server, create_index, opened
from secondpass_servers.opensearch.ml_commons import RerankService
from secondpass_servers.opensearch.search_pipeline import check, connect, disconnect
from secondpass_servers.two_pass import FirstPass, two_pass_search
from tests.secondpass_servers.opensearch.conftest import fill
from tests.secondpass_servers.opensearch.test_index import entry
from tests.servers.security import Access, new_password
from tests.serving.conftest import Live


@pytest.fixture
def secure(secure_opensearch: Access) -> Server:
    """The server as its user sees it."""
    environment = {
        "OPENSEARCH_URL": secure_opensearch.url,
        "OPENSEARCH_USERNAME": secure_opensearch.user,
        "OPENSEARCH_PASSWORD": secure_opensearch.password,
        "OPENSEARCH_CA_FILE": str(secure_opensearch.ca_file),
    }
    return Server.from_environment(environment, retries=0)


def test_the_whole_way(secure: Server, live: Live, tiny: CrossEncoder) -> None:
    """Create, fill, search in two passes, connect, check, disconnect."""
    name = f"test-{secrets.token_hex(6)}"
    create_index(secure, IndexLayout(name, replicas=0))
    try:
        sink = OpenSearchSink(secure, name)
        assert sink.write([entry("a")])[0].indexed
        sink.close()
        fill(secure, name, {"b": "The capital of France"})
        with opened(secure, name) as found:
            assert two_pass_search(found, FirstPass("capital"), lambda: tiny).hits[0].candidate.id == "b"
        service = RerankService(f"{live.url}/v1/rerank")
        check(secure, connect(secure, name, service, ["content"]), service)
    finally:
        disconnect(secure, name)
        with secure.client() as client:
            client.indices.delete(index=name)


def test_wrong_password(secure: Server) -> None:
    """401, with the names of the variables and without what is in them."""
    wrong = replace(secure, password="not-the-password")  # noqa: S106
    with pytest.raises(SecondPassError, match="OPENSEARCH_PASSWORD") as caught:
        create_index(wrong, IndexLayout("x"))
    assert "not-the-password" not in str(caught.value)
    with pytest.raises(IndexingError, match="401"):
        OpenSearchSink(wrong, "x").count()


def test_a_password_outside_of_ascii(secure: Server) -> None:
    """It is the one that the server was given."""
    name = f"test-{secrets.token_hex(6)}"
    user, password = f"/_plugins/_security/api/internalusers/{name}", f"{new_password()}ä€語"
    with secure.client() as client:
        client.transport.perform_request("PUT", user, body={"password": password, "backend_roles": ["admin"]})
        try:
            with replace(secure, username=name, password=password).client() as other:
                assert other.cluster.health()["status"] in {"green", "yellow"}
        finally:
            client.transport.perform_request("DELETE", user)


def test_no_credentials(secure: Server) -> None:
    """The same."""
    with pytest.raises(SecondPassError, match="401"):
        create_index(replace(secure, username="", password=""), IndexLayout("x"))


def test_an_authority_that_is_not_known(secure: Server) -> None:
    """The variable that names it is in the line."""
    with pytest.raises(SecondPassError, match="OPENSEARCH_CA_FILE"):
        create_index(replace(secure, ca_file=None), IndexLayout("x"))


def test_plain_http_to_a_server_with_tls(secure: Server) -> None:
    """A line, not a traceback."""
    with pytest.raises(SecondPassError, match="cannot be reached"):
        create_index(replace(secure, address=secure.address.replace("https", "http")), IndexLayout("x"))


def test_an_authority_file_that_is_none(secure: Server, tmp_path: Path) -> None:
    """A file with something else in it."""
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(SecondPassError):
        create_index(replace(secure, ca_file=file), IndexLayout("x"))
