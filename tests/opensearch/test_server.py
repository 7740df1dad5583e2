"""Address and credentials, out of the environment and never back out of the object."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass_opensearch.server import Server


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
