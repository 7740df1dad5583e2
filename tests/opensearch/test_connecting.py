"""Connecting and taking it back, on a real server: again, half done, changed, and never what is somebody else's."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.serving.api_keys import ApiKeys
from secondpass.serving.settings import Settings
from secondpass_opensearch import bodies, resources, trust
from secondpass_opensearch.connecting import Connected, check, connect, disconnect
from secondpass_opensearch.server import Server
from secondpass_opensearch.service import RerankService
from tests.opensearch.conftest import NOBODY
from tests.opensearch.test_failures import answering
from tests.serving.conftest import KEY, Live, running


def at(live: Live) -> RerankService:
    """The service of the tests."""
    return RerankService(f"{live.url}/v1/rerank")


def trusted(server: Server) -> trust.Trust:
    """The cluster's settings."""
    with server.client() as client:
        return trust.read_trust(client.cluster.get_settings(flat_settings=True, include_defaults=True))


def there(server: Server, name: str) -> resources.Found:
    """What is there under a name."""
    with server.client() as client:
        return resources.find(client, name)


def test_everything_is_taken_back(server: Server, live: Live) -> None:
    """Connector, model, group, pipeline, settings: as if nothing had been."""
    name = f"test-{secrets.token_hex(6)}"
    before = trusted(server)
    connected = connect(server, name, at(live), ["content"])
    check(server, connected, at(live))
    assert at(live).pattern in trusted(server).trusted
    assert disconnect(server, name)
    assert there(server, name) == resources.Found((), (), ())
    assert trusted(server) == before
    assert not disconnect(server, name)


def test_the_same_again_keeps_everything(server: Server, live: Live, connection: str) -> None:
    """Ids too, so that nothing which names the model breaks."""
    first = connect(server, connection, at(live), ["content"])
    before = there(server, connection)
    assert connect(server, connection, at(live), ["content"]) == first
    assert there(server, connection) == before
    check(server, first, at(live))


def test_address_and_key_can_change(server: Server, live: Live, connection: str, own_tiny: CrossEncoder) -> None:
    """A new service with a key takes the place of the old one; the old address is no longer trusted."""
    first = connect(server, connection, at(live), ["content"])
    settings = Settings(keys=ApiKeys([KEY]))
    with running(settings, {"tiny": own_tiny}) as other:
        wrong = RerankService(f"{other.url}/v1/rerank", "not-the-key")
        connect(server, connection, wrong, ["content"])
        with pytest.raises(SecondPassError, match="gets no scores") as caught:
            check(server, first, wrong)
        assert "not-the-key" not in str(caught.value)
        right = RerankService(f"{other.url}/v1/rerank", KEY)
        assert connect(server, connection, right, ["content"]).model_id == first.model_id
        check(server, first, right)
    assert at(live).pattern not in trusted(server).trusted
    assert right.pattern in trusted(server).trusted


Break = Callable[[Any, resources.Found, str], object]
BROKEN: dict[str, Break] = {
    "the model is not deployed": lambda client, found, name: resources.undeploy(client, found.models[0]),
    "the pipeline is gone": lambda client, found, name: client.search_pipeline.delete(id=name),
    "the model is gone": lambda client, found, name: resources.remove(client, resources.Found((), found.models, ())),
    "the group alone is left": lambda client, found, name: resources.remove(
        client, resources.Found(found.connectors, found.models, ())
    ),
    "a second connector": lambda client, found, name: client.plugins.ml.create_connector(
        body=bodies.connector(name, RerankService(f"{NOBODY}/v1/rerank"))
    ),
    "the settings are as they were": lambda client, found, name: client.cluster.put_settings(
        body=trust.withdrawn(trust.read_trust(client.cluster.get_settings(flat_settings=True)), name)
    ),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("then", ["connect", "disconnect"])
def test_what_a_broken_run_left(server: Server, live: Live, connection: str, what: str, then: str) -> None:
    """Both commands go on from any state."""
    connect(server, connection, at(live), ["content"])
    with server.client() as client:
        if what == "a second connector":
            client.cluster.put_settings(
                body=trust.granted(
                    trusted(server), f"{connection}-more", RerankService(f"{NOBODY}/v1/rerank").pattern, True
                )
            )
        if what in ("the model is gone", "the group alone is left"):
            client.search_pipeline.delete(id=connection)
        BROKEN[what](client, there(server, connection), connection)
    if then == "connect":
        check(server, connect(server, connection, at(live), ["content"]), at(live))
        found = there(server, connection)
        assert (len(found.connectors), len(found.models), len(found.groups)) == (1, 1, 1)
    disconnect(server, connection)
    disconnect(server, f"{connection}-more")
    assert there(server, connection) == resources.Found((), (), ())
    assert not trusted(server).notes.keys() & {connection, f"{connection}-more"}


def test_what_somebody_else_made_is_left_alone(server: Server, live: Live, connection: str) -> None:
    """A pipeline of that name: refused before anything is changed, by both commands."""
    with server.client() as client:
        client.search_pipeline.put(id=connection, body={"description": "mine", "response_processors": []})
        before = trusted(server)
        try:
            for call in (
                lambda: connect(server, connection, at(live), ["content"]),
                lambda: disconnect(server, connection),
            ):
                with pytest.raises(InvalidInput, match="choose another --name"):
                    call()
            assert trusted(server) == before
            assert there(server, connection) == resources.Found((), (), ())
            assert client.search_pipeline.get(id=connection)[connection]["description"] == "mine"
        finally:
            client.search_pipeline.delete(id=connection)


def test_a_connector_of_somebody_else(server: Server, live: Live, connection: str) -> None:
    """The same for what ML Commons keeps."""
    first = connect(server, f"{connection}-first", at(live), ["content"])
    with server.client() as client:
        body = bodies.connector(connection, at(live)) | {"description": "mine"}
        made = client.plugins.ml.create_connector(body=body)["connector_id"]
        try:
            with pytest.raises(InvalidInput, match="connector named"):
                disconnect(server, connection)
        finally:
            client.plugins.ml.delete_connector(connector_id=made)
    check(server, first, at(live))
    disconnect(server, f"{connection}-first")


def test_two_connections_to_one_service(server: Server, live: Live, connection: str) -> None:
    """The second one's trust stays when the first one goes."""
    other = connect(server, f"{connection}-other", at(live), ["content"])
    connect(server, connection, at(live), ["content"])
    disconnect(server, connection)
    check(server, other, at(live))
    disconnect(server, f"{connection}-other")


def test_a_service_that_is_not_there(server: Server, connection: str) -> None:
    """The check says which side cannot be reached."""
    nowhere = RerankService(f"{NOBODY}/v1/rerank")
    connected = connect(server, connection, nowhere, ["content"])
    with pytest.raises(SecondPassError, match=r"no scores from http://127.0.0.1:1/v1/rerank.*refused"):
        check(server, connected, nowhere)


def test_a_server_without_the_plugins() -> None:
    """Named before anything is changed."""
    nodes = b'{"nodes": {"a": {"plugins": [{"name": "opensearch-ml"}]}}}'
    with answering(200, nodes) as server, pytest.raises(SecondPassError, match="opensearch-neural-search"):
        connect(server, "x", RerankService(f"{NOBODY}/v1/rerank"), ["content"])
    with answering(200, b'{"nodes": {"a": {}}}') as server, pytest.raises(SecondPassError, match=r"opensearch-ml \(ML"):
        disconnect(server, "x")


@pytest.mark.parametrize(("name", "fields"), [(" ", ["content"]), ("x", [])])
def test_what_is_refused(name: str, fields: list[str]) -> None:
    """Before anything is sent."""
    server = Server.from_environment({"OPENSEARCH_URL": NOBODY}, retries=0)
    with pytest.raises(InvalidInput):
        connect(server, name, RerankService(f"{NOBODY}/v1/rerank"), fields)


def test_a_dead_server() -> None:
    """One line, for each command."""
    server = Server.from_environment({"OPENSEARCH_URL": NOBODY}, retries=0)
    service = RerankService(f"{NOBODY}/v1/rerank")
    for call in (
        lambda: connect(server, "x", service, ["content"]),
        lambda: disconnect(server, "x"),
        lambda: check(server, Connected("x", "y"), service),
    ):
        with pytest.raises(SecondPassError, match="cannot be reached"):
            call()
