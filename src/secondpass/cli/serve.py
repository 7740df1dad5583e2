"""`secondpass serve`: the second pass over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from secondpass.cli import arguments
from secondpass.forwards import precision as precisions
from secondpass.serving.settings import Settings, model_source, read_keys, require_libraries

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
    precisions.Precision | None, typer.Option(envvar="SECONDPASS_PRECISION", help=arguments.PRECISION_HELP)
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
        models=tuple(map(model_source, model or [arguments.POCKET])), host=host, port=port,
        keys=read_keys(os.environ, api_keys_file), without_keys=without_keys, open_metrics=open_metrics,
        max_requests=max_requests, max_documents=max_documents, max_body_bytes=max_body_bytes,
        max_characters=max_characters, max_waiting_pairs=max_waiting_pairs, max_waiting_tokens=max_waiting_tokens,
        max_wait_ms=max_wait_ms, deadline_s=deadline_s, shutdown_delay_s=shutdown_delay_s, keep_alive_s=keep_alive_s,
        max_length=max_length, device=device, precision=precision, token_cache_mb=token_cache_mb,
    )  # fmt: skip
    require_libraries()
    from secondpass.serving.server import serve as run

    run(settings)
