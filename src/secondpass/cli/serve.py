"""`secondpass serve`: the second pass over HTTP."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
import uvicorn

from secondpass.cli import input
from secondpass.errors import InvalidInput
from secondpass.forwards import precision as precisions
from secondpass.serving.answering import Service
from secondpass.serving.application import create_app
from secondpass.serving.settings import Settings, model_source, read_keys, require_libraries
from secondpass.serving.telemetry import Admission, JsonLines, logger

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        envvar="SECONDPASS_MODEL",
        help="name=folder, a folder or a hub name; the first is the default.",
    ),
]
Host = Annotated[str, typer.Option(envvar="SECONDPASS_HOST", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option("--port", "-p", min=0, max=65535, envvar="SECONDPASS_PORT", help="0 takes a free one.")
]
KeysFile = Annotated[
    Path | None,
    typer.Option(envvar="SECONDPASS_API_KEYS_FILE", help="API keys, one a line; or set SECONDPASS_API_KEYS."),
]
WithoutKeys = Annotated[
    bool, typer.Option("--without-keys", envvar="SECONDPASS_WITHOUT_KEYS", help="Let others in without a key.")
]
OpenMetrics = Annotated[
    bool, typer.Option("--open-metrics", envvar="SECONDPASS_OPEN_METRICS", help="/metrics needs no key.")
]
MaxRequests = Annotated[int, typer.Option(min=1, envvar="SECONDPASS_MAX_REQUESTS", help="Requests at once; then 429.")]
MaxDocuments = Annotated[
    int, typer.Option(min=1, envvar="SECONDPASS_MAX_DOCUMENTS", help="Documents of a request; then 422.")
]
MaxBody = Annotated[
    int, typer.Option("--max-body-bytes", min=1, envvar="SECONDPASS_MAX_BODY_BYTES", help="Bytes of a body; then 413.")
]
MaxCharacters = Annotated[
    int, typer.Option(min=1, envvar="SECONDPASS_MAX_CHARACTERS", help="Characters of one text; then 422.")
]
WaitingPairs = Annotated[
    int, typer.Option(min=1, envvar="SECONDPASS_MAX_WAITING_PAIRS", help="Pairs that wait for a model; then 429.")
]
WaitingTokens = Annotated[
    int, typer.Option(min=1, envvar="SECONDPASS_MAX_WAITING_TOKENS", help="The same for their tokens.")
]
WaitMs = Annotated[
    float, typer.Option(min=0, envvar="SECONDPASS_MAX_WAIT_MS", help="How long an idle model waits for company.")
]
Deadline = Annotated[
    float, typer.Option(min=0.001, envvar="SECONDPASS_DEADLINE_S", help="Seconds to an answer; then 504.")
]
Delay = Annotated[
    float,
    typer.Option(
        min=0, envvar="SECONDPASS_SHUTDOWN_DELAY_S", help="After a signal, stay this long answering 503 to be noticed."
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        min=1, envvar="SECONDPASS_MAX_LENGTH", help="Tokens of a pair at most; by default what the model allows."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        envvar="SECONDPASS_DEVICE", help="Where to compute: cpu, cuda, cuda:1, mps; by default the best there is."
    ),
]
Precision = Annotated[
    precisions.Precision | None, typer.Option(envvar="SECONDPASS_PRECISION", help=input.PRECISION_HELP)
]
CacheMb = Annotated[
    int,
    typer.Option(
        min=0, envvar="SECONDPASS_TOKEN_CACHE_MB", help="MiB for tokens of documents seen before; 0 for none."
    ),
]
KeepAlive = Annotated[
    int, typer.Option(min=1, envvar="SECONDPASS_KEEP_ALIVE_S", help="Seconds that an idle connection stays open.")
]


def serve(
    *,
    model: Models = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_keys_file: KeysFile = None,
    without_keys: WithoutKeys = False,
    open_metrics: OpenMetrics = False,
    max_requests: MaxRequests = 256,
    max_documents: MaxDocuments = 1000,
    max_body_bytes: MaxBody = 10_000_000,
    max_characters: MaxCharacters = 1_000_000,
    max_waiting_pairs: WaitingPairs = 20_000,
    max_waiting_tokens: WaitingTokens = 4_000_000,
    max_wait_ms: WaitMs = 0.0,
    deadline_s: Deadline = 30.0,
    shutdown_delay_s: Delay = 0.0,
    keep_alive_s: KeepAlive = 75,
    max_length: MaxLength = None,
    device: Device = None,
    precision: Precision = None,
    token_cache_mb: CacheMb = 64,
) -> None:
    """Answer rerank requests over HTTP: the APIs of Cohere, Jina, vLLM and text-embeddings-inference.

    Logs are JSON lines on stderr and hold no texts. SIGTERM or Ctrl-C finishes what was accepted.

    [bold]Examples[/bold]

    secondpass serve

    secondpass serve --model pocket=secondpass/pocket --model big=models/big --port 9000

    SECONDPASS_API_KEYS=$(cat keys) secondpass serve --host 0.0.0.0
    """
    settings = Settings(
        models=tuple(map(model_source, model or [input.POCKET])), host=host, port=port,
        keys=read_keys(os.environ, api_keys_file), without_keys=without_keys, open_metrics=open_metrics,
        max_requests=max_requests, max_documents=max_documents, max_body_bytes=max_body_bytes,
        max_characters=max_characters, max_waiting_pairs=max_waiting_pairs, max_waiting_tokens=max_waiting_tokens,
        max_wait_ms=max_wait_ms, deadline_s=deadline_s, shutdown_delay_s=shutdown_delay_s, keep_alive_s=keep_alive_s,
        max_length=max_length, device=device, precision=precision, token_cache_mb=token_cache_mb,
    )  # fmt: skip
    require_libraries()

    run_server(settings)


# ---- The application on a socket, until it is told to stop and has finished what it accepted.
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


def run_server(settings: Settings) -> None:
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
