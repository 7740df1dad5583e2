"""Bodies are bounded while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from secondpass.serving.problems import Problem
from secondpass.serving.reading import check_headers, read_body

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "application/vnd.x+json", "Application/JSON"]
)
def test_json_is_taken(kind: str) -> None:
    """With parameters and suffixes."""
    check_headers({"content-type": kind}, 10)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"content-encoding": "gzip"}, 415),
        (JSON | {"content-length": "11"}, 413),
        (JSON | {"content-length": "9" * 5000}, 413),
    ],
)
def test_what_the_headers_tell_is_refused_unread(headers: dict[str, str], status: int) -> None:
    """Other types, compressed bodies, too many bytes."""
    with pytest.raises(Problem) as refused:
        check_headers(headers, 10)
    assert refused.value.status == status


def giving(*messages: dict[str, Any]) -> tuple[Callable[[], Awaitable[dict[str, Any]]], list[dict[str, Any]]]:
    """A `receive` that gives these messages and then nothing for ever, and what is left of them."""
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive, left


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    """A message with a part of the body."""
    return {"type": "http.request", "body": body, "more_body": more}


async def test_parts_are_joined() -> None:
    """Empty ones too."""
    receive, _ = giving(part(b"ab"), part(b""), part(b"c", more=False))
    assert await read_body(receive, 3, 5) == b"abc"


async def test_reading_stops_at_the_limit() -> None:
    """Not after the whole body has come."""
    receive, left = giving(*[part(b"x" * 10)] * 100)
    with pytest.raises(Problem) as refused:
        await read_body(receive, 25, 5)
    assert refused.value.status == 413
    assert refused.value.headers == {"Connection": "close"}
    assert len(left) == 97


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    """408."""
    receive, _ = giving(part(b"x"))
    with pytest.raises(Problem) as refused:
        await read_body(receive, 25, 0.01)
    assert refused.value.status == 408


async def test_a_client_that_goes_ends_reading() -> None:
    """499."""
    receive, _ = giving(part(b"x"), {"type": "http.disconnect"})
    with pytest.raises(Problem) as refused:
        await read_body(receive, 25, 5)
    assert refused.value.status == 499
