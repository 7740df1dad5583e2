"""What opensearchpy raises, said in one line that names the host and holds no credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, SecondPassError
from secondpass_opensearch.engine import OPENSEARCH
from secondpass_opensearch.server import Server
from secondpass_searching import failures

if TYPE_CHECKING:
    from opensearchpy.exceptions import TransportError

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
        raise SecondPassError(f"{named(server)}: {failures.not_json(OPENSEARCH)}") from None
    except (OpenSearchException, ImproperlyConfigured) as error:
        raise SecondPassError(f"{named(server)}: {failures.one_line(str(error))}") from None


def named(server: Server) -> str:
    """The server in a message: "OpenSearch http://localhost:9200"."""
    return OPENSEARCH.at(server.address)


def refused(error: TransportError, server: Server) -> SecondPassError:
    """The error for a request that failed, other than by time."""
    line = line_for(error, server)
    if isinstance(error.status_code, int) and missing_plugin(line) is None:
        return failures.refused(OPENSEARCH, named(server), error.status_code, described(error))
    return SecondPassError(line)


def line_for(error: TransportError, server: Server) -> str:
    """One line about a failed request."""
    from opensearchpy.exceptions import ConnectionError as NoConnection
    from opensearchpy.exceptions import ConnectionTimeout, SSLError

    who = named(server)
    if isinstance(error, ConnectionTimeout):
        return f"{who}: {failures.late(server.timeout)}"
    if isinstance(error, SSLError):
        return f"{who}: {failures.no_tls(OPENSEARCH, error)}"
    if isinstance(error, NoConnection):
        return f"{who}: {failures.unreachable(error)}"
    why = failures.told(described(error))
    plugin = missing_plugin(why)
    if plugin:
        return f"{who} lacks the plugin {plugin}: {why}"
    return failures.status_line(OPENSEARCH, who, int(error.status_code), described(error))


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
