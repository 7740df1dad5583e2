"""Stores of Elasticsearch and OpenSearch inside a pipeline file, and where the environment points them.

| variable | |
|---|---|
| ELASTICSEARCH_URL, OPENSEARCH_URL | replace `hosts`; credentials in them are taken out and used |
| SECONDPASS_INDEX | replaces `index`; the option --index comes first |
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from secondpass.errors import InvalidInput

ELASTICSEARCH = "haystack_integrations.document_stores.elasticsearch.document_store.ElasticsearchDocumentStore"
OPENSEARCH = "haystack_integrations.document_stores.opensearch.document_store.OpenSearchDocumentStore"
ENGINES = {ELASTICSEARCH: "Elasticsearch", OPENSEARCH: "OpenSearch"}
INDEX = "SECONDPASS_INDEX"


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
            settings.update(_elasticsearch(known))
        if store["type"] == OPENSEARCH and known.get("OPENSEARCH_URL"):
            settings.update(_opensearch(known))
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


def _elasticsearch(known: Mapping[str, str]) -> dict[str, Any]:
    from secondpass_servers.elasticsearch.client import connection

    found = connection(environment=known)
    settings: dict[str, Any] = {"hosts": found.url}
    # An API key comes to the store as the Secret that its file names.
    if found.api_key is None and found.basic_auth is not None:
        settings["basic_auth"] = found.basic_auth
    if found.ca_file is not None:
        settings["ca_certs"] = found.ca_file
    return settings


def _opensearch(known: Mapping[str, str]) -> dict[str, Any]:
    from secondpass_servers.opensearch.client import Server

    found = Server.from_environment(known)
    settings: dict[str, Any] = {"hosts": found.address}
    if found.username:
        settings["http_auth"] = [found.username, found.password]
    if found.ca_file is not None:
        settings["ca_certs"] = str(found.ca_file)
    return settings
