"""Dry runs: every request that would change something is shown, none is sent, no secret is in it."""

from __future__ import annotations

import pytest

from secondpass_opensearch.connecting import connect, disconnect
from secondpass_opensearch.server import Server
from secondpass_opensearch.service import RerankService
from tests.opensearch.conftest import NOBODY

SERVICE = RerankService(f"{NOBODY}/v1/rerank", "secret-key")


def state(server: Server) -> tuple[object, ...]:
    """Everything that `connect` changes."""
    with server.client() as client:
        ml = client.plugins.ml
        found = [
            search(body={"query": {"match_all": {}}, "size": 1000})["hits"]["hits"]
            for search in (ml.search_connectors, ml.search_models, ml.search_model_group)
        ]
        # The server itself touches a group some time after a model came into it.
        ids = [sorted((hit["_id"], hit["_source"].get("last_update_time", "")) for hit in hits) for hits in found]
        return ids, client.cluster.get_settings(flat_settings=True), client.search_pipeline.get()


def test_nothing_changes(server: Server, connection: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither before the first run nor after it, for both commands; the requests come in the order of the real run."""
    connect(server, connection, SERVICE, ["content"])
    other = f"{connection}-other"
    before = state(server)
    connect(server, other, SERVICE, ["content"], dry=True)
    lines = capsys.readouterr().out.splitlines()
    asked = [line for line in lines if line.startswith(("PUT ", "POST ", "DELETE "))]
    assert [line.split()[1] for line in asked] == [
        "/_cluster/settings",
        "/_plugins/_ml/connectors/_create",
        "/_plugins/_ml/model_groups/_register",
        "/_plugins/_ml/models/_register",
        "/_plugins/_ml/models/%3Cmodel_id%3E/_deploy",
        f"/_search/pipeline/{other}",
    ]
    connect(server, connection, SERVICE, ["content"], dry=True)
    again = capsys.readouterr().out
    assert "PUT /_plugins/_ml/connectors/" in again
    assert "_undeploy" in again
    assert disconnect(server, connection, dry=True)
    gone = capsys.readouterr().out
    assert gone.count("DELETE ") == 4
    assert state(server) == before
    assert "secret-key" not in "".join(lines) + again + gone
