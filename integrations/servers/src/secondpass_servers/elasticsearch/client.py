"""Elasticsearch: where it is and how to log in, what its client's errors mean, and its indexes.

| variable | |
|---|---|
| ELASTICSEARCH_URL | http://localhost:9200 without it; user and password in it are taken out and used |
| ELASTIC_API_KEY | the encoded key; with ELASTIC_API_KEY_ID the secret half alone, as Haystack's store takes them |
| ELASTIC_USERNAME, ELASTIC_PASSWORD | used where there is no API key |
| ELASTICSEARCH_CA_FILE | PEM file of the authority that signed the server's certificate |
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, InvalidInput, SecondPassError
from secondpass.lazy import optional
from secondpass_servers import answers
from secondpass_servers.contract import IndexingError, SearchEngine, ServerAway
from secondpass_servers.index import EngineAccess, IndexLayout, SearchedIndex, Sink, indexing_error
from secondpass_servers.requests import ApiRequest, authority_file, header_value, login_of, server_url

if TYPE_CHECKING:
    from elasticsearch import ApiError, Elasticsearch


ELASTICSEARCH = SearchEngine(
    title="Elasticsearch",
    command="elasticsearch",
    vector_type="dense_vector",
    length_key="dims",
    analysed_key="max_analyzed_offset",
    login="ELASTIC_API_KEY, or ELASTIC_USERNAME and ELASTIC_PASSWORD,",
    authority="ELASTICSEARCH_CA_FILE",
)


OTHER_PRODUCT = "answers, but not as an Elasticsearch 8 or 9 does"
URL = "ELASTICSEARCH_URL"
API_KEY = "ELASTIC_API_KEY"
API_KEY_ID = "ELASTIC_API_KEY_ID"
USERNAME = "ELASTIC_USERNAME"
PASSWORD = "ELASTIC_PASSWORD"  # noqa: S105 (the name of a variable)
CA_FILE = ELASTICSEARCH.authority
THERE = "resource_already_exists_exception"
# Elasticsearch looks at no more than this for each shard.
MOST_CANDIDATES = 10_000


@dataclass(frozen=True, slots=True)
class Connection:
    """One server; `url` holds no credentials and may be shown, `timeout` is in seconds for each request."""

    url: str
    api_key: str | tuple[str, str] | None = field(default=None, repr=False)
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    ca_file: str | None = None
    timeout: float = 30.0
    retries: int = 3

    def client(self) -> Elasticsearch:
        """A client that gives up in the end; nothing is sent yet.

        Raises:
            MissingExtra: elasticsearch-py is not installed.
        """
        optional("elasticsearch", "elasticsearch-py", "elasticsearch")
        from elastic_transport.client_utils import DEFAULT
        from elasticsearch import Elasticsearch

        return Elasticsearch(
            self.url,
            api_key=self.api_key,
            basic_auth=self.basic_auth,
            request_timeout=self.timeout,
            max_retries=self.retries,
            retry_on_timeout=True,
            ca_certs=DEFAULT if self.ca_file is None else self.ca_file,
        )


def connection(
    url: str | None = None, timeout: float = 30.0, retries: int = 3, environment: Mapping[str, str] | None = None
) -> Connection:
    """Read the environment; a given `url` takes the place of ELASTICSEARCH_URL and may hold no credentials.

    An API key comes before a user's name and password, and both before what the URL holds.

    Raises:
        InvalidInput: a variable is of no use; the message names it and shows no value that may be a secret.
    """
    known = os.environ if environment is None else environment
    found = server_url(known, URL, url)
    key = _api_key(known)
    basic = None if key is not None else login_of(known, USERNAME, PASSWORD, found.login)
    ca_file = authority_file(known, CA_FILE)
    return Connection(found.address, key, basic, None if ca_file is None else str(ca_file), timeout, retries)


def _api_key(known: Mapping[str, str]) -> str | tuple[str, str] | None:
    key, key_id = header_value(known, API_KEY), header_value(known, API_KEY_ID)
    if key is None and key_id is not None:
        raise InvalidInput(f"{API_KEY_ID} is set, but {API_KEY} is not")
    return (key_id, key) if key is not None and key_id is not None else key


@contextmanager
def session(url: str | None, timeout: float) -> Iterator[tuple[Elasticsearch, str]]:
    """The client and the server's address, its URL without credentials.

    Raises:
        InvalidInput: `--url` or a variable of the environment is of no use.
        MissingExtra: elasticsearch-py is not installed.
    """
    found = connection(url, timeout)
    client = found.client()
    from elasticsearch.exceptions import ElasticsearchWarning

    try:
        with warnings.catch_warnings():
            # A server without security says so in every answer; a command's output is not the place to repeat it.
            warnings.simplefilter("ignore", ElasticsearchWarning)
            yield client, found.url
    finally:
        client.close()


@contextmanager
def spoken(server: str) -> Iterator[None]:
    """Turn what the client raises inside into a `SecondPassError` that names `server`, an address.

    Raises:
        DeadlineExceeded: no answer in time.
        InvalidInput: the server refuses the request as wrong (400), or has no such index (404).
        Overloaded: 429.
        SecondPassError: everything else.
    """
    from elastic_transport import ConnectionTimeout, TransportError
    from elasticsearch import ApiError, UnsupportedProductError

    who = ELASTICSEARCH.at(server)
    try:
        yield
    except UnsupportedProductError as error:
        raise SecondPassError(f"{who} {OTHER_PRODUCT}") from error
    except ApiError as error:
        raise refused(who, error) from error
    except ConnectionTimeout as error:
        raise DeadlineExceeded(f"{who}: {silence(error)}") from error
    except TransportError as error:
        raise SecondPassError(f"{who}: {silence(error)}") from error


def refused(who: str, error: ApiError) -> SecondPassError:
    """The error for an answer with a status of 300 or more; `who` names engine and server."""
    return answers.refused(ELASTICSEARCH, who, error.status_code, described(error))


def silence(error: Exception) -> str:
    """Why there was no answer, in words, without anything that the URL may hold."""
    from elastic_transport import ConnectionTimeout, SerializationError, TlsError

    if isinstance(error, SerializationError):
        return answers.not_json(ELASTICSEARCH)
    if isinstance(error, ConnectionTimeout):
        return answers.late()
    if isinstance(error, TlsError):
        return answers.no_tls(ELASTICSEARCH, error)
    return answers.unreachable(error)


def kind(error: ApiError) -> str:
    """The type that Elasticsearch gives the error, "" if it gives none."""
    inner = described(error)
    return str(inner.get("type", "")) if isinstance(inner, dict) else ""


def reason(error: ApiError) -> str:
    """The reasons in the answer, on one line."""
    return answers.told(described(error))


def described(error: ApiError) -> Any:
    """What the answer's body has under "error", or the client's own words if it has nothing there."""
    body: Any = error.body
    return (body.get("error") if isinstance(body, dict) else None) or error.message


class Similarity(StrEnum):
    """How embeddings are compared."""

    cosine = "cosine"
    dot_product = "dot_product"
    l2_norm = "l2_norm"
    max_inner_product = "max_inner_product"


def creation(layout: IndexLayout, similarity: str = "cosine") -> ApiRequest:
    """The request that makes the index; `similarity` says how embeddings are compared.

    Raises:
        InvalidInput: `similarity` is no `Similarity`.
    """
    if similarity not in list(Similarity):
        raise InvalidInput(f"similarity={similarity!r} is none of {', '.join(Similarity)}")
    vector = None
    if layout.dims is not None:
        vector = {"type": ELASTICSEARCH.vector_type, "dims": layout.dims, "index": True, "similarity": similarity}
    return ApiRequest("PUT", f"/{layout.name}", layout.body(vector))


def create_index(client: Elasticsearch, server: str, layout: IndexLayout, similarity: str = "cosine") -> None:
    """Create the index; the server itself sees to it that no index is written over.

    Raises:
        InvalidInput: something of that name is there, or the server refuses name, analyzer or dims.
        SecondPassError: as `spoken`.
    """
    from elasticsearch import BadRequestError

    # A repetition after a time-out would only hear that the index is there.
    once = client.options(max_retries=0, retry_on_timeout=False)
    with spoken(server):
        try:
            once.indices.create(index=layout.name, body=creation(layout, similarity).body)
        except BadRequestError as error:
            if kind(error) == THERE:
                raise answers.index_is_there(ELASTICSEARCH.at(server), layout.name) from error
            raise


class ElasticsearchIndex(SearchedIndex):
    """One index or alias to search."""

    engine = ELASTICSEARCH

    def nearest(
        self, vector: Sequence[float], field: str, depth: int, filters: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, Any]:
        """The part of a body that finds the nearest documents."""
        most = min(10 * depth, MOST_CANDIDATES)
        knn = {"field": field, "query_vector": list(vector), "k": depth, "num_candidates": most}
        return {"knn": {**knn, **({"filter": list(filters)} if filters else {})}}

    def _translated(self) -> AbstractContextManager[None]:
        return spoken(self._address)


class ElasticsearchSink(Sink):
    """One index or alias to write to; `server` is an address."""

    engine = ELASTICSEARCH

    def __init__(self, client: Elasticsearch, server: str, index: str) -> None:
        super().__init__(client.options(max_retries=0, retry_on_timeout=False), server, index)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from elastic_transport import TlsError, TransportError
        from elasticsearch import ApiError, UnsupportedProductError

        try:
            yield
        except UnsupportedProductError as error:
            raise IndexingError(f"{self.name} {OTHER_PRODUCT}") from error
        except ApiError as error:
            line = answers.status_line(ELASTICSEARCH, self.name, error.status_code, described(error))
            raise indexing_error(line, error.status_code, _seconds(error.meta.headers.get("retry-after"))) from error
        except TlsError as error:
            # A certificate that nobody vouches for is the same one in five minutes.
            raise IndexingError(f"{self.name}: {silence(error)}") from error
        except TransportError as error:
            raise ServerAway(f"{self.name}: {silence(error)}") from error


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


@contextmanager
def searched(url: str | None, timeout: float, index: str) -> Iterator[SearchedIndex]:
    """An index to search; its client is closed at the end. Raises as `session`."""
    with session(url, timeout) as (client, server):
        yield ElasticsearchIndex(client, server, index)


@contextmanager
def sink(url: str | None, timeout: float, index: str) -> Iterator[Sink]:
    """An index to write to; its client is closed at the end. Raises as `session`."""
    with session(url, timeout) as (client, server):
        yield ElasticsearchSink(client, server, index)


ACCESS = EngineAccess(ELASTICSEARCH, searched, sink)
