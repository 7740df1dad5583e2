"""The service's address and key, and the pattern that trusts this address alone."""

from __future__ import annotations

import re

import pytest

from secondpass.errors import InvalidInput
from secondpass_opensearch.service import RerankService


def service(url: str, **environment: str) -> RerankService:
    """A service out of an environment of the test's own."""
    return RerankService.from_environment(url, environment=environment)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/rerank"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1/rerank"),
        ("https://Rerank.example/search", "https://rerank.example/search/v1/rerank"),
        ("https://rerank.example/v2/rerank", "https://rerank.example/v2/rerank"),
        ("http://[::1]:8000", "http://[::1]:8000/v1/rerank"),
    ],
)
def test_endpoints(url: str, endpoint: str) -> None:
    """A route is added unless one is there; the pattern matches the endpoint and nothing longer or shorter."""
    made = service(url)
    assert made.endpoint == endpoint
    assert re.fullmatch(made.pattern, endpoint)
    assert not re.search(made.pattern, f"{endpoint}/x")
    assert not re.search(made.pattern, f"http://evil.example/?{endpoint}")
    assert not re.search(made.pattern, endpoint.replace(".", "x")) or "." not in endpoint


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://h", "http://", "http://h:0", "http://h:x", "http://joe:secret@h", "http://h/?key=secret",
     "http://h/${parameters.x}", "http://h/a b"],
)  # fmt: skip
def test_addresses_that_are_refused(url: str) -> None:
    """No secret comes back in the message."""
    with pytest.raises(InvalidInput) as caught:
        service(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a\nb", "é", "${parameters.x}"])
def test_keys_that_cannot_be_sent(key: str) -> None:
    """A header would carry something else."""
    with pytest.raises(InvalidInput) as caught:
        service("http://h", SECONDPASS_API_KEY=key)
    assert key not in str(caught.value)


def test_the_key_is_not_in_the_repr() -> None:
    """Objects end up in logs."""
    assert "secret" not in repr(service("http://h", SECONDPASS_API_KEY="secret"))


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://127.0.0.1:1", True),
        ("http://localhost:1", True),
        ("http://10.1.2.3", True),
        ("http://[::1]:1", True),
        ("http://169.254.169.254", True),
        ("http://only-the-cluster-knows-it.invalid", True),
        ("http://8.8.8.8", False),
    ],
)
def test_private_addresses(url: str, private: bool) -> None:
    """What OpenSearch refuses by default; an unknown name counts as private."""
    assert service(url).is_private is private


def test_the_timeout_is_whole_seconds() -> None:
    """OpenSearch takes no parts of them."""
    with pytest.raises(InvalidInput, match="timeout"):
        RerankService.from_environment("http://h", timeout=0, environment={})
