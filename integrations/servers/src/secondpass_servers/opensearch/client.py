"""OpenSearch: where it is and as whom, out of the environment, what its client's errors mean, and its indexes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, InvalidInput, SecondPassError
from secondpass.lazy import optional
from secondpass_servers import answers
from secondpass_servers.contract import IndexingError, SearchEngine, ServerAway
from secondpass_servers.index import EngineAccess, IndexLayout, SearchedIndex, Sink, indexing_error
from secondpass_servers.requests import ApiRequest, authority_file, login_of, server_url

__all__ = ["Server", "opened"]

if TYPE_CHECKING:
    from opensearchpy import OpenSearch
    from opensearchpy.exceptions import TransportError


OPENSEARCH = SearchEngine(
    title="OpenSearch",
    command="opensearch",
    vector_type="knn_vector",
    length_key="dimension",
    analysed_key="max_analyzer_offset",
    login="OPENSEARCH_USERNAME and OPENSEARCH_PASSWORD",
    authority="OPENSEARCH_CA_FILE",
)


URL = "OPENSEARCH_URL"
USERNAME = "OPENSEARCH_USERNAME"
PASSWORD = "OPENSEARCH_PASSWORD"  # noqa: S105 - the name of the variable
CA_FILE = OPENSEARCH.authority
# Seconds of one attempt of a request, and how many more attempts a lost connection or a 502, 503 or 504 gets.
TIMEOUT = 30.0
RETRIES = 2
# Connections kept open: threads that write and search at once.
CONNECTIONS = 16
LONGEST_VECTOR = 16_000
THERE = "resource_already_exists_exception"
# What each plugin answers to, as far as these commands ask for it.
PLUGINS = (
    ("/_plugins/_ml", "opensearch-ml (ML Commons)"),
    ("plugins.ml_commons", "opensearch-ml (ML Commons)"),
    ("ml_commons", "opensearch-ml (ML Commons)"),
    ("processor type rerank", "opensearch-neural-search"),
    ("processor type [rerank]", "opensearch-neural-search"),
    ("unknown query [neural]", "opensearch-neural-search"),
    ("knn_vector", "opensearch-knn (k-NN)"),
    ("unknown query [knn]", "opensearch-knn (k-NN)"),
    ("[index.knn", "opensearch-knn (k-NN)"),
)
ABSENT = re.compile(
    r"no handler found|no handler for type|unknown setting|not recognized|unknown query|invalid processor type"
    r"|incorrect http method|unknown key|unknown_named_object",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Server:
    """Address and credentials of an OpenSearch; neither its repr nor `address` shows a secret."""

    address: str
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    timeout: float = TIMEOUT
    retries: int = RETRIES

    @classmethod
    def from_environment(
        cls,
        environment: Mapping[str, str] | None = None,
        *,
        url: str | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
    ) -> Server:
        """What OPENSEARCH_URL, OPENSEARCH_USERNAME, OPENSEARCH_PASSWORD and OPENSEARCH_CA_FILE say.

        Credentials inside the URL are taken where the two variables are absent; a given `url` takes the place of
        OPENSEARCH_URL and may hold none. `timeout` is in seconds for each of `retries` + 1 attempts.

        Raises:
            InvalidInput: a variable cannot be used; the message names it and shows no credentials.
        """
        found = os.environ if environment is None else environment
        where = server_url(found, URL, url)
        username, password = login_of(found, USERNAME, PASSWORD, where.login) or ("", "")
        return cls(where.address, username, password, authority_file(found, CA_FILE), timeout, retries)

    def settings(self) -> dict[str, Any]:
        """Arguments of opensearchpy's client; `http_auth` is the only one with a secret."""
        encrypted = self.address.startswith("https://")
        tls = {"ca_certs": str(self.ca_file)} if encrypted and self.ca_file is not None else {}
        # urllib3 sends characters as Latin-1, and the server reads UTF-8: these are the characters with those bytes.
        login = [part.encode(errors="surrogateescape").decode("latin-1") for part in (self.username, self.password)]
        auth = {"http_auth": tuple(login)} if self.username else {}
        return {
            "hosts": [self.address],
            "timeout": self.timeout,
            "max_retries": self.retries,
            "retry_on_timeout": False,
            "pool_maxsize": CONNECTIONS,
            **tls,
            **auth,
        }

    def client(self, **changed: Any) -> OpenSearch:
        """A client of opensearchpy; nothing is sent yet. `changed` replaces arguments.

        Raises:
            MissingExtra: opensearch-py is not installed.
        """
        library = optional("opensearchpy", "opensearch-py", "opensearch")
        made: OpenSearch = library.OpenSearch(**(self.settings() | changed))
        return made


@contextmanager
def speaking_to(server: Server, passing: type[BaseException] | tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Turn what opensearchpy raises inside into errors of secondpass, except for `passing`.

    Raises:
        DeadlineExceeded: no answer in time.
        InvalidInput: the server refuses the request as wrong (400), or has no such index (404).
        Overloaded: 429.
        SecondPassError: everything else.
    """
    from opensearchpy.exceptions import (
        ConnectionTimeout,
        ImproperlyConfigured,
        OpenSearchException,
        SerializationError,
        TransportError,
    )

    try:
        yield
    except passing:
        raise
    except ConnectionTimeout as error:
        raise DeadlineExceeded(line_for(error, server)) from None
    except TransportError as error:
        raise refused(error, server) from None
    except SerializationError:
        raise SecondPassError(f"{named(server)}: {answers.not_json(OPENSEARCH)}") from None
    except (OpenSearchException, ImproperlyConfigured) as error:
        raise SecondPassError(f"{named(server)}: {answers.one_line(str(error))}") from None


def named(server: Server) -> str:
    """The server in a message: "OpenSearch http://localhost:9200"."""
    return OPENSEARCH.at(server.address)


def refused(error: TransportError, server: Server) -> SecondPassError:
    """The error for a request that failed, other than by time."""
    line = line_for(error, server)
    if isinstance(error.status_code, int) and missing_plugin(line) is None:
        return answers.refused(OPENSEARCH, named(server), error.status_code, described(error))
    return SecondPassError(line)


def line_for(error: TransportError, server: Server) -> str:
    """One line about a failed request."""
    from opensearchpy.exceptions import ConnectionError as NoConnection
    from opensearchpy.exceptions import ConnectionTimeout, SSLError

    who = named(server)
    if isinstance(error, ConnectionTimeout):
        return f"{who}: {answers.late(server.timeout)}"
    if isinstance(error, SSLError):
        return f"{who}: {answers.no_tls(OPENSEARCH, error)}"
    if isinstance(error, NoConnection):
        return f"{who}: {answers.unreachable(error)}"
    why = answers.told(described(error))
    plugin = missing_plugin(why)
    if plugin:
        return f"{who} lacks the plugin {plugin}: {why}"
    return answers.status_line(OPENSEARCH, who, int(error.status_code), described(error))


def described(error: TransportError) -> Any:
    """What the answer's body has under "error", or what else it says."""
    info: Any = error.info
    if isinstance(info, dict) and "error" in info:
        return info["error"]
    return info if isinstance(info, str) and info.strip() else str(error.error)


def missing_plugin(text: str) -> str | None:
    """The plugin whose absence a refusal comes from, if that is what it says."""
    if not ABSENT.search(text):
        return None
    lowered = text.lower()
    return next((plugin for sign, plugin in PLUGINS if sign in lowered), None)


def creation(layout: IndexLayout) -> ApiRequest:
    """The request that makes the index; one without embeddings needs no plugin.

    Raises:
        InvalidInput: the embeddings are longer than OpenSearch takes.
    """
    if layout.dims is None:
        return ApiRequest("PUT", f"/{layout.name}", layout.body())
    if layout.dims > LONGEST_VECTOR:
        raise InvalidInput(f"dims={layout.dims} is more than OpenSearch's {LONGEST_VECTOR}")
    return ApiRequest("PUT", f"/{layout.name}", layout.body(vector_field(layout.dims), knn=True))


def vector_field(dims: int) -> dict[str, Any]:
    """A field for vectors of `dims` numbers, searched by cosine with Lucene's HNSW: no native library is needed."""
    method = {"name": "hnsw", "engine": "lucene", "space_type": "cosinesimil"}
    return {"type": OPENSEARCH.vector_type, OPENSEARCH.length_key: dims, "method": method}


def create_index(server: Server, layout: IndexLayout) -> None:
    """Create the index; the server itself sees to it that no index is written over.

    Raises:
        InvalidInput: something of that name is there, or the server refuses name, analyzer or dims.
        SecondPassError: as `speaking_to`; a plugin that is missing is named.
    """
    from opensearchpy.exceptions import RequestError

    with speaking_to(server), server.client(max_retries=0) as client:
        try:
            client.indices.create(index=layout.name, body=creation(layout).body)
        except RequestError as error:
            if error.error == THERE:
                raise answers.index_is_there(named(server), layout.name) from None
            raise


class OpenSearchIndex(SearchedIndex):
    """One index or alias to search."""

    engine = OPENSEARCH

    def __init__(self, client: OpenSearch, server: Server, index: str) -> None:
        super().__init__(client, server.address, index)
        self._server = server

    def nearest(
        self, vector: Sequence[float], field: str, depth: int, filters: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """The part of a body that finds the nearest documents."""
        knn = {"vector": list(vector), "k": depth}
        return {
            "query": {"knn": {field: {**knn, **({"filter": {"bool": {"filter": list(filters)}}} if filters else {})}}}
        }

    def _translated(self) -> AbstractContextManager[None]:
        return speaking_to(self._server)


class OpenSearchSink(Sink):
    """One index or alias to write to."""

    engine = OPENSEARCH

    def __init__(self, server: Server, index: str) -> None:
        super().__init__(server.client(max_retries=0), server.address, index)
        self._server = server

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from opensearchpy.exceptions import ConnectionError as NoConnection
        from opensearchpy.exceptions import SerializationError, SSLError, TransportError

        try:
            with speaking_to(self._server, passing=(TransportError, SerializationError)):
                yield
        except SerializationError:
            raise IndexingError(f"{self.name}: {answers.not_json(OPENSEARCH)}") from None
        except TransportError as error:
            line = line_for(error, replace(self._server, address=f"{self._server.address}/{self._index}"))
            silent = isinstance(error, NoConnection) and not isinstance(error, SSLError)
            raise ServerAway(line) if silent else indexing_error(line, error.status_code) from None


@contextmanager
def opened(server: Server, index: str) -> Iterator[SearchedIndex]:
    """An index of a server to search; its client is closed at the end.

    Raises:
        MissingExtra: opensearch-py is not installed.
    """
    with server.client() as client:
        yield OpenSearchIndex(client, server, index)


@contextmanager
def searched(url: str | None, timeout: float, index: str) -> Iterator[SearchedIndex]:
    """The same of the server that the environment names, or `url` instead. Raises as `Server.from_environment` too."""
    with opened(Server.from_environment(url=url, timeout=timeout), index) as found:
        yield found


@contextmanager
def sink(url: str | None, timeout: float, index: str) -> Iterator[Sink]:
    """An index to write to; its client is closed at the end. Raises as `searched`."""
    with closing(OpenSearchSink(Server.from_environment(url=url, timeout=timeout), index)) as made:
        yield made


ACCESS = EngineAccess(OPENSEARCH, searched, sink)
