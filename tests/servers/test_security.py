"""Servers with TLS and users: nothing for who has no credentials, all for who has."""

from __future__ import annotations

import ssl
import uuid

import httpx
import pytest

from tests.servers.instance import client
from tests.servers.security import Access


@pytest.fixture(params=["elasticsearch", "opensearch"])
def secure(request: pytest.FixtureRequest) -> Access:
    """Either server."""
    access = request.getfixturevalue(f"secure_{request.param}")
    assert isinstance(access, Access)
    return access


def trusting(access: Access) -> ssl.SSLContext:
    """Believe in the authority of that server only."""
    return ssl.create_default_context(cafile=str(access.ca_file))


def test_only_who_has_credentials_is_let_in(secure: Access) -> None:
    """None, a wrong password, an unknown user: 401; the right ones: a whole round of an index."""
    context = trusting(secure)
    for auth in (None, (secure.user, "wrong"), ("nobody", secure.password)):
        assert httpx.get(secure.url, verify=context, auth=auth, trust_env=False, timeout=60).status_code == 401
    index = f"t-{uuid.uuid4().hex}"
    with client(secure) as asking:
        assert asking.get("/").status_code == 200
        assert asking.put(f"/{index}/_doc/1?refresh=true", json={"text": "a cat"}).status_code == 201
        hits = asking.post(f"/{index}/_search", json={"query": {"match": {"text": "cat"}}}).json()["hits"]["hits"]
        assert [hit["_id"] for hit in hits] == ["1"]
        assert asking.delete(f"/{index}").status_code == 200


def test_the_certificate_is_checked(secure: Access) -> None:
    """Who does not know the authority gets no connection; the name must be the server's; plain HTTP gets no answer."""
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(secure.url, trust_env=False, timeout=60)
    by_name = secure.url.replace("127.0.0.1", "localhost")
    assert httpx.get(by_name, verify=trusting(secure), trust_env=False, timeout=60).status_code == 401
    with pytest.raises(httpx.TransportError):
        httpx.get(secure.url.replace("https", "http"), trust_env=False, timeout=60)


def test_an_api_key_opens_elasticsearch(secure_elasticsearch: Access) -> None:
    """A key is as good as the password; a wrong one is none."""
    context, url = trusting(secure_elasticsearch), f"{secure_elasticsearch.url}/_security/_authenticate"

    def status(key: str) -> int:
        headers = {"Authorization": f"ApiKey {key}"}
        return httpx.get(url, headers=headers, verify=context, trust_env=False, timeout=60).status_code

    assert status(secure_elasticsearch.api_key) == 200
    assert status("bm90OmFrZXk=") == 401


def test_secrets_are_not_in_the_repr(secure: Access) -> None:
    """A failing test prints its arguments."""
    assert secure.password not in repr(secure)
    assert not secure.api_key or secure.api_key not in repr(secure)
