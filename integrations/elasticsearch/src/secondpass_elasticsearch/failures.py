"""Errors of elasticsearch-py as one clear line each: the server is named, credentials never are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput, MissingExtra, SecondPassError

if TYPE_CHECKING:
    from elasticsearch import ApiError

LONGEST = 400
INSTALL = 'elasticsearch-py is not installed: pip install "secondpass[elasticsearch]"'
MISSING_INDEX = "index_not_found_exception"
LOGIN = (
    "the server wants valid credentials (401): set ELASTIC_API_KEY, or ELASTIC_USERNAME and ELASTIC_PASSWORD, "
    "in the environment"
)


class ElasticsearchFailure(SecondPassError, RuntimeError):
    """Elasticsearch did not do what was asked; the message names the server and what it said."""


class NoAnswer(ElasticsearchFailure):
    """There was no answer: nobody listens, the time is over, or TLS failed."""


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
    """Turn what the client raises inside into a `SecondPassError` that names `server`.

    Raises:
        NoAnswer: no connection, no answer in time, or no TLS.
        InvalidInput: the server refuses the request as wrong (400), or has no such index (404).
        ElasticsearchFailure: everything else.
    """
    from elastic_transport import TransportError
    from elasticsearch import ApiError, UnsupportedProductError

    try:
        yield
    except UnsupportedProductError as error:
        raise ElasticsearchFailure(f"{server} answers, but not as an Elasticsearch 8 or 9 does") from error
    except ApiError as error:
        raise refused(server, error) from error
    except TransportError as error:
        raise NoAnswer(f"{server}: {silence(error)}") from error


def refused(server: str, error: ApiError) -> SecondPassError:
    """The error for an answer with a status of 300 or more."""
    said = reason(error)
    if error.status_code == 401:
        return ElasticsearchFailure(f"{server}: {LOGIN}")
    if error.status_code == 403:
        return ElasticsearchFailure(f"{server}: not allowed (403): {said}")
    if error.status_code == 429:
        return ElasticsearchFailure(f"{server}: too busy (429): {said}")
    if error.status_code == 404 and kind(error) == MISSING_INDEX:
        return InvalidInput(f"{server}: {said}; create it with `secondpass elasticsearch create`")
    if error.status_code == 400:
        return InvalidInput(f"{server} refuses this: {said}")
    return ElasticsearchFailure(f"{server}: status {error.status_code}: {said}")


def silence(error: Exception) -> str:
    """Why there was no answer, in words, without anything that the URL may hold."""
    from elastic_transport import ConnectionTimeout, SerializationError, TlsError

    if isinstance(error, SerializationError):
        return "the answer is not the JSON that it should be"
    if isinstance(error, ConnectionTimeout):
        return "no answer in time"
    if isinstance(error, TlsError):
        return "TLS failed: is it an https server whose authority is in ELASTICSEARCH_CA_FILE?"
    found = _system_error(error)
    return f"cannot be reached{f' ({found})' if found else ''}"


def kind(error: ApiError) -> str:
    """The type that Elasticsearch gives the error, "" if it gives none."""
    described = _described(error)
    return str(described.get("type", ""))


def reason(error: ApiError) -> str:
    """The most telling reason in the answer, on one line."""
    described = _described(error)
    causes = described.get("root_cause") or []
    found = [str(cause.get("reason")) for cause in causes[:1] if isinstance(cause, dict) and cause.get("reason")]
    deeper = described
    while isinstance(deeper.get("caused_by"), dict):
        deeper = deeper["caused_by"]
    deepest = deeper.get("reason")
    if deepest and str(deepest) not in " ".join(found):
        found.append(str(deepest))
    return one_line("; ".join(found) or str(described.get("type") or error.message))


def one_line(text: str) -> str:
    """Text with white space squeezed, at most `LONGEST` characters of it."""
    squeezed = " ".join(text.split())
    return squeezed if len(squeezed) <= LONGEST else squeezed[: LONGEST - 1] + "…"


def _described(error: ApiError) -> dict[str, Any]:
    body: Any = error.body
    inner = body.get("error") if isinstance(body, dict) else None
    if isinstance(inner, dict):
        return inner
    return {"reason": inner} if isinstance(inner, str) else {}


def _system_error(error: BaseException) -> str:
    """What the operating system said, such as "Connection refused"; the client keeps it in a chain of causes."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        waiting += [*getattr(found, "errors", ()), found.__cause__, found.__context__, *found.args]
        waiting.append(getattr(found, "reason", None))
    return ""
