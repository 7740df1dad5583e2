"""Address, key and model of the service that an engine shall ask."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass_searching.rerank_service import KEY, check_model, service_address, service_key


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
