"""Where the server is and how to log in: what the environment may say, and what no message ever repeats."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.connection import Connection, connection

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


def test_no_secret_in_the_repr() -> None:
    """A connection may be logged."""
    known = {"ELASTICSEARCH_URL": f"http://u:{SECRET}@h:1", "ELASTIC_USERNAME": "e", "ELASTIC_PASSWORD": SECRET}
    assert SECRET not in repr(connection(environment=known))
    assert SECRET not in repr(connection(environment={"ELASTIC_API_KEY": SECRET}))
