"""The two engines as tests of what they share see them: indexes made, filled and opened, and the program run."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from typer.testing import CliRunner, Result

from secondpass.cli import app
from secondpass_servers.contract import SearchEngine
from secondpass_servers.index import IndexLayout, SearchedIndex
from secondpass_servers.requests import ApiRequest

NOBODY = "http://127.0.0.1:1"


class Place:
    """One engine's shared server; what is made under `name` or begins with it is deleted at the end."""

    def __init__(self, engine: SearchEngine, url: str, client: Any) -> None:
        self.engine = engine
        self.url = url
        self.client = client
        self.name = f"secondpass-{secrets.token_hex(6)}"
        self.stack = ExitStack()

    def send(self, request: ApiRequest) -> None:
        """Send a request as it is."""
        if self.engine.command == "elasticsearch":
            headers = {"content-type": "application/json", "accept": "application/json"}
            self.client.perform_request(request.method, request.path, headers=headers, body=request.body)
        else:
            self.client.transport.perform_request(request.method, request.path, body=request.body)

    def create(self, mappings: Mapping[str, Any] | None = None, suffix: str = "", **layout: Any) -> SearchedIndex:
        """An index as `create` makes it, or with mappings of the test's own."""
        name = f"{self.name}{suffix}"
        if mappings is not None:
            self.send(ApiRequest("PUT", f"/{name}", {"mappings": {"properties": dict(mappings)}}))
        elif self.engine.command == "elasticsearch":
            from secondpass_servers.elasticsearch.client import creation

            self.send(creation(IndexLayout(name, **layout)))
        else:
            from secondpass_servers.opensearch.client import creation as creation_there

            self.send(creation_there(IndexLayout(name, **layout)))
        return self.opened(name)

    def fill(self, documents: Mapping[str, Mapping[str, Any]], suffix: str = "") -> None:
        """Write documents by id, searchable at once."""
        lines = [part for id_, source in documents.items() for part in ({"index": {"_id": id_}}, source)]
        body = "".join(json.dumps(line) + "\n" for line in lines)
        answer = self.client.bulk(body=body, index=f"{self.name}{suffix}", refresh=True)
        assert not answer["errors"], answer

    def opened(self, name: str | None = None) -> SearchedIndex:
        """An index of this server, as both passes ask it."""
        wanted = self.name if name is None else name
        if self.engine.command == "elasticsearch":
            from secondpass_servers.elasticsearch.client import ElasticsearchIndex

            return ElasticsearchIndex(self.client, self.url, wanted)
        from secondpass_servers.opensearch.client import Server, opened

        server = Server.from_environment({"OPENSEARCH_URL": self.url})
        return self.stack.enter_context(opened(server, wanted))

    def run(self, *arguments: object, code: int = 0) -> Result:
        """`secondpass ENGINE ...` in this process."""
        result = CliRunner().invoke(app, [self.engine.command, *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result


def only_line(result: Result) -> str:
    """The one line that an error printed."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.output
    assert lines[0].startswith("secondpass: ")
    return str(lines[0])


@contextmanager
def place(command: str, url: str) -> Iterator[Place]:
    """The server at `url`, without what a test left in it."""
    client, engine = _elasticsearch(url) if command == "elasticsearch" else _opensearch(url)
    made = Place(engine, url, client)
    with made.stack:
        try:
            yield made
        finally:
            for name in list(dict(client.indices.get(index=f"{made.name}*"))):
                client.indices.delete(index=name)
            client.close()


def _elasticsearch(url: str) -> tuple[Any, SearchEngine]:
    from elasticsearch import Elasticsearch

    from secondpass_servers.elasticsearch.client import ELASTICSEARCH

    return Elasticsearch(url, request_timeout=60), ELASTICSEARCH


def _opensearch(url: str) -> tuple[Any, SearchEngine]:
    from opensearchpy import OpenSearch

    from secondpass_servers.opensearch.client import OPENSEARCH

    return OpenSearch(url, timeout=60), OPENSEARCH
