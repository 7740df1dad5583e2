"""OpenSearch reranks through our service: everything that takes, and everything that takes it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_opensearch import bodies, resources, trust
from secondpass_opensearch.failures import line_for, named, speaking_to
from secondpass_opensearch.server import Server
from secondpass_opensearch.service import RerankService

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

NEEDED = {"opensearch-ml": "ML Commons", "opensearch-neural-search": "neural search"}
PROBE = ("which one is a fruit", ("an apple", "a bicycle"))


@dataclass(frozen=True, slots=True)
class Connected:
    """What a search needs to be reranked by OpenSearch."""

    pipeline: str
    model_id: str


def connect(
    server: Server,
    name: str,
    service: RerankService,
    fields: Sequence[str],
    *,
    private: bool | None = None,
    dry: bool = False,
) -> Connected:
    """Make OpenSearch rerank through `service`, or change how it does; the same call again changes nothing.

    Args:
        server: the OpenSearch.
        name: of connector, model group, model and search pipeline.
        service: what reranks.
        fields: fields of `_source` that are the document, in order.
        private: whether private addresses have to be allowed; None finds out from the address.
        dry: print the requests that would change something instead of sending them.

    Raises:
        InvalidInput: something of that name is there that we did not make.
        SecondPassError: the server cannot be reached, refuses, or lacks a plugin, which is named.
    """
    if not name.strip() or not fields:
        raise InvalidInput("--name or --field is blank")
    needs_private = service.is_private if private is None else private
    with speaking_to(server), _client(server, dry) as client:
        require_plugins(client, server)
        found = resources.find(client, name)
        _own_pipeline(client, name)
        _change_settings(client, trust.granted(_trust(client), name, service.pattern, needs_private))
        model_id = resources.connect_model(client, name, service, found)
        client.search_pipeline.put(id=name, body=bodies.pipeline(model_id, fields))
    return Connected(name, model_id)


def disconnect(server: Server, name: str, *, dry: bool = False) -> bool:
    """Take back whatever `connect` made under `name`, all or the rest of it; returns whether there was anything.

    Raises:
        InvalidInput: something of that name is there that we did not make.
        SecondPassError: the server cannot be reached or refuses.
    """
    with speaking_to(server), _client(server, dry) as client:
        require_plugins(client, server)
        found = resources.find(client, name)
        there = _own_pipeline(client, name)
        settings = trust.withdrawn(_trust(client), name)
        if there:
            client.search_pipeline.delete(id=name)
        resources.remove(client, found)
        _change_settings(client, settings)
    return there or bool(settings or found.connectors or found.models or found.groups)


def check(server: Server, connected: Connected, service: RerankService) -> None:
    """Have OpenSearch rerank two documents through the service.

    Raises:
        SecondPassError: it cannot; the message has the reason that OpenSearch gives.
    """
    from opensearchpy.exceptions import TransportError

    query, documents = PROBE
    path = f"/_plugins/_ml/_predict/text_similarity/{connected.model_id}"
    body = {"query_text": query, "text_docs": list(documents)}
    with speaking_to(server, passing=TransportError), server.client() as client:
        try:
            answer: Any = client.transport.perform_request("POST", path, body=body)
        except TransportError as error:
            trouble = line_for(error, server)
            raise SecondPassError(
                f"OpenSearch is connected, but gets no scores from {service.endpoint}: {trouble}"
            ) from None
    scores = [output["data"] for result in answer["inference_results"] for output in result["output"]]
    if len(scores) != len(documents):
        raise SecondPassError(f"{service.endpoint} gave OpenSearch {len(scores)} scores for {len(documents)} documents")


def require_plugins(client: OpenSearch, server: Server) -> None:
    """Refuse a server without the plugins that reranking needs.

    Raises:
        SecondPassError: a node lacks one; the message names it.
    """
    from opensearchpy.exceptions import AuthorizationException

    try:
        nodes = client.nodes.info(metric="plugins", filter_path="nodes.*.plugins.name")["nodes"]
    except AuthorizationException:
        # Who may not list plugins hears of a missing one when it is asked.
        return
    for node in nodes.values():
        there = {plugin["name"] for plugin in node.get("plugins", ())}
        for plugin, known_as in NEEDED.items():
            if plugin not in there:
                raise SecondPassError(f"{named(server)} lacks the plugin {plugin} ({known_as}), which reranking needs")


def _client(server: Server, dry: bool) -> OpenSearch:
    if not dry:
        return server.client()
    from secondpass_opensearch.dry_run import PrintingTransport

    return server.client(transport_class=PrintingTransport)


def _trust(client: OpenSearch) -> trust.Trust:
    return trust.read_trust(client.cluster.get_settings(flat_settings=True, include_defaults=True))


def _change_settings(client: OpenSearch, body: dict[str, Any]) -> None:
    if body:
        client.cluster.put_settings(body=body)


def _own_pipeline(client: OpenSearch, name: str) -> bool:
    """Whether the search pipeline is there.

    Raises:
        InvalidInput: it is, and we did not make it.
    """
    from opensearchpy.exceptions import NotFoundError

    try:
        held = client.search_pipeline.get(id=name)[name]
    except (NotFoundError, KeyError):
        return False
    if held.get("description") != bodies.MARK:
        raise InvalidInput(
            f"a search pipeline named {name!r} is there that this command did not make: choose another --name"
        )
    return True
