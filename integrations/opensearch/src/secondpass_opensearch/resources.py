"""Connector, model and model group under one name: found, made, changed, removed, whatever an earlier run left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, InvalidInput, SecondPassError
from secondpass_opensearch import bodies
from secondpass_opensearch.service import RerankService

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

# Seconds until a model is deployed or undeployed on every node, and between two looks at it.
PATIENCE = 60.0
PAUSE = 0.2
RUNNING = ("DEPLOYED", "PARTIALLY_DEPLOYED", "DEPLOYING")


@dataclass(frozen=True, slots=True)
class Found:
    """Ids of what is there under a name, the oldest first; all of it is ours."""

    connectors: tuple[str, ...]
    models: tuple[str, ...]
    groups: tuple[str, ...]


def find(client: OpenSearch, name: str) -> Found:
    """Look for what an earlier run made.

    Raises:
        InvalidInput: something of that name was made by somebody else.
    """
    ml = client.plugins.ml
    return Found(
        _ids(ml.search_connectors, name, "connector"),
        _ids(ml.search_models, name, "model"),
        _ids(ml.search_model_group, name, "model group"),
    )


def connect_model(client: OpenSearch, name: str, service: RerankService, found: Found) -> str:
    """Make or change connector and model so that the model asks `service`, deployed; returns its id."""
    ml = client.plugins.ml
    for id_ in found.models:
        undeploy(client, id_)
    body = bodies.connector(name, service)
    if found.connectors:
        connector_id = found.connectors[0]
        ml.update_connector(connector_id=connector_id, body=body)
    else:
        connector_id = str(ml.create_connector(body=body)["connector_id"])
    fitting = [id_ for id_ in found.models if _connector_of(client, id_) == connector_id]
    for id_ in found.models:
        if id_ not in fitting[:1]:
            ml.delete_model(model_id=id_)
    for id_ in found.connectors[1:]:
        ml.delete_connector(connector_id=id_)
    model_id = fitting[0] if fitting else _register(client, name, connector_id, found)
    ml.deploy_model(model_id=model_id)
    _wait(client, model_id, lambda state: state == "DEPLOYED")
    return model_id


def remove(client: OpenSearch, found: Found) -> None:
    """Remove it all, in the order in which one needs the other."""
    ml = client.plugins.ml
    for id_ in found.models:
        undeploy(client, id_)
        ml.delete_model(model_id=id_)
    for id_ in found.groups:
        ml.delete_model_group(model_group_id=id_)
    for id_ in found.connectors:
        ml.delete_connector(connector_id=id_)


def undeploy(client: OpenSearch, model_id: str) -> None:
    """Take a model out of use; nothing happens to one that is not in use."""
    if _state(client, model_id) in RUNNING:
        client.plugins.ml.undeploy_model(model_id=model_id)
        _wait(client, model_id, lambda state: state not in RUNNING)


def _register(client: OpenSearch, name: str, connector_id: str, found: Found) -> str:
    ml = client.plugins.ml
    if found.groups:
        group_id = found.groups[0]
    else:
        group_id = str(ml.register_model_group(body=bodies.model_group(name))["model_group_id"])
    answer = ml.register_model(body=bodies.model(name, connector_id, group_id))
    end = time.monotonic() + PATIENCE
    while "model_id" not in answer:
        if answer.get("state") == "FAILED":
            raise SecondPassError(f"OpenSearch cannot register the model: {answer.get('error')}")
        if time.monotonic() > end:
            raise DeadlineExceeded(f"OpenSearch did not register the model within {PATIENCE:g} s")
        time.sleep(PAUSE)
        answer = answer | ml.get_task(task_id=answer["task_id"])
    return str(answer["model_id"])


def _wait(client: OpenSearch, model_id: str, done: Callable[[str], bool]) -> None:
    end = time.monotonic() + PATIENCE
    state = _state(client, model_id)
    while not done(state):
        if state == "DEPLOY_FAILED":
            raise SecondPassError(f"OpenSearch cannot deploy the model {model_id}; its log says why")
        if time.monotonic() > end:
            raise DeadlineExceeded(f"the model {model_id} is still {state} after {PATIENCE:g} s")
        time.sleep(PAUSE)
        state = _state(client, model_id)


def _state(client: OpenSearch, model_id: str) -> str:
    return str(client.plugins.ml.get_model(model_id=model_id).get("model_state", ""))


def _connector_of(client: OpenSearch, model_id: str) -> str:
    return str(client.plugins.ml.get_model(model_id=model_id).get("connector_id", ""))


def _ids(search: Callable[..., Any], name: str, what: str) -> tuple[str, ...]:
    from opensearchpy.exceptions import NotFoundError

    try:
        hits = search(body=bodies.named_as(name))["hits"]["hits"]
    except NotFoundError:
        # Before the first one is made there is no index to look into.
        return ()
    if any(hit["_source"].get("description") != bodies.MARK for hit in hits):
        raise InvalidInput(f"a {what} named {name!r} is there that this command did not make: choose another --name")
    return tuple(hit["_id"] for hit in hits)
