"""Connecting and taking it back, on a real server: again, half done, changed, dry, never what is somebody else's."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.serving.settings import ApiKeys, Settings
from secondpass_servers.opensearch import ml_commons
from secondpass_servers.opensearch.client import Server
from secondpass_servers.opensearch.ml_commons import RerankService, connector_body, pipeline_body
from secondpass_servers.opensearch.search_pipeline import (
    NOTES,
    PRIVATE,
    TRUSTED,
    Trust,
    check,
    connect,
    disconnect,
    granted,
    read_trust,
    ready_query,
    withdrawn,
)
from tests.secondpass_servers.opensearch.conftest import NOBODY
from tests.secondpass_servers.opensearch.test_client import answering
from tests.serving.conftest import KEY, Live, running

DEFAULTS = {TRUSTED: ["^https://default/.*$"], PRIVATE: "false"}
OURS = "^http://127\\.0\\.0\\.1:8000/v1/rerank$"


class Cluster:
    """Settings as OpenSearch keeps them: a layer over another, null removes."""

    def __init__(self, **layers: dict[str, Any]) -> None:
        self.layers: dict[str, dict[str, Any]] = {"persistent": {}, "transient": {}} | layers

    def put(self, body: dict[str, Any]) -> None:
        for layer, changes in body.items():
            for key, value in changes.items():
                if value is None:
                    self.layers[layer].pop(key, None)
                else:
                    self.layers[layer][key] = str(value).lower() if isinstance(value, bool) else value

    @property
    def trust(self) -> Trust:
        given_ = self.layers["persistent"].keys() | self.layers["transient"].keys()
        defaults = {key: value for key, value in DEFAULTS.items() if key not in given_}
        return read_trust({**self.layers, "defaults": defaults})

    def connect(self, name: str, pattern: str, private: bool = True) -> None:
        self.put(granted(self.trust, name, pattern, private))

    def disconnect(self, name: str) -> None:
        self.put(withdrawn(self.trust, name))


def test_ours_is_added_to_the_defaults_and_goes_without_a_trace() -> None:
    """Even the default list is the default again, so that the next version's defaults are taken."""
    cluster = Cluster()
    cluster.connect("a", OURS)
    assert cluster.trust.trusted == (*DEFAULTS[TRUSTED], OURS)
    assert cluster.trust.private
    cluster.disconnect("a")
    assert cluster.layers == {"persistent": {}, "transient": {}}


@pytest.mark.parametrize("layer", ["persistent", "transient"])
def test_the_users_own_patterns_stay(layer: str) -> None:
    """In the layer that counts, with what was added to them meanwhile."""
    cluster = Cluster(**{layer: {TRUSTED: ["^https://mine/.*$"], PRIVATE: "true"}})
    cluster.connect("a", OURS)
    assert cluster.layers[layer][TRUSTED] == ["^https://mine/.*$", OURS]
    cluster.layers[layer][TRUSTED].append("^https://later/.*$")
    cluster.disconnect("a")
    assert cluster.layers[layer] == {TRUSTED: ["^https://mine/.*$", "^https://later/.*$"], PRIVATE: "true"}


def test_what_was_there_before_is_not_taken_back() -> None:
    """A pattern equal to ours is the user's if it was there first."""
    cluster = Cluster(persistent={TRUSTED: [OURS], PRIVATE: "true"})
    cluster.connect("a", OURS)
    cluster.disconnect("a")
    assert cluster.layers["persistent"] == {TRUSTED: [OURS], PRIVATE: "true"}


def test_the_same_again_changes_nothing() -> None:
    """No request at all."""
    cluster = Cluster()
    cluster.connect("a", OURS)
    assert granted(cluster.trust, "a", OURS, True) == {}
    cluster.disconnect("a")
    assert withdrawn(cluster.trust, "a") == {}


def test_a_new_address_takes_the_place_of_the_old() -> None:
    """And a public one needs no private addresses any more."""
    cluster = Cluster()
    cluster.connect("a", OURS)
    cluster.connect("a", "^https://public/$", private=False)
    assert cluster.trust.trusted == (*DEFAULTS[TRUSTED], "^https://public/$")
    assert not cluster.trust.private


def test_a_note_that_somebody_spoilt_takes_nothing_back() -> None:
    """Rather too little than what is the user's."""
    cluster = Cluster(persistent={TRUSTED: [OURS], f"{NOTES}a": "{"})
    cluster.disconnect("a")
    assert cluster.layers["persistent"] == {TRUSTED: [OURS]}


def test_notes_are_one_string() -> None:
    """The only form that `cluster.metadata` takes."""
    (body,) = granted(Cluster().trust, "a", OURS, True).values()
    assert json.loads(body[f"{NOTES}a"])["patterns"] == [OURS]


STEPS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["^x$", "^y$", "^https://mine/$", None]), st.booleans()),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([None, ["^https://mine/$"], []]), st.sampled_from([None, "true", "false"]))
def test_any_history_ends_where_it_began(
    steps: list[tuple[str, str | None, bool]], mine: list[str] | None, private: str | None
) -> None:
    """Whoever is connected has what he needs, and when all are gone nothing of ours is left."""
    begin = {key: value for key, value in ((TRUSTED, mine), (PRIVATE, private)) if value is not None}
    cluster = Cluster(persistent=json.loads(json.dumps(begin)))
    before = cluster.trust
    connected: dict[str, tuple[str, bool]] = {}
    for name, pattern, needs_private in steps:
        if pattern is None:
            cluster.disconnect(name)
            connected.pop(name, None)
        else:
            cluster.connect(name, pattern, needs_private)
            connected[name] = (pattern, needs_private)
        assert {wanted for wanted, _ in connected.values()} <= set(cluster.trust.trusted)
        assert cluster.trust.private or not any(needed for _, needed in connected.values())
        assert set(before.trusted) <= set(cluster.trust.trusted)
    for name in list(connected):
        cluster.disconnect(name)
    after = cluster.trust
    assert (after.trusted, after.private, dict(after.notes)) == (before.trusted, before.private, {})


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


def at(live: Live) -> RerankService:
    """The service of the tests."""
    return RerankService(f"{live.url}/v1/rerank")


def trusted(server: Server) -> Trust:
    """The cluster's settings."""
    with server.client() as client:
        return read_trust(client.cluster.get_settings(flat_settings=True, include_defaults=True))


def there(server: Server, name: str) -> ml_commons.Found:
    """What is there under a name."""
    with server.client() as client:
        return ml_commons.find(client, name)


def test_everything_is_taken_back(server: Server, live: Live) -> None:
    """Connector, model, group, pipeline, settings: as if nothing had been."""
    name = f"test-{secrets.token_hex(6)}"
    before = trusted(server)
    connected = connect(server, name, at(live), ["content"])
    check(server, connected, at(live))
    assert at(live).pattern in trusted(server).trusted
    assert disconnect(server, name)
    assert there(server, name) == ml_commons.Found((), (), ())
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
        assert connect(server, connection, right, ["content"]) == first
        check(server, first, right)
    assert at(live).pattern not in trusted(server).trusted
    assert right.pattern in trusted(server).trusted


Break = Callable[[Any, ml_commons.Found, str], object]
BROKEN: dict[str, Break] = {
    "the model is not deployed": lambda client, found, name: ml_commons.undeploy(client, found.models[0]),
    "the pipeline is gone": lambda client, found, name: client.search_pipeline.delete(id=name),
    "the model is gone": lambda client, found, name: ml_commons.remove(client, ml_commons.Found((), found.models, ())),
    "the group alone is left": lambda client, found, name: ml_commons.remove(
        client, ml_commons.Found(found.connectors, found.models, ())
    ),
    "a second connector": lambda client, found, name: client.plugins.ml.create_connector(
        body=connector_body(name, RerankService(f"{NOBODY}/v1/rerank"))
    ),
    "the settings are as they were": lambda client, found, name: client.cluster.put_settings(
        body=withdrawn(read_trust(client.cluster.get_settings(flat_settings=True)), name)
    ),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("then", ["connect", "disconnect"])
def test_what_a_broken_run_left(
    server: Server, live: Live, connection: str, what: str, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Both commands go on from any state."""
    connect(server, connection, at(live), ["content"])
    with server.client() as client:
        if what == "a second connector":
            client.cluster.put_settings(
                body=granted(trusted(server), f"{connection}-more", RerankService(f"{NOBODY}/v1/rerank").pattern, True)
            )
        if what in ("the model is gone", "the group alone is left"):
            client.search_pipeline.delete(id=connection)
        BROKEN[what](client, there(server, connection), connection)
    if then == "connect":
        check(server, connect(server, connection, at(live), ["content"]), at(live))
        found = there(server, connection)
        # the server gives ids by its clock and a number of its own: one day in many it keeps the second one
        kept = caplog.text.count("keeps the connector")
        assert (len(found.connectors), len(found.models), len(found.groups)) == (1 + kept, 1, 1)
    disconnect(server, connection)
    disconnect(server, f"{connection}-more")
    assert there(server, connection) == ml_commons.Found((), (), ())
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
            assert there(server, connection) == ml_commons.Found((), (), ())
            assert client.search_pipeline.get(id=connection)[connection]["description"] == "mine"
        finally:
            client.search_pipeline.delete(id=connection)


def test_a_connector_of_somebody_else(server: Server, live: Live, connection: str) -> None:
    """The same for what ML Commons keeps."""
    first = connect(server, f"{connection}-first", at(live), ["content"])
    with server.client() as client:
        body = connector_body(connection, at(live)) | {"description": "mine"}
        made = client.plugins.ml.create_connector(body=body)["connector_id"]
        try:
            with pytest.raises(InvalidInput, match="connector named"):
                disconnect(server, connection)
            check(server, first, at(live))
        finally:
            disconnect(server, f"{connection}-first")
            client.plugins.ml.delete_connector(connector_id=made)


def test_two_connections_to_one_service(server: Server, live: Live, connection: str) -> None:
    """The second one's trust stays when the first one goes."""
    other = connect(server, f"{connection}-other", at(live), ["content"])
    connect(server, connection, at(live), ["content"])
    disconnect(server, connection)
    check(server, other, at(live))
    disconnect(server, f"{connection}-other")


@pytest.mark.filterwarnings("ignore:.*accesses system indices")
def test_connectors_whose_ids_share_a_word(
    server: Server, live: Live, connection: str, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenSearch takes one's model for a user of the other, and refuses to change or delete that: both still work."""
    names, word = [f"{connection}-a", f"{connection}-b"], secrets.token_hex(6)
    with server.client() as client:
        granting = granted(trusted(server), names[0], at(live).pattern, True)
        client.cluster.put_settings(body=granting)
        stuck = [put_connector(client, name, f"{name[-1]}x-{word}-{name[-1]}y", at(live)) for name in names]
    models = [connect(server, name, at(live), ["content"]) for name in names]
    assert there(server, names[0]).connectors == (stuck[0],)
    kept = there(server, names[1]).connectors
    assert (len(kept), kept[0]) == (2, stuck[1])
    assert connect(server, names[1], at(live), ["title"]) == models[1]
    check(server, models[1], at(live))
    assert there(server, names[1]).connectors == kept
    assert disconnect(server, names[1])
    assert f"keeps the connector {stuck[1]}" in caplog.text
    assert models[0] in caplog.text
    assert there(server, names[1]) == ml_commons.Found((stuck[1],), (), ())
    check(server, models[0], at(live))
    assert disconnect(server, names[0])
    assert disconnect(server, names[1])
    assert [there(server, name) for name in names] == [ml_commons.Found((), (), ())] * 2


def put_connector(client: Any, name: str, id_: str, service: RerankService) -> str:
    """A connector of ours under an id such as OpenSearch gives, which nobody can choose."""
    made = client.plugins.ml.create_connector(body=connector_body(name, service))["connector_id"]
    index = ".plugins-ml-connector"
    client.index(index=index, id=id_, body=client.get(index=index, id=made)["_source"], refresh=True)
    client.plugins.ml.delete_connector(connector_id=made)
    return id_


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


@pytest.mark.parametrize("version", ["2.17.1", "2.12.0", "1.3.20"])
@pytest.mark.parametrize("fields", [["title", "content"], ["meta.title"]])
def test_a_server_that_cannot_join_fields(version: str, fields: list[str]) -> None:
    """Before 2.18 it would glue them, and see none inside an object: refused before anything is changed."""
    plugins = [{"name": "opensearch-ml"}, {"name": "opensearch-neural-search"}]
    nodes = {"new": {"version": "3.1.0", "plugins": plugins}, "old": {"version": version, "plugins": plugins}}
    with (
        answering(200, json.dumps({"nodes": nodes}).encode()) as server,
        pytest.raises(InvalidInput, match=rf"version {version[: version.rindex('.')]}, .*OpenSearch 2\.18 or later"),
    ):
        connect(server, "x", RerankService(f"{NOBODY}/v1/rerank"), fields)


def test_what_an_older_server_is_sent() -> None:
    """Its own processor, which reads one field of the top level."""
    body = pipeline_body("m", ["content"], first_pass=True, joins=False)
    rerank = {"ml_opensearch": {"model_id": "m"}, "context": {"document_fields": ["content"]}, "ignore_failure": True}
    assert body["response_processors"] == [{"rerank": rerank}]


@pytest.mark.parametrize(("name", "fields"), [(" ", ["content"]), ("x", []), ("x", ["title", " "])])
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
        lambda: check(server, "y", service),
    ):
        with pytest.raises(SecondPassError, match="cannot be reached"):
            call()


def test_the_query_survives_a_shell_and_holds_no_secret() -> None:
    """Quotes in the text are quoted; the password stays a variable."""
    server = Server.from_environment({"OPENSEARCH_URL": "https://joe:secret@h:9200"})
    command = ready_query(server, "p", "docs", 'it\'s "so"', ["title", "content"])
    words = shlex.split(command.replace("\\\n", " "))
    body = json.loads(words[-1])
    assert body["ext"]["rerank"]["query_context"]["query_text"] == 'it\'s "so"'
    assert body["query"]["multi_match"]["fields"] == ["title", "content"]
    assert "secret" not in command
    assert "$OPENSEARCH_USERNAME:$OPENSEARCH_PASSWORD" in words
