"""What opensearchpy raises, said in one line that names the host and holds no credentials."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, Overloaded, SecondPassError
from secondpass_opensearch.server import CA_FILE, PASSWORD, USERNAME, Server

if TYPE_CHECKING:
    from opensearchpy.exceptions import TransportError

LONGEST = 400
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
STATUSES: dict[Any, str] = {403: "lets this user not do it", 429: "is busy"}
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
        Overloaded: 429.
        SecondPassError: everything else: no connection, no right, a refused request.
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
        kind = Overloaded if error.status_code == 429 else SecondPassError
        raise kind(line_for(error, server)) from None
    except SerializationError:
        raise SecondPassError(f"{named(server)} answered something that is not JSON: is it an OpenSearch?") from None
    except (OpenSearchException, ImproperlyConfigured) as error:
        raise SecondPassError(f"{named(server)}: {_one_line(str(error))}") from None


def named(server: Server) -> str:
    """The server in a message: "OpenSearch at http://localhost:9200"."""
    return f"OpenSearch at {server.address}"


def line_for(error: TransportError, server: Server) -> str:
    """One line about a failed request."""
    from opensearchpy.exceptions import ConnectionError as NoConnection
    from opensearchpy.exceptions import ConnectionTimeout, SSLError

    who = named(server)
    if isinstance(error, ConnectionTimeout):
        return f"{who} did not answer within {server.timeout:g} s"
    if isinstance(error, SSLError):
        return f"{who}: TLS failed: {_cause(error)} ({CA_FILE} names the file of the authority that signed it)"
    if isinstance(error, NoConnection):
        return f"{who} cannot be reached: {_cause(error)}"
    return f"{who} {_answer(error)}"


def _answer(error: TransportError) -> str:
    why = reason(error)
    plugin = missing_plugin(why)
    if plugin:
        return f"lacks the plugin {plugin}: {why}"
    # A service that refuses its key gives a search the same status.
    if error.status_code == 401 and "remote" not in why:
        return f"refuses the credentials (401): check {USERNAME} and {PASSWORD}"
    return f"{STATUSES.get(error.status_code, 'answered')} ({error.status_code}): {why}"


def reason(error: TransportError) -> str:
    """Why the server refused, as far down the chain of causes as it tells."""
    info: Any = error.info
    if isinstance(info, dict) and "error" in info:
        return told(info["error"])
    return _one_line(info if isinstance(info, str) and info.strip() else str(error.error))


def told(error: Any) -> str:
    """The reasons in an error object of OpenSearch, outermost first, each once, on one line."""
    reasons: list[str] = []
    while isinstance(error, dict):
        text = str(error.get("reason") or error.get("type") or "")
        if text and not any(text in known for known in reasons):
            reasons.append(text)
        error = error.get("caused_by") or _of_a_shard(error)
    if isinstance(error, str) and error:
        reasons.append(error)
    return _one_line(": ".join(reasons)) or "no reason given"


def _of_a_shard(error: dict[str, Any]) -> Any:
    shards = error.get("failed_shards")
    return shards[0].get("reason") if isinstance(shards, list) and shards else None


def missing_plugin(text: str) -> str | None:
    """The plugin whose absence a refusal comes from, if that is what it says."""
    if not ABSENT.search(text):
        return None
    lowered = text.lower()
    return next((plugin for sign, plugin in PLUGINS if sign in lowered), None)


def _cause(error: TransportError) -> str:
    """The innermost reason of a lost connection, without the objects that urllib3 puts around it."""
    inner: Any = error.info
    while True:
        deeper = getattr(inner, "reason", None) or getattr(inner, "__cause__", None)
        if not isinstance(deeper, BaseException):
            break
        inner = deeper
    text = re.sub(r"<[^>]*>:? ?|HTTPS?ConnectionPool\([^)]*\): ?", "", str(inner or error.error))
    return _one_line(text)


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."
