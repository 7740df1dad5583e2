"""Where a test's server comes from: an address given, Docker, or the published archives; in that order."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.servers.archives import Kind
from tests.servers.containers import containered
from tests.servers.installing import installation
from tests.servers.instance import Server, client
from tests.servers.problems import NoServer
from tests.servers.security import Access


@contextmanager
def plain_server(kind: Kind) -> Iterator[str]:
    """Give the address of a server while the block runs; one of our own is stopped and removed after it.

    Raises:
        NoServer: No way led to a server; the message has a reason for each.
    """
    variable = f"{kind.upper()}_URL"
    if given := os.environ.get(variable):
        yield _answering(given, variable)
        return
    reasons = [f"{variable} is not set"]
    with contextlib.ExitStack() as stack:
        for name, way in (("Docker", containered), ("Maven", from_archives)):
            try:
                url = stack.enter_context(way(kind))
                break
            except NoServer as missing:
                reasons.append(f"{name}: {missing}")
        else:
            raise NoServer(f"no {kind} server: {'; '.join(reasons)}")
        yield url


@contextmanager
def from_archives(kind: Kind) -> Iterator[str]:
    """Run a server from the published archives."""
    with Server(kind, installation(kind, tell)) as server:
        yield server.url


@contextmanager
def secure_server(kind: Kind) -> Iterator[Access]:
    """Run a server with TLS and a user, always from the published archives; Elasticsearch with an API key as well.

    Raises:
        NoServer: There is no Java or no Maven, or the server does not start.
    """
    with Server(kind, installation(kind, tell), secure=True) as server:
        yield with_api_key(server.access) if kind == "elasticsearch" else server.access


def with_api_key(access: Access) -> Access:
    """Make an API key with all rights of the user."""
    with client(access) as asking:
        answer = asking.post("/_security/api_key", json={"name": "secondpass-tests"})
    return dataclasses.replace(access, api_key=answer.raise_for_status().json()["encoded"])


def tell(line: str) -> None:
    """Say what takes long, past pytest's capture of the standard streams."""
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"[servers] {line}\n")
        sys.__stderr__.flush()


def _answering(url: str, variable: str) -> str:
    """Return the address if a server answers there; an error never repeats it, for it may hold a password."""
    url = url.rstrip("/")
    try:
        status = httpx.get(url, timeout=10, trust_env=False).status_code
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise NoServer(f"{variable} is set, but no server answers there: {type(error).__name__}") from None
    if status != 200:
        raise NoServer(f"{variable} is set, but the answer there is HTTP {status}")
    return url
