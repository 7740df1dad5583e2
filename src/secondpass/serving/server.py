"""The application on a socket, until it is told to stop and has finished what it accepted."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from secondpass.errors import InvalidInput
from secondpass.serving.answering import Service
from secondpass.serving.application import create_app
from secondpass.serving.settings import Settings
from secondpass.serving.telemetry import Admission, JsonLines, logger

# After the last deadline everything has been answered; a little more for writing it out.
WRITE_OUT_S = 5.0


class DrainingServer(uvicorn.Server):
    """uvicorn that keeps listening while it finishes: `/ready` and new requests get 503 instead of no connection."""

    def __init__(self, config: uvicorn.Config, admission: Admission, settings: Settings) -> None:
        super().__init__(config)
        self._admission = admission
        self._settings = settings
        self._delay_s = settings.shutdown_delay_s
        self._at_last_s = settings.shutdown_delay_s + settings.deadline_s + WRITE_OUT_S

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal, leave at the second."""
        if self._admission.draining:
            self.should_exit = self.force_exit = True
        else:
            self._admission.drain()
            logger.info("stopping", extra={"fields": {"signal": sig, "in_flight": self._admission.in_flight}})

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so once it is true."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            fields = {"address": address, "settings": self._settings.redacted() | {"port": port}}
            logger.info("serving", extra={"fields": fields})

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to leave."""
        return await super().on_tick(counter) or self._admission.drained(self._delay_s, self._at_last_s)


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; returns when everything accepted was answered.

    Raises:
        InvalidInput: the address cannot be listened on, or a model is refused.
        ModelLoadError: a model cannot be had.
    """
    with logs_as_json(), _bound(settings.host, settings.port) as listener:
        app = create_app(settings)
        service: Service = app.state.service
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=settings.keep_alive_s,
            timeout_graceful_shutdown=int(WRITE_OUT_S),
            ws="none",
        )
        DrainingServer(config, service.admission, settings).run([listener])
        logger.info("stopped")


@contextmanager
def logs_as_json() -> Iterator[None]:
    """Send the service's and uvicorn's records to stderr, a JSON object a line; afterwards all is as it was."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    named = {logging.getLogger("secondpass"): logging.INFO, logging.getLogger("uvicorn"): logging.WARNING}
    before = [(each, each.handlers, each.level, each.propagate) for each in named]
    for each, level in named.items():
        each.handlers, each.propagate = [handler], False
        each.setLevel(level)
    try:
        yield
    finally:
        for each, handlers, level, propagate in before:
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)


def _bound(host: str, port: int) -> socket.socket:
    """A socket on the address, not listening yet: clients are refused until the models are there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(f"cannot listen on {host} port {port}: {reason}") from None
    return listener
