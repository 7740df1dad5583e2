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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.failures import need_elasticsearch

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

URL = "ELASTICSEARCH_URL"
API_KEY = "ELASTIC_API_KEY"
API_KEY_ID = "ELASTIC_API_KEY_ID"
USERNAME = "ELASTIC_USERNAME"
PASSWORD = "ELASTIC_PASSWORD"  # noqa: S105 (the name of a variable)
CA_FILE = "ELASTICSEARCH_CA_FILE"
LOCAL = "http://localhost:9200"
PORTS = {"http": 9200, "https": 443}


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
        """A client with finite patience; nothing is sent yet.

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
    name = "--url" if url is not None else URL
    parts = _split(url if url is not None else known.get(URL) or LOCAL, name)
    in_url = _login(parts)
    if url is not None and in_url is not None:
        raise InvalidInput("--url holds a user or a password, which others can read on a command line: use ELASTIC_...")
    key = _api_key(known)
    basic = None if key is not None else _basic(known) or in_url
    ca_file = known.get(CA_FILE) or None
    if ca_file is not None and not Path(ca_file).is_file():
        raise InvalidInput(f"{CA_FILE}={ca_file}: no such file")
    return Connection(_shown(parts), key, basic, ca_file, timeout, retries)


def _split(value: str, name: str) -> SplitResult:
    """The URL in its parts; refusals do not repeat it, for it may hold a password."""
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise InvalidInput(f"{name} is not a URL: its host or port cannot be read") from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise InvalidInput(f"{name} is not a URL such as http://localhost:9200")
    if parts.query or parts.fragment:
        raise InvalidInput(f"{name} has a query or a fragment, which the address of a server has not")
    return parts


def _shown(parts: SplitResult) -> str:
    host = str(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{parts.port or PORTS[parts.scheme]}{parts.path.rstrip('/')}"


def _login(parts: SplitResult) -> tuple[str, str] | None:
    if parts.username is None and parts.password is None:
        return None
    return unquote(parts.username or ""), unquote(parts.password or "")


def _api_key(known: Mapping[str, str]) -> str | tuple[str, str] | None:
    key, key_id = known.get(API_KEY) or None, known.get(API_KEY_ID) or None
    if key is None and key_id is not None:
        raise InvalidInput(f"{API_KEY_ID} is set, but {API_KEY} is not")
    return (key_id, key) if key is not None and key_id is not None else key


def _basic(known: Mapping[str, str]) -> tuple[str, str] | None:
    user, password = known.get(USERNAME) or None, known.get(PASSWORD) or None
    if (user is None) != (password is None):
        raise InvalidInput(f"{USERNAME} and {PASSWORD} are of use only together")
    return (user, password) if user is not None and password is not None else None
