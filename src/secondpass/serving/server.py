"""The application on a socket, until it is told to stop and has finished what it accepted."""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import json
import math
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from types import FrameType
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from secondpass.errors import InvalidInput
from secondpass.serving.answering import Service
from secondpass.serving.application import create_app
from secondpass.serving.problems import Problem, body_of, head_too_large, no_descriptors, slow_head
from secondpass.serving.settings import Settings
from secondpass.serving.telemetry import Admission, Facts, Metrics, logger, logs_as_json, note
from secondpass.system import open_files

# After the last deadline everything has been answered; a little more for writing it out.
WRITE_OUT_S = 5.0
# Of a request line with headers, or of what is not body around a body (trailers, extensions of chunks).
HEAD_BYTES = 65_536
# Time is up only when nothing has come that waited to be read.
GRACE_S = 0.25
# How long what a refused client still sends is thrown away, so that it gets to read why.
LINGER_S = 1.0
# And so many bytes at most of the rest of a body.
LINGER_BYTES = 24_000_000
# File descriptors that connections leave to the process: for its log, a model's files, and refusing others.
SPARE_FILES = 24
# At most so often a flood of connections is logged.
QUIET_S = 5.0


class Door:
    """What all connections of a server share: settings, metrics, and how many there may be."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.most = sys.maxsize
        self._told = -math.inf
        self._untold = 0

    def measure(self) -> None:
        """Count the file descriptors that are left for connections."""
        most = open_files()
        if most is not None:
            self.most = max(1, most - len(os.listdir("/dev/fd")) - SPARE_FILES)

    def turned_away(self, open_ones: int) -> None:
        """Count, and now and then log, that there is no file descriptor for a connection."""
        self.metrics.turned_away()
        self._untold += 1
        if time.monotonic() - self._told > QUIET_S:
            fields = {"open": open_ones, "refused": self._untold, "why": "no file descriptors are left"}
            logger.warning("connections refused", extra={"fields": fields})
            self._told, self._untold = time.monotonic(), 0


class PlainParser:
    """httptools' parser for a server of HTTP/1.1 alone: who would rather speak another protocol is answered in this.

    Java's clients wish for HTTP/2 with their first request. httptools then stops behind the head and reads no body, so
    the head is read again without that wish.
    """

    def __init__(self, connection: HttpToolsProtocol) -> None:
        self._connection = connection
        self._parser = connection.parser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    @property
    def reads_again(self) -> bool:
        """Whether the head that was read is given up for one without the wish; a tunnel is no wish."""
        return self._parser.should_upgrade() and self._parser.get_method() != b"CONNECT"

    def feed_data(self, data: bytes) -> None:
        """Read on."""
        while True:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as wish:
                if not self.reads_again:
                    raise
                data = self._head() + data[wish.args[0] :]
            else:
                return

    def _head(self) -> bytes:
        version, method = self._parser.get_http_version(), self._parser.get_method()
        lines = [b"%s %s HTTP/%s" % (method, self._connection.url, version.encode("ascii"))]
        lines += [b"%s: %s" % header for header in self._connection.headers if header[0] != b"upgrade"]
        self._parser = httptools.HttpRequestParser(self._connection)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return b"\r\n".join([*lines, b"", b""])


class LingeringTransport:
    """A transport as answers see it: its end waits for what the client still sends of the request.

    A connection that is closed with bytes unread is reset, and the client loses the answer that says why.
    """

    def __init__(self, connection: GuardedConnection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)

    def close(self) -> None:
        """Close, at once or soon."""
        self._connection.leave()


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's connection where everything ends: a head is bounded in bytes and seconds, a reader is waited for."""

    def __init__(self, *given: Any, door: Door, **named: Any) -> None:
        super().__init__(*given, **named)
        self.parser: PlainParser = PlainParser(self)  # type: ignore[assignment]
        self._door = door
        self._unseen = 0  # bytes since the last that were a whole head or a body
        self._in_head = True
        self._in_message = False
        self._refused = False
        self._left_over = LINGER_BYTES  # that are still thrown away of a body whose answer closes the connection
        self._timer: asyncio.TimerHandle | None = None
        self._reader_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, or refuse where no file descriptors are left."""
        super().connection_made(transport)
        if len(self.connections) > self._door.most:
            self._door.turned_away(len(self.connections) - 1)
            self._refuse(no_descriptors(), linger_s=0.0)
        else:
            self._expect(self._door.settings.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        self._expect(None)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read no more of a head than it may have."""
        while data and not self._refused and not self.transport.is_closing():
            room = HEAD_BYTES - self._unseen
            piece, data = data[:room], data[room:]
            self._unseen += len(piece)
            super().data_received(piece)
            if self._unseen >= HEAD_BYTES:
                self._refuse(head_too_large(HEAD_BYTES))
        if self._refused:
            self._left_over -= len(data)
            if self._left_over < 0:
                self.transport.close()
        if not self._refused and not self.transport.is_closing() and not self._is_busy():
            self._wait()

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._in_head = self._in_message = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; what stands behind a body is none, or it would say there who asks and for what host."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """From here on the application's deadline counts."""
        if self.parser.reads_again:
            return
        self._in_head = False
        self._unseen = 0
        self._expect(None)
        super().on_headers_complete()
        self.cycle.transport = LingeringTransport(self)  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unseen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self.parser.reads_again:
            return
        self._in_message = False
        self._unseen = 0
        super().on_message_complete()
        if not self._is_busy():
            self._expect(None)

    def on_response_complete(self) -> None:
        """The rest of a request that was answered before it was whole is not waited for long."""
        if self._refused:
            return
        super().on_response_complete()
        if self._in_message and not self._is_busy() and not self.transport.is_closing():
            self._wait()

    def leave(self) -> None:
        """Close after an answer; a client that still sends the body of that request reads it first."""
        if self._refused:
            return
        if not self._in_message or self._in_head or self.pipeline or self.transport.is_closing():
            self.transport.close()
            return
        self._refused = True
        with suppress(OSError):
            self.transport.write_eof()
        self.flow.resume_reading()
        self._expect(self._door.settings.head_s)

    def pause_writing(self) -> None:
        """A client that does not read its answer is left."""
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def _watch_reader(self, size: int) -> None:
        self._reader_timer = self.loop.call_later(self._door.settings.deadline_s, self._leave_reader, size)

    def _leave_reader(self, before: int) -> None:
        size = self.transport.get_write_buffer_size()
        if size < before:
            self._watch_reader(size)
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        """It reads."""
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None
        super().resume_writing()

    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        """Bytes came, or an answer went, and no request is under way."""
        if self._in_message or self.cycle is None:
            if self._timer is None:
                self._expect(self._door.settings.head_s)
        elif self.timeout_keep_alive_task is None:
            later = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
            self.timeout_keep_alive_task = later

    def _expect(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._late, seconds)

    def _late(self, seconds: float) -> None:
        if seconds != GRACE_S:
            self._expect(GRACE_S)
        elif self._in_head:
            self._refuse(slow_head(self._door.settings.head_s))
        else:
            self.transport.close()

    def _refuse(self, problem: Problem, linger_s: float = LINGER_S) -> None:
        """Answer without the application, and read nothing more."""
        self._refused = True
        self._expect(None)
        self._unset_keepalive_if_required()
        facts = Facts(uuid.uuid4().hex, status=problem.status, reason=problem.reason)
        if self.cycle is not None and not self.cycle.response_complete:
            started, self.cycle.disconnected = self.cycle.response_started, True
            self.cycle.message_event.set()
            if started:
                self.transport.abort()
                return
        note(facts, "other", self._door.metrics)
        body = json.dumps(body_of(problem, facts.request_id)).encode()
        headers = problem.headers | {
            "Content-Type": "application/json", "Content-Length": str(len(body)), "X-Request-ID": facts.request_id,
        }  # fmt: skip
        lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        if linger_s:
            self.transport.write_eof()
            self._timer = self.loop.call_later(linger_s, self.transport.close)
        else:
            self.transport.close()


class DrainingServer(uvicorn.Server):
    """uvicorn that keeps listening while it finishes: `/ready` and new requests get 503 instead of no connection.

    `config.app` is a `create_app`. With `has_process` a second signal ends the process, whatever its threads do.
    """

    def __init__(
        self, config: uvicorn.Config, admission: Admission, settings: Settings, has_process: bool = False
    ) -> None:
        service: Service = config.app.state.service  # type: ignore[union-attr]
        self._door = Door(settings, service.metrics)
        config.http = functools.partial(GuardedConnection, door=self._door)  # type: ignore[assignment]
        super().__init__(config)
        service.metrics.follow_connections(lambda: len(self.server_state.connections))
        self._models = service.models
        self._admission = admission
        self._settings = settings
        self._has_process = has_process
        self._delay_s = settings.shutdown_delay_s
        self._at_last_s = settings.shutdown_delay_s + settings.deadline_s + WRITE_OUT_S
        self._reloading: asyncio.Task[None] | None = None
        self.reload_asked = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal, leave at the second."""
        if not self._admission.draining:
            self._admission.drain()
            logger.info("stopping", extra={"fields": {"signal": sig, "in_flight": self._admission.in_flight}})
        elif self._has_process:
            try:
                logger.warning("stopped at once", extra={"fields": {"signal": sig, "lost": self._admission.in_flight}})
            finally:
                os._exit(128 + sig)
        else:
            self.should_exit = self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so once it is true."""
        asyncio.get_running_loop().set_exception_handler(self._failed)
        await super().startup(sockets)
        self._door.measure()
        self._settle()
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            settings = self._settings.redacted() | {"port": port}
            page = {} if self._settings.playground is None else {"playground": f"{address}/playground"}
            fields = {"address": address, **page, "settings": settings, "digests": self._models.digests}
            logger.info("serving", extra={"fields": fields})

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to leave, and whether to load the models anew."""
        if self.reload_asked and self._reloading is None and not self._admission.draining:
            self.reload_asked = False
            self._reloading = asyncio.create_task(self._reload())
        return await super().on_tick(counter) or self._admission.drained(self._delay_s, self._at_last_s)

    async def _reload(self) -> None:
        try:
            self._settings.keys.renew()
        except InvalidInput as error:
            logger.error("keys refused", extra={"fields": {"why": str(error)}})
        told = {"digests": self._models.digests, "keys": len(self._settings.keys)}
        logger.info("reloading", extra={"fields": told})
        try:
            old = await self._models.reload()
            logger.info("reloaded", extra={"fields": {"digests": self._models.digests}})
            await self._models.retire(old)
            self._settle()
        except Exception as error:
            fields = {"error": type(error).__name__, "why": str(error), "digests": self._models.digests}
            logger.error("reload failed", extra={"fields": fields})
        finally:
            self._reloading = None

    def _settle(self) -> None:
        """What is there now stays: garbage collection, for which every thread waits, need not go through it again."""
        if self._has_process:
            gc.unfreeze()
            gc.collect()
            gc.freeze()

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What the event loop met outside of requests: a connection that could not be accepted, mostly."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._door.turned_away(len(self.server_state.connections))
        else:
            fields = {"what": str(context.get("message")), "error": type(error).__name__}
            logger.error("event loop", extra={"fields": fields})


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT; returns when everything accepted was answered.

    SIGHUP loads the models anew, and reads the file of keys.

    Raises:
        InvalidInput: the address cannot be listened on, or a model is refused.
        ModelLoadError: a model cannot be had.
    """
    with logs_as_json(), _ends(), _bound(settings.host, settings.port) as listener, _hangups() as hangups:
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
        server = DrainingServer(config, service.admission, settings, has_process=True)
        hangups(server)
        server.run([listener])
        logger.info("stopped")
        if service.models.are_loading:
            os._exit(0)  # models that nobody will ask are not waited for


@contextmanager
def _ends() -> Iterator[None]:
    """End at SIGTERM until the server takes it: the first process of a container is not ended by a signal alone."""

    def end(sig: int, frame: FrameType | None) -> None:
        try:
            logger.info("stopped", extra={"fields": {"signal": sig}})
        finally:
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
            os._exit(128 + sig)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _hangups() -> Iterator[Callable[[DrainingServer], None]]:
    """Take SIGHUP from here on; what comes before there is a server waits for it."""
    servers: list[DrainingServer] = []
    early: list[int] = []

    def hung_up(sig: int, frame: FrameType | None) -> None:
        early.append(sig)
        for server in servers:
            server.reload_asked = True

    def hand_over(server: DrainingServer) -> None:
        servers.append(server)
        server.reload_asked = bool(early)

    if threading.current_thread() is not threading.main_thread():
        yield hand_over
        return
    before = signal.signal(signal.SIGHUP, hung_up)
    try:
        yield hand_over
    finally:
        signal.signal(signal.SIGHUP, before)


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
