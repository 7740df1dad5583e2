"""Errors of elasticsearch-py as one clear line each: the server is named, credentials never are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondpass.errors import DeadlineExceeded, MissingExtra, SecondPassError
from secondpass_elasticsearch.engine import ELASTICSEARCH
from secondpass_searching import failures

if TYPE_CHECKING:
    from elasticsearch import ApiError

INSTALL = 'elasticsearch-py is not installed: pip install "secondpass[elasticsearch]"'
OTHER_PRODUCT = "answers, but not as an Elasticsearch 8 or 9 does"


def need_elasticsearch() -> None:
    """Import elasticsearch-py.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import elasticsearch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtra(INSTALL) from error


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
    return failures.refused(ELASTICSEARCH, who, error.status_code, described(error))


def silence(error: Exception) -> str:
    """Why there was no answer, in words, without anything that the URL may hold."""
    from elastic_transport import ConnectionTimeout, SerializationError, TlsError

    if isinstance(error, SerializationError):
        return failures.not_json(ELASTICSEARCH)
    if isinstance(error, ConnectionTimeout):
        return failures.late()
    if isinstance(error, TlsError):
        return failures.no_tls(ELASTICSEARCH, error)
    return failures.unreachable(error)


def kind(error: ApiError) -> str:
    """The type that Elasticsearch gives the error, "" if it gives none."""
    inner = described(error)
    return str(inner.get("type", "")) if isinstance(inner, dict) else ""


def reason(error: ApiError) -> str:
    """The reasons in the answer, on one line."""
    return failures.told(described(error))


def described(error: ApiError) -> Any:
    """What the answer's body has under "error", or the client's own words if it has nothing there."""
    body: Any = error.body
    return (body.get("error") if isinstance(body, dict) else None) or error.message
