"""What a server or its silence says, in one line: engine, host and index are named, credentials never are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from secondpass.errors import InvalidInput, Overloaded, SecondPassError
from secondpass_servers.contract import Outcome, SearchEngine

LONGEST = 400
STATUSES = {403: "not allowed", 429: "too busy"}
NO_INDEX = "index_not_found_exception"
OBJECTS = re.compile(r"<[^>]*>:? ?|HTTPS?ConnectionPool\([^)]*\): ?")
# Statuses of one document that may pass by themselves: too busy, or a shard that moves.
LATER = (429, 502, 503, 504)


def refused(engine: SearchEngine, who: str, status: int, error: Any) -> SecondPassError:
    """The error for an answer with a status of 300 or more; `error` is what its body has under "error".

    InvalidInput for a request that is wrong (400) or an index that is not there, Overloaded for 429.
    """
    line = status_line(engine, who, status, error)
    if status == 429:
        return Overloaded(line)
    if status == 400 or is_missing_index(status, error):
        return InvalidInput(line)
    return SecondPassError(line)


def status_line(engine: SearchEngine, who: str, status: int, error: Any) -> str:
    """One line about an answer with a status of 300 or more."""
    said = told(error)
    # A service behind the engine that refuses its key gives a search the same status.
    if status == 401 and "remote" not in said:
        return f"{who}: valid credentials are needed (401): set {engine.login} in the environment"
    if is_missing_index(status, error):
        return f"{who}: {said}; create it with `secondpass {engine.command} create`"
    if status == 400:
        return f"{who} refuses this: {said}"
    return f"{who}: {STATUSES[status]} ({status}): {said}" if status in STATUSES else f"{who}: status {status}: {said}"


def is_missing_index(status: int, error: Any) -> bool:
    """Whether an index is not there."""
    return status == 404 and isinstance(error, Mapping) and error.get("type") == NO_INDEX


def index_is_there(who: str, name: str) -> InvalidInput:
    """The error for an index that is to be made and exists."""
    return InvalidInput(f"{who} has an index {name!r} already, and it is left as it is: take another name")


def unreachable(error: BaseException) -> str:
    """What is said, after the server's name, of one that nobody reaches."""
    return f"cannot be reached ({cause(error)})"


def late(seconds: float | None = None) -> str:
    """What is said of an answer that did not come in time."""
    return "no answer in time" if seconds is None else f"no answer within {seconds:g} s"


def no_tls(engine: SearchEngine, error: BaseException) -> str:
    """What is said of a connection that could not be encrypted."""
    return f"TLS failed ({cause(error)}): is it an https server whose authority is in {engine.authority}?"


def not_json(engine: SearchEngine) -> str:
    """What is said of an answer that is not JSON."""
    return f"the answer is not the JSON that it should be: is it an {engine.title}?"


def told(error: Any) -> str:
    """The reasons in an error object of either engine, outermost first, each once, on one line."""
    reasons: list[str] = []
    while isinstance(error, Mapping):
        text = str(error.get("reason") or error.get("type") or "")
        if text and not any(text in known for known in reasons):
            reasons.append(text)
        error = error.get("caused_by") or _first_reason(error)
    if isinstance(error, str) and error.strip():
        reasons.append(error)
    return one_line(": ".join(reasons)) or "no reason given"


def _first_reason(error: Mapping[str, Any]) -> Any:
    """Why a shard failed, or the first root cause if that is another error than this one."""
    for key in ("failed_shards", "root_cause"):
        found = error.get(key)
        if isinstance(found, list) and found and isinstance(found[0], Mapping):
            inner = found[0].get("reason") if key == "failed_shards" else found[0]
            if inner:
                return inner
    return None


def cause(error: BaseException) -> str:
    """Why there is no connection: the system's own words, such as "Connection refused", or the innermost reason."""
    innermost = error
    for found in _causes(error):
        if isinstance(found, OSError) and found.strerror:
            return one_line(found.strerror)
        innermost = found
    text = one_line(OBJECTS.sub("", str(innermost)))
    return text or type(innermost).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Everything that clients chain: `errors`, causes, contexts, arguments, `reason` and `info`, each once."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        several = getattr(found, "errors", ())
        waiting += [*(several if isinstance(several, tuple | list) else ()), found.__cause__, found.__context__]
        waiting += [*found.args, getattr(found, "reason", None), getattr(found, "info", None)]


def one_line(text: str) -> str:
    """Text with white space squeezed, at most `LONGEST` characters of it."""
    squeezed = " ".join(text.split())
    return squeezed if len(squeezed) <= LONGEST else squeezed[: LONGEST - 1] + "…"


def outcome_of(document_id: str, answer: Mapping[str, Any]) -> Outcome:
    """Indexed, refused with the reason, or refused for now; an answer without a status is a refusal for good."""
    error, status = answer.get("error"), int(answer.get("status", 500))
    if error is None and 200 <= status < 300:
        return Outcome(document_id, replaced=answer.get("result") == "updated")
    reason = told(error) if error else f"status {status}"
    return Outcome(document_id, reason, again=status in LATER)
