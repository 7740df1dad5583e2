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
from typing import TYPE_CHECKING

from secondpass.errors import InvalidInput
from secondpass_elasticsearch.engine import ELASTICSEARCH
from secondpass_elasticsearch.failures import need_elasticsearch
from secondpass_searching.server_url import authority_file, login_of, server_url

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

URL = "ELASTICSEARCH_URL"
API_KEY = "ELASTIC_API_KEY"
API_KEY_ID = "ELASTIC_API_KEY_ID"
USERNAME = "ELASTIC_USERNAME"
PASSWORD = "ELASTIC_PASSWORD"  # noqa: S105 (the name of a variable)
CA_FILE = ELASTICSEARCH.authority


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
