"""The document stores of a pipeline: what they are called, what they hold, which server, and what that server refused.

Where the environment points stores of Elasticsearch and OpenSearch:

| variable | |
|---|---|
| ELASTICSEARCH_URL, OPENSEARCH_URL | replace `hosts`; credentials in them are taken out and used |
| SECONDPASS_INDEX | replaces `index`; the option --index comes first |
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from secondpass.errors import InvalidInput, SecondPassError
from secondpass_servers.index import CONTENT, MetadataFields, add_fields

if TYPE_CHECKING:
    from haystack import Pipeline

ELASTICSEARCH = "haystack_integrations.document_stores.elasticsearch.document_store.ElasticsearchDocumentStore"
OPENSEARCH = "haystack_integrations.document_stores.opensearch.document_store.OpenSearchDocumentStore"
ENGINES = {ELASTICSEARCH: "Elasticsearch", OPENSEARCH: "OpenSearch"}
INDEX = "SECONDPASS_INDEX"
ROUTING = "_routing"
DEFAULT_FIELD = "index.query.default_field"
CLIENTS = ("elastic_transport", "elasticsearch", "opensearchpy")
ASKED_AT_ONCE = 500
Item = TypeVar("Item")


def store_of(component: Any) -> Any:
    """The document store that a component holds, None if it holds none."""
    found = getattr(component, "document_store", None)
    return getattr(component, "_document_store", None) if found is None else found


def in_servers(pipeline: Pipeline) -> frozenset[str]:
    """Names of the components whose store lives in a server."""
    stores = ((name, store_of(part)) for name, part in pipeline.walk())
    return frozenset(name for name, store in stores if store is not None and engine_of(store.to_dict()) is not None)


def components_of(pipeline: Pipeline) -> dict[str, Any]:
    """Components by name, and by "outer.inner" those that another holds, as a hybrid retriever its embedder."""
    from haystack import Pipeline

    found: dict[str, Any] = {}
    waiting = list(pipeline.walk())
    while waiting:
        name, part = waiting.pop(0)
        if any(part is other for other in found.values()):
            continue
        found[name] = part
        for attribute, value in vars(part).items():
            if attribute.startswith("__"):  # Haystack's marks, the pipeline around it among them
                continue
            named = {attribute: value}
            inner = dict(value.walk()) if isinstance(value, Pipeline) else value if isinstance(value, dict) else named
            waiting += [(f"{name}.{one}", held) for one, held in inner.items() if hasattr(held, "__haystack_input__")]
    return found


def document_stores(pipeline: Pipeline) -> list[Any]:
    """Stores that components hold, each once; two objects with equal settings are one store."""
    stores: list[Any] = []
    settings: list[Any] = []
    for component in components_of(pipeline).values():
        store = store_of(component)
        if store is None:
            continue
        described = store.to_dict()
        if described not in settings:
            settings.append(described)
            stores.append(store)
    return stores


def store_name(store: Any) -> str:
    """Engine, host and index without credentials; the class's name for a store in memory."""
    described = store.to_dict()
    engine = engine_of(described)
    if engine is None:
        return type(store).__name__
    settings = described["init_parameters"]
    return f"{engine} {shown(settings.get('hosts'))}/{settings.get('index')}"


def server_stores(pipeline: Pipeline) -> list[Any]:
    """Those that live in a server, and so are there before and after this process."""
    return [store for store in document_stores(pipeline) if engine_of(store.to_dict()) is not None]


def refuse_filled(stores: Iterable[Any]) -> None:
    """Refuse to mix a corpus with what a server's index holds already.

    Raises:
        InvalidInput: one holds documents.
    """
    for store in stores:
        count = store.count_documents()
        if count:
            raise InvalidInput(
                f"{store_name(store)} holds {count} documents already: leave --corpus away to search them, "
                "choose another --index, or write among them with --add"
            )


def refuse_empty(stores: Iterable[Any]) -> dict[str, int]:
    """The number of documents by the name of the store.

    Raises:
        InvalidInput: one holds none, so there is nothing to search.
    """
    counts = {store_name(store): int(store.count_documents()) for store in stores}
    for name, count in counts.items():
        if not count:
            raise InvalidInput(f"{name} holds no documents: give --corpus, or index them first")
    return counts


def map_metadata(stores: Iterable[Any], kinds: Mapping[tuple[str, ...], set[str]]) -> None:
    """Give the indexes of stores that live in a server a field of the right type for each key of the metadata.

    Raises:
        InvalidInput: OpenSearch's store would take a key for something else and drop it, or the index has whole
            numbers where the metadata has fractions.
    """
    fields = MetadataFields.of(kinds)
    for store in stores:
        if (ROUTING,) in kinds:
            raise InvalidInput(
                f"{store_name(store)}: metadata {ROUTING!r} would be the server's own routing: rename it"
            )
        if not fields.properties:
            continue
        # The store makes the index when it is first asked for something.
        count, index = store.count_documents(), store.to_dict()["init_parameters"]["index"]
        client = client_of(store)
        add_fields(client, index, fields, store_name(store))
        if count:
            continue
        known = [found["settings"]["index"] for found in dict(client.indices.get_settings(index=index)).values()]
        if not any("default_field" in found.get("query", {}) for found in known):
            # Haystack's BM25 names no field: without this it would search the metadata's strings too.
            client.indices.put_settings(index=index, body={DEFAULT_FIELD: [CONTENT]})


def client_of(store: Any) -> Any:
    """The client of a store that lives in a server; None if it has none."""
    return getattr(store, "client", None) or getattr(store, "_client", None)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one perhaps shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch


def absent(store: Any, ids: Iterable[str]) -> int:
    """How many of `ids`, each given once, no document of the store has."""
    return sum(len(some) - store.count_documents_by_filter(_any_of(some)) for some in batches(ids, ASKED_AT_ONCE))


def absent_ids(store: Any, ids: Iterable[str]) -> list[str]:
    """Those of `ids` that no document of the store has, which sends whole documents: `absent` is cheaper."""
    left: list[str] = []
    for some in batches(ids, ASKED_AT_ONCE):
        known = {document.id for document in store.filter_documents(_any_of(some))}
        left += [one for one in some if one not in known]
    return left


def _any_of(ids: list[str]) -> dict[str, Any]:
    return {"field": "id", "operator": "in", "value": ids}


def close(pipeline: Pipeline) -> None:
    """Close the connections of a pipeline's stores, and what else its components hold."""
    pipeline.close()
    for store in document_stores(pipeline):
        if hasattr(store, "close"):
            store.close()


def engine_of(described: Any) -> str | None:
    """The engine of a described store ({"type": ..., "init_parameters": ...}), None if it lives in no server."""
    return ENGINES.get(str(described.get("type"))) if isinstance(described, dict) else None


def point_stores(
    components: Mapping[str, Any], index: str | None = None, environment: Mapping[str, str] | None = None
) -> None:
    """Let every store of a pipeline's dictionary that lives in a server use the given server and index.

    Raises:
        InvalidInput: an index is given and there is no such store, or a variable is of no use.
    """
    known = os.environ if environment is None else environment
    stores = list(_stores(components))
    if index is not None and not stores:
        raise InvalidInput(f"--index {index}: the pipeline has no store of Elasticsearch or OpenSearch")
    chosen = index or known.get(INDEX)
    for store in stores:
        settings = store["init_parameters"] = dict(store.get("init_parameters") or {})
        if store["type"] == ELASTICSEARCH and known.get("ELASTICSEARCH_URL"):
            settings.update(_elasticsearch_settings(known))
        if store["type"] == OPENSEARCH and known.get("OPENSEARCH_URL"):
            settings.update(_opensearch_settings(known))
        if chosen:
            settings["index"] = chosen


def shown(hosts: Any) -> str:
    """Hosts as a pipeline file states them, without credentials."""
    several = hosts if isinstance(hosts, list | tuple) else [hosts]
    return ",".join(_host(host) for host in several)


def _host(host: Any) -> str:
    if isinstance(host, dict):
        return f"{host.get('host', 'localhost')}:{host.get('port', 9200)}"
    if host is None:
        return "localhost:9200"
    try:
        parts = urlsplit(str(host) if "://" in str(host) else f"//{host}")
    except ValueError:
        return "(a host that cannot be read)"
    place = parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")
    return f"{parts.scheme}://{place}" if parts.scheme else place


def _stores(value: Any, seen: set[int] | None = None) -> Iterator[dict[str, Any]]:
    """Descriptions of such stores, however deep; a YAML anchor makes one stand in several places."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        if engine_of(value) is not None:
            yield value
        for inner in value.values():
            yield from _stores(inner, seen)
    elif isinstance(value, list):
        for inner in value:
            yield from _stores(inner, seen)


def _elasticsearch_settings(known: Mapping[str, str]) -> dict[str, Any]:
    from secondpass_servers.elasticsearch.client import connection

    found = connection(environment=known)
    settings: dict[str, Any] = {"hosts": found.url}
    # An API key comes to the store as the Secret that its file names.
    if found.api_key is None and found.basic_auth is not None:
        settings["basic_auth"] = found.basic_auth
    if found.ca_file is not None:
        settings["ca_certs"] = found.ca_file
    return settings


def _opensearch_settings(known: Mapping[str, str]) -> dict[str, Any]:
    from secondpass_servers.opensearch.client import Server

    found = Server.from_environment(known)
    settings: dict[str, Any] = {"hosts": found.address}
    if found.username:
        settings["http_auth"] = [found.username, found.password]
    if found.ca_file is not None:
        settings["ca_certs"] = str(found.ca_file)
    return settings


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
    told = _opensearch_line if type(client).__module__.startswith("opensearchpy") else _elasticsearch_line
    return told(client, name)


@contextmanager
def told_in_one_line(pipeline: Pipeline) -> Iterator[None]:
    """Say in one line, and without credentials, what a client of a server raises; errors of secondpass pass."""
    try:
        yield
    except SecondPassError:
        raise
    except Exception as error:
        raise SecondPassError(failure_line(error, pipeline)) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__


def _server(chain: list[BaseException], pipeline: Pipeline) -> str:
    """The store of the component that failed, or all of the pipeline's if it does not say which one that was."""
    parts = dict(pipeline.walk())
    for found in chain:
        # A component inside another is named by the error too, and is none of the pipeline's.
        store = store_of(parts.get(getattr(found, "component_name", "")))
        if store is not None:
            return store_name(store)
    return " or ".join(store_name(store) for store in document_stores(pipeline)) or "the server"


def _elasticsearch_line(error: Any, name: str) -> str:
    from elastic_transport import TransportError
    from elasticsearch import ApiError

    from secondpass_servers.elasticsearch.client import refused, silence

    if isinstance(error, ApiError):
        return str(refused(name, error))
    if isinstance(error, TransportError):
        return f"{name}: {silence(error)}"
    return f"{name}: {type(error).__name__}"


def _opensearch_line(error: Any, name: str) -> str:
    from opensearchpy.exceptions import TransportError

    from secondpass_servers.opensearch.client import Server, line_for

    if isinstance(error, TransportError):
        return line_for(error, Server(name.removeprefix("OpenSearch ")))
    return f"{name}: {type(error).__name__}"
