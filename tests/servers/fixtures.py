"""Servers as fixtures: started once a session when the first test asks, skipped with the reason when there are none.

With SECONDPASS_STACKS=1 a missing server is an error instead. Tests share a server: each uses an index name of its own
and deletes it. A test marked `stacks` runs with SECONDPASS_STACKS=1 only: what it proves of one engine, another test
proves of the other in every run, and it takes a server's start or two.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NoReturn, TypeVar

import pytest

from tests.servers.archives import KINDS, Kind
from tests.servers.installing import installation
from tests.servers.instance import Server
from tests.servers.problems import NoServer
from tests.servers.security import Access
from tests.servers.sources import plain_server, secure_server, tell

MUST = "SECONDPASS_STACKS"
OwnServer = Callable[[], AbstractContextManager[Server]]
T = TypeVar("T")


def asked() -> bool:
    """Whether SECONDPASS_STACKS is set, and not to 0."""
    return os.environ.get(MUST, "0") not in {"", "0"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests marked `stacks` to `make test-stacks`; tell several workers what to keep together.

    First of all plugins: a worker of xdist reads the groups in the same hook.
    """
    for item in items:
        if not asked() and item.get_closest_marker("stacks"):
            item.add_marker(pytest.mark.skip(reason="`make test-stacks` runs it"))
        if config.pluginmanager.hasplugin("xdist"):
            item.add_marker(pytest.mark.xdist_group(together(item)))


def together(item: pytest.Item) -> str:
    """The engine whose servers a test shares, so that one worker starts them; else its file, with its fixtures."""
    words = set(getattr(item, "fixturenames", ()))
    if callspec := getattr(item, "callspec", None):
        words |= {value for value in callspec.params.values() if isinstance(value, str)}
    for kind in KINDS:
        if words & {kind, f"{kind}_url", f"secure_{kind}", f"own_{kind}"}:
            return kind
    return item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def elasticsearch_url() -> Iterator[str]:
    """The address of an Elasticsearch without security."""
    yield from running(plain_server("elasticsearch"))


@pytest.fixture(scope="session")
def opensearch_url() -> Iterator[str]:
    """The address of an OpenSearch without security, with k-NN, ML Commons and neural-search."""
    yield from running(plain_server("opensearch"))


@pytest.fixture(scope="session")
def secure_elasticsearch() -> Iterator[Access]:
    """An Elasticsearch with TLS, a user and an API key."""
    yield from running(secure_server("elasticsearch"))


@pytest.fixture(scope="session")
def secure_opensearch() -> Iterator[Access]:
    """An OpenSearch with TLS and a user."""
    yield from running(secure_server("opensearch"))


@pytest.fixture
def own_elasticsearch() -> OwnServer:
    """Make servers of this test's own, to kill and to start again: call it in a `with`."""
    return _own("elasticsearch")


@pytest.fixture
def own_opensearch() -> OwnServer:
    """Make servers of this test's own, to kill and to start again: call it in a `with`."""
    return _own("opensearch")


def running(server: AbstractContextManager[T]) -> Iterator[T]:
    """Give what the server's context gives, or say why there is none."""
    with contextlib.ExitStack() as stack:
        try:
            given = stack.enter_context(server)
        except NoServer as missing:
            absent(missing)
        yield given


def _own(kind: Kind) -> OwnServer:
    try:
        home = installation(kind, tell)
    except NoServer as missing:
        absent(NoServer(f"no {kind} of a test's own: {missing}"))
    return lambda: Server(kind, home)


def absent(missing: NoServer) -> NoReturn:
    """Skip the test, or fail it where servers are asked for.

    Raises:
        NoServer: With SECONDPASS_STACKS set, and not to 0.
    """
    if asked():
        raise missing
    pytest.skip(str(missing))
