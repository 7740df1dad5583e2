"""What a client is told when there is no answer: a status, a sentence, and never a text of the request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from secondpass.errors import DeadlineExceeded, InvalidInput, NonFiniteScore, OutOfMemory, Overloaded

RETRY_AFTER_S = 1
# What nginx logs for a client that went away; nobody receives it.
CLIENT_GONE = 499


class Problem(Exception):
    """A request that gets no scores: HTTP `status`, a `reason` of one word for metrics, a message for the client."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.headers = dict(headers or {})


def invalid(message: str) -> Problem:
    """A body that was read and cannot be meant: 422."""
    return Problem(422, "invalid", message)


def overloaded(message: str) -> Problem:
    """Too much is going on: 429, to be repeated."""
    return Problem(429, "overloaded", message, {"Retry-After": str(RETRY_AFTER_S)})


def stopping() -> Problem:
    """The service is leaving: 503, to be repeated elsewhere."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Connection": "close"}
    return Problem(503, "stopping", "the service is stopping", headers)


def client_gone() -> Problem:
    """The client went away: 499."""
    return Problem(CLIENT_GONE, "client_gone", "the client went away")


def misdirected() -> Problem:
    """Asked under the name of another host: 421."""
    return Problem(421, "host", "a service without keys on this machine answers to its address or localhost as Host")


def head_too_large(most: int) -> Problem:
    """A request line and headers, or what stands around a body, without end: 431."""
    return Problem(431, "head_too_large", f"the headers have more than {most} bytes", {"Connection": "close"})


def slow_head(seconds: float) -> Problem:
    """A request line or header that does not come: 408."""
    return Problem(408, "slow_head", f"no request came within {seconds:g} s", {"Connection": "close"})


def no_descriptors() -> Problem:
    """As many connections as the process may have files: 503, to be repeated."""
    headers = {"Retry-After": str(RETRY_AFTER_S), "Connection": "close"}
    return Problem(503, "connections", "no file descriptors are left for another connection", headers)


def late(seconds: float) -> Problem:
    """No answer within the deadline: 504."""
    return Problem(504, "deadline", f"no answer within the deadline of {seconds:g} s")


def from_error(error: Exception) -> Problem:
    """What an error of the library means to a client; messages of other errors may hold texts and stay inside."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, InvalidInput):
        return invalid(str(error))
    if isinstance(error, Overloaded):
        return overloaded(str(error))
    if isinstance(error, DeadlineExceeded):
        return Problem(504, "deadline", str(error))
    if isinstance(error, (NonFiniteScore, OutOfMemory)):
        return Problem(500, "model", str(error))
    return Problem(500, "internal", "the service failed; its log has the request id and where")


def of_validation(errors: Iterable[Mapping[str, Any]]) -> str:
    """Pydantic's findings as one sentence with the place of each, three at most; what was given is not repeated."""
    said = ((_place(error["loc"]), str(error["msg"]).removeprefix("Value error, ")) for error in errors)
    told = list(dict.fromkeys(f"{place}: {message}" for place, message in said))
    more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
    return "; ".join(told[:3]) + more


def _place(location: Iterable[object]) -> str:
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part != "body" and not str(part).endswith("-shape"):
            place += f".{part}" if place else str(part)
    return place or "the body"


# What text-embeddings-inference calls the reasons; everything else that a client did wrong is "Validation".
TEI_TYPES = {
    "empty": "Empty", "overloaded": "Overloaded", "stopping": "Unhealthy",
    "deadline": "Backend", "model": "Backend", "internal": "Backend",
}  # fmt: skip


def body_of(problem: Problem, request_id: str, tei: bool = False) -> dict[str, str]:
    """The body of an error; Cohere's clients read `message`, Jina's and vLLM's `detail`, the others `error`.

    `tei`: `error_type` is one of text-embeddings-inference's.
    """
    text, kind = problem.message, problem.reason
    kind = TEI_TYPES.get(kind, "Validation") if tei else kind
    return {"message": text, "detail": text, "error": text, "error_type": kind, "request_id": request_id}
