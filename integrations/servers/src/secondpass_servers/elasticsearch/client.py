"""Where the Elasticsearch is and how to log in, out of the environment.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, InvalidInput, MissingExtra, SecondPassError
from secondpass_servers import answers
from secondpass_servers.contract import SearchEngine
from secondpass_servers.requests import authority_file, login_of, server_url

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


INSTALL = 'elasticsearch-py is not installed: pip install "secondpass[elasticsearch]"'
OTHER_PRODUCT = "answers, but not as an Elasticsearch 8 or 9 does"
URL = "ELASTICSEARCH_URL"
API_KEY = "ELASTIC_API_KEY"
API_KEY_ID = "ELASTIC_API_KEY_ID"
USERNAME = "ELASTIC_USERNAME"
PASSWORD = "ELASTIC_PASSWORD"  # noqa: S105 (the name of a variable)
CA_FILE = ELASTICSEARCH.authority


def need_elasticsearch() -> None:
    """Import elasticsearch-py.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import elasticsearch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra(INSTALL) from error


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
        need_elasticsearch()
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
    key, key_id = known.get(API_KEY) or None, known.get(API_KEY_ID) or None
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
