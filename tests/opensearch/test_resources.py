"""Finding, making and removing what ML Commons keeps; `test_connecting` goes through every half-done state."""

from __future__ import annotations

import pytest

from secondpass.errors import SecondPassError
from secondpass_opensearch import resources, trust
from secondpass_opensearch.server import Server
from secondpass_opensearch.service import RerankService
from tests.opensearch.conftest import NOBODY

SERVICE = RerankService(f"{NOBODY}/v1/rerank")


def test_made_found_undeployed_twice_and_removed(server: Server, connection: str) -> None:
    """Nothing is there, then one of each under the name, then nothing again."""
    with server.client() as client:
        settings = client.cluster.get_settings(flat_settings=True, include_defaults=True)
        client.cluster.put_settings(body=trust.granted(trust.read_trust(settings), connection, SERVICE.pattern, True))
        nothing = resources.find(client, connection)
        assert nothing == resources.Found((), (), ())
        model_id = resources.connect_model(client, connection, SERVICE, nothing)
        found = resources.find(client, connection)
        assert (found.models, len(found.connectors), len(found.groups)) == ((model_id,), 1, 1)
        resources.undeploy(client, model_id)
        resources.undeploy(client, model_id)
        resources.remove(client, found)
        assert resources.find(client, connection) == nothing


def test_an_address_that_is_not_trusted(server: Server, connection: str) -> None:
    """The server's refusal comes through."""
    from opensearchpy.exceptions import TransportError

    with server.client() as client, pytest.raises((TransportError, SecondPassError), match="trusted"):
        resources.connect_model(client, connection, SERVICE, resources.Found((), (), ()))
