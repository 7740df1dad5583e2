"""What ML Commons is sent and keeps: secrets in one place, times in it, and a script that no text can break."""

from __future__ import annotations

import json
import re

import pytest

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_servers.opensearch import ml_commons
from secondpass_servers.opensearch.client import Server
from secondpass_servers.opensearch.ml_commons import NO_KEY, RerankService, connector_body, query_body, script
from secondpass_servers.opensearch.search_pipeline import granted, read_trust
from tests.secondpass_servers.opensearch.conftest import NOBODY


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


KEYED = RerankService("http://h/v1/rerank", "secret", "", 7)


def test_the_key_is_in_the_credential_only() -> None:
    """OpenSearch encrypts that part and nothing else."""
    body = connector_body("x", KEYED)
    assert body.pop("credential") == {"key": "secret"}
    assert "secret" not in json.dumps(body)
    assert body["actions"][0]["headers"]["Authorization"] == "Bearer ${credential.key}"


def test_without_a_key_there_is_no_header() -> None:
    """A connector cannot be without a credential, so it has an unused one."""
    body = connector_body("x", RerankService("http://h/v1/rerank"))
    assert "Authorization" not in body["actions"][0]["headers"]
    assert body["credential"] == {"key": NO_KEY}


def test_times_are_finite() -> None:
    """In seconds; OpenSearch's default is hours."""
    config = connector_body("x", KEYED)["client_config"]
    assert (config["read_timeout"], config["connection_timeout"], config["max_retry_times"]) == (7, 7, 0)


def test_a_models_name_cannot_leave_its_string() -> None:
    """Neither the script's nor the JSON's."""
    made = script("a'b\"c\\d")
    literal = made.split("new StringBuilder('")[1].split("');\n")[0]
    opening = literal.replace("\\'", "'").replace("\\\\", "\\")
    body = json.loads(f'{opening}q"}}}}}}')["parameters"]["body"]
    assert body == {"model": "a'b\"c\\d", "return_documents": False, "query": "q"}
    assert "model" not in script("")


def test_a_search_that_is_reranked() -> None:
    """The text twice: for BM25, and for the second pass."""
    body = query_body('a "b"', ["content"], 3)
    assert body["query"]["match"]["content"]["query"] == body["ext"]["rerank"]["query_context"]["query_text"] == 'a "b"'


SERVICE = RerankService(f"{NOBODY}/v1/rerank")


def test_made_found_undeployed_twice_and_removed(server: Server, connection: str) -> None:
    """Nothing is there, then one of each under the name, then nothing again."""
    with server.client() as client:
        settings = client.cluster.get_settings(flat_settings=True, include_defaults=True)
        client.cluster.put_settings(body=granted(read_trust(settings), connection, SERVICE.pattern, True))
        nothing = ml_commons.find(client, connection)
        assert nothing == ml_commons.Found((), (), ())
        model_id = ml_commons.connect_model(client, connection, SERVICE, nothing)
        found = ml_commons.find(client, connection)
        assert (found.models, len(found.connectors), len(found.groups)) == ((model_id,), 1, 1)
        ml_commons.undeploy(client, model_id)
        ml_commons.undeploy(client, model_id)
        ml_commons.remove(client, found)
        assert ml_commons.find(client, connection) == nothing


def test_an_address_that_is_not_trusted(server: Server, connection: str) -> None:
    """The server's refusal comes through."""
    from opensearchpy.exceptions import TransportError

    with server.client() as client, pytest.raises((TransportError, SecondPassError), match="trusted"):
        ml_commons.connect_model(client, connection, SERVICE, ml_commons.Found((), (), ()))
