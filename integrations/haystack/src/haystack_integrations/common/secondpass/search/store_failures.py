"""What a component of a pipeline raised, as one line: a server by engine, host and index, never with credentials."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from haystack_integrations.common.secondpass.search.stores import document_stores, store_name, store_of

from secondpass.errors import SecondPassError

if TYPE_CHECKING:
    from haystack import Pipeline

CLIENTS = ("elastic_transport", "elasticsearch", "opensearchpy")


def failure_line(error: BaseException, pipeline: Pipeline) -> str:
    """The reason on one line; an error of secondpass, or of a component without a server, speaks for itself."""
    chain = list(_chain(error))
    known = next((found for found in chain if isinstance(found, SecondPassError)), None)
    if known is not None:
        return str(known)
    client = next((found for found in chain if type(found).__module__.split(".")[0] in CLIENTS), None)
    if client is None:
        return " ".join(str(chain[-1]).split())
    name = _server(chain, pipeline)
    return _opensearch(client, name) if type(client).__module__.startswith("opensearchpy") else _elastic(client, name)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _server(chain: list[BaseException], pipeline: Pipeline) -> str:
    """The store of the component that failed, or all of the pipeline's if it does not say which one that was."""
    for found in chain:
        component = getattr(found, "component_name", None)
        if component is not None:
            store = store_of(pipeline.get_component(component))
            if store is not None:
                return store_name(store)
    return " or ".join(store_name(store) for store in document_stores(pipeline)) or "the server"


def _elastic(error: Any, name: str) -> str:
    from elastic_transport import TransportError
    from elasticsearch import ApiError

    from secondpass_servers.elasticsearch.client import refused, silence

    if isinstance(error, ApiError):
        return str(refused(name, error))
    if isinstance(error, TransportError):
        return f"{name}: {silence(error)}"
    return f"{name}: {type(error).__name__}"


def _opensearch(error: Any, name: str) -> str:
    from opensearchpy.exceptions import TransportError

    from secondpass_servers.opensearch.client import Server, line_for

    if isinstance(error, TransportError):
        return line_for(error, Server(name.removeprefix("OpenSearch ")))
    return f"{name}: {type(error).__name__}"
