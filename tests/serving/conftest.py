"""The service on a real socket: one for all tests that only ask, and a maker of others with their own settings."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
import uvicorn

from secondpass import Cascade, CrossEncoder
from secondpass.serving.answering import Service
from secondpass.serving.application import create_app
from secondpass.serving.server import DrainingServer
from secondpass.serving.settings import Settings

KEY = "a-key-of-the-tests-0123456789"


@dataclass(frozen=True)
class Live:
    """A running service: its address, what is inside, and a client."""

    url: str
    service: Service
    client: httpx.Client
    server: DrainingServer


Serve = Callable[..., Live]


@contextmanager
def running(settings: Settings, models: Mapping[str, CrossEncoder | Cascade]) -> Iterator[Live]:
    """Run the service in a thread until the block ends."""
    app = create_app(settings, models)
    service: Service = app.state.service
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws="none", lifespan="on", timeout_graceful_shutdown=5
    )
    server = DrainingServer(config, service.admission, settings)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            yield Live(url, service, client, server)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def pocket() -> CrossEncoder:
    """The model in the package."""
    return CrossEncoder("secondpass/pocket", device="cpu")


@pytest.fixture(scope="session")
def live(tiny: CrossEncoder) -> Iterator[Live]:
    """A service on a tiny model under two names."""
    with running(Settings(max_documents=50), {"tiny": tiny, "other": tiny}) as service:
        yield service


@pytest.fixture
def serve(own_tiny: CrossEncoder) -> Iterator[Serve]:
    """Start services with settings of their own on a tiny model that the test may change."""
    open_ones = []

    def start(**settings: object) -> Live:
        context = running(Settings(**settings), {"tiny": own_tiny})  # type: ignore[arg-type]
        service = context.__enter__()
        open_ones.append(context)
        return service

    yield start
    for context in open_ones:
        context.__exit__(None, None, None)


@dataclass
class Held:
    """A model that waits inside its forward until it is let go."""

    reached: threading.Event
    go: threading.Event


@pytest.fixture
def held(own_tiny: CrossEncoder) -> Iterator[Held]:
    """Hold the model of `serve` in its first forward."""
    state = Held(threading.Event(), threading.Event())

    def wait(*given: object) -> None:
        state.reached.set()
        assert state.go.wait(60)

    handle = own_tiny.model.register_forward_pre_hook(wait)
    yield state
    state.go.set()
    handle.remove()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; a test that waits in vain fails."""
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
