"""Which OpenSearch, and as whom: from the environment, so that no credentials stand in a command or a file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, MissingExtra, SecondPassError
from secondpass_servers import answers
from secondpass_servers.contract import SearchEngine
from secondpass_servers.requests import authority_file, login_of, server_url

__all__ = ["Server"]

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


@contextmanager
def speaking_to(server: Server, passing: type[BaseException] | tuple[()] = ()) -> Iterator[None]:
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
