"""The body of a request, bounded while it is read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

from starlette.types import Receive

from secondpass.serving.problems import CLIENT_GONE, Problem

JSON_TYPE = re.compile(r"application/(?:json|[\w.+-]+\+json)", re.IGNORECASE)
# Digits of a length that is certainly too much; thousands of them cannot even be read.
LONGEST_NUMBER = 18


def check_headers(headers: Mapping[str, str], max_bytes: int) -> None:
    """Refuse by the headers alone what would be refused after reading.

    A browser sends JSON to another site only after asking it, so insisting on the content type also keeps web pages
    from using a service on their visitor's machine.

    Raises:
        Problem: 415 for another content type or a compressed body, 413 for too many bytes.
    """
    if not JSON_TYPE.fullmatch(headers.get("content-type", "").partition(";")[0].strip()):
        raise Problem(415, "content_type", "send the body as JSON with Content-Type: application/json")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "content_type", "send the body without Content-Encoding")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > LONGEST_NUMBER or int(length) > max_bytes):
        raise too_large(max_bytes)


async def read_body(receive: Receive, max_bytes: int, seconds: float) -> bytes:
    """Read a body of at most `max_bytes` within `seconds`.

    Raises:
        Problem: 413, 408, or 499 when the client went away.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, max_bytes)
    except TimeoutError:
        message = f"the body did not arrive within {seconds:g} s"
        raise Problem(408, "slow_body", message, {"Connection": "close"}) from None


async def _read(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(CLIENT_GONE, "client_gone", "the client went away")
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def too_large(max_bytes: int) -> Problem:
    """A body above the limit: 413, and the connection closes so that nobody sends the rest."""
    return Problem(413, "too_large", f"the body has more than {max_bytes} bytes", {"Connection": "close"})
