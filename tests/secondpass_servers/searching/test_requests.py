"""Where a server is and how to log in, the service that it asks, and requests as they may be shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass_servers.requests import (
    KEY,
    ApiRequest,
    ServerUrl,
    authority_file,
    check_model,
    login_of,
    redacted,
    server_url,
    service_address,
    service_key,
)

SECRET = "s3cret-p@ss"  # noqa: S105


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("", "http://localhost:9200"),
        ("http://127.0.0.1:9201/", "http://127.0.0.1:9201"),
        ("https://es.example", "https://es.example:443"),
        (" http://es.example/prefix/\n", "http://es.example:9200/prefix"),
        ("http://[::1]:9200", "http://[::1]:9200"),
        ("http://u:p@es.example:1", "http://es.example:1"),
    ],
)
def test_addresses(given: str, shown: str) -> None:
    """The one that may be shown has its port and no credentials."""
    assert server_url({"X_URL": given}, "X_URL").address == shown


def test_credentials_of_the_url_are_kept_apart() -> None:
    """Escapes are undone, and no repr shows them."""
    found = server_url({"X_URL": "http://us%40er:p%3Aw@h:1"}, "X_URL")
    assert found == ServerUrl("http://h:1", ("us@er", "p:w"))
    assert "p:w" not in repr(found)


def test_a_given_url_takes_the_place_of_the_environment() -> None:
    """But it brings no credentials: others can read a command line."""
    known = {"X_URL": "http://other.example:1"}
    assert server_url(known, "X_URL", "http://h:2").address == "http://h:2"
    for url in (f"http://elastic:{SECRET}@h:2", f"http://{SECRET}@h:2"):
        with pytest.raises(InvalidInput, match="--url holds a user or a password") as refused:
            server_url(known, "X_URL", url)
        assert SECRET not in str(refused.value)
    with pytest.raises(InvalidInput, match=r"^--url is not a URL"):
        server_url(known, "X_URL", "")


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
        f"http://es.example:9200/#{SECRET}",
        "http://es.example:0",
    ],
)
def test_bad_urls_are_refused_without_repeating_them(url: str) -> None:
    """The message names the variable, and nothing of its value."""
    with pytest.raises(InvalidInput, match=r"^X_URL ") as refused:
        server_url({"X_URL": url}, "X_URL")
    assert SECRET not in str(refused.value)


def test_logins() -> None:
    """The two variables, or the URL's if neither is set."""
    url = ("ann", "other")
    assert login_of({}, "U", "P", None) is None
    assert login_of({}, "U", "P", url) == url
    assert login_of({"U": "joe", "P": SECRET}, "U", "P", url) == ("joe", SECRET)


@pytest.mark.parametrize(
    ("known", "in_url", "words"),
    [
        ({"U": "joe"}, ("ann", "b"), "U and P are of use only together"),
        ({"P": SECRET}, None, "U and P are of use only together"),
        ({"U": "j:oe", "P": SECRET}, None, "U has a colon"),
        ({}, ("joe", ""), "half a login: set U and P"),
        ({}, ("", SECRET), "half a login"),
    ],
)
def test_logins_that_are_refused(known: dict[str, str], in_url: tuple[str, str] | None, words: str) -> None:
    """By the names of the variables."""
    with pytest.raises(InvalidInput, match=words) as refused:
        login_of(known, "U", "P", in_url)
    assert SECRET not in str(refused.value)


def test_the_authority(tmp_path: Path) -> None:
    """A file, or none."""
    file = tmp_path / "ca.pem"
    assert authority_file({"CA": ""}, "CA") is None
    with pytest.raises(InvalidInput, match=r"^CA=.*ca\.pem: no such file"):
        authority_file({"CA": str(file)}, "CA")
    file.write_text("x")
    assert authority_file({"CA": str(file)}, "CA") == file


@pytest.mark.parametrize(("value", "key"), [(None, None), ("", None), ("  ", None), (" abc\n", "abc")])
def test_the_key(value: str | None, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank is none, and the line end of a file is no part of it."""
    monkeypatch.delenv(KEY, raising=False)
    if value is not None:
        monkeypatch.setenv(KEY, value)
    assert service_key() == key
    assert service_key({}) is None


@pytest.mark.parametrize("value", ["ké", "a\nb", "a\x7f", "${parameters.x}"])
def test_keys_that_cannot_be_sent(value: str) -> None:
    """Refused without showing them."""
    with pytest.raises(InvalidInput, match=f"{KEY} holds") as refused:
        service_key({KEY: value})
    assert value not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["rerank:8000", "ftp://h", "http://", "http://h:0", "http://h:x", "http://u:SECRET@h:1", "http://h/${x}", "http://h?x=SECRET"],
)  # fmt: skip
def test_addresses_that_are_refused(url: str) -> None:
    """Without repeating what may be a secret."""
    with pytest.raises(InvalidInput, match=r"^the service's address ") as refused:
        service_address(url)
    assert "SECRET" not in str(refused.value)


def test_what_is_taken() -> None:
    """An address with its path, and any model without a placeholder."""
    parts = service_address("https://rerank.example:8443/search")
    assert (parts.netloc, parts.path) == ("rerank.example:8443", "/search")
    check_model(None)
    check_model('m"1')
    with pytest.raises(InvalidInput, match="replace"):
        check_model("${api_key}")


def test_secrets_are_hidden_at_any_depth() -> None:
    """In the console form and in the repr; the body itself keeps them."""
    body = {
        "service_settings": {"api_key": "KEY", "secret_parameters": {"api_key": "KEY"}},
        "credential": {"key": "KEY"},
    }
    request = ApiRequest("PUT", "/x", body)
    assert "KEY" not in request.shown() + repr(request)
    assert request.shown().count('"api_key": "***"') == 2
    assert body["credential"] == {"key": "KEY"}
    assert redacted([{"credential": "KEY"}, {"credential": {"key": "KEY"}}]) == [
        {"credential": "***"},
        {"credential": {"key": "***"}},
    ]


def test_requests_as_consoles_take_them() -> None:
    """A line, its parameters, and the body as it is."""
    assert ApiRequest("GET", "/x").shown() == "GET /x"
    assert ApiRequest("POST", "/x", {"b": "é"}, {"a": "1"}).shown() == 'POST /x?a=1\n{\n  "b": "é"\n}'
