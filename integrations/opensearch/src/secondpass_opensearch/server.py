"""Which OpenSearch, and as whom: from the environment, so that no credentials stand in a command or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.errors import MissingExtra
from secondpass_opensearch.engine import OPENSEARCH
from secondpass_searching.server_url import authority_file, login_of, server_url

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

URL = "OPENSEARCH_URL"
USERNAME = "OPENSEARCH_USERNAME"
PASSWORD = "OPENSEARCH_PASSWORD"  # noqa: S105 - the name of the variable
CA_FILE = OPENSEARCH.authority
# Seconds of one attempt of a request, and how many more attempts a lost connection or a 502, 503 or 504 gets.
TIMEOUT = 30.0
RETRIES = 2
# Connections kept open: threads that write and search at once.
CONNECTIONS = 16


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

        Credentials inside the URL are taken where the two variables are absent.

        Args:
            environment: instead of the process's own.
            url: instead of OPENSEARCH_URL; it may hold no credentials.
            timeout: seconds of one attempt.
            retries: further attempts after a lost connection or a 502, 503 or 504.

        Raises:
            InvalidInput: a variable cannot be used; the message names it and shows no credentials.
        """
        found = os.environ if environment is None else environment
        where = server_url(found, URL, url)
        username, password = login_of(found, USERNAME, PASSWORD, where.login) or ("", "")
        return cls(where.address, username, password, authority_file(found, CA_FILE), timeout, retries)

    @property
    def encrypted(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.address.startswith("https://")

    def settings(self) -> dict[str, Any]:
        """Arguments of opensearchpy's client; `http_auth` is the only one with a secret."""
        tls = {"ca_certs": str(self.ca_file)} if self.encrypted and self.ca_file is not None else {}
        auth = {"http_auth": (self.username, self.password)} if self.username else {}
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
        try:
            from opensearchpy import OpenSearch
        except ImportError:
            raise MissingExtra('opensearch-py is not installed: pip install "secondpass[opensearch]"') from None
        return OpenSearch(**(self.settings() | changed))
