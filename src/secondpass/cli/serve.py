"""`secondpass serve`: the second pass over HTTP; `secondpass play`: a page that shows it on a corpus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from secondpass.cli import arguments
from secondpass.cli.arguments import DEMO
from secondpass.cli.output import note
from secondpass.errors import InvalidInput
from secondpass.forwards.precision import Precision
from secondpass.serving.settings import (
    Settings,
    instructed,
    keeping,
    model_source,
    probable,
    read_keys,
    require_libraries,
    shadows_of,
)
from secondpass.windows import Select


def _option(name: str, about: str, *flags: str, **bounds: Any) -> Any:
    """An option that the environment variable SECONDPASS_`name` sets too."""
    return typer.Option(*flags, envvar=f"SECONDPASS_{name}", help=about, **bounds)


Models = Annotated[
    list[str] | None,
    _option(
        "MODEL",
        "name=folder, a folder or a hub name; the first is the default. name=small,large is a cascade.",
        "--model",
        "-m",
    ),
]
Instructions = Annotated[
    list[str],
    typer.Option(
        "--instruction",
        help="What a model is told to look for: name=text, or a text for all. [env var: SECONDPASS_INSTRUCTION, one a "
        "line]",
        # a list that typer takes from a variable is cut at blanks, and an instruction has blanks
        default_factory=lambda: os.environ.get("SECONDPASS_INSTRUCTION", "").splitlines(),
        show_default=False,
    ),
]
Calibrations = Annotated[
    list[str] | None,
    _option(
        "CALIBRATION", "File that makes probabilities of a model's scores: name=file, or one file.", "--calibration"
    ),
]
Keep = Annotated[
    list[str] | None,
    _option("KEEP", "Documents that go on in a cascade: 100, one for each step (500,100), or name=100.", "--keep"),
]
Shadows = Annotated[
    list[str] | None,
    _option(
        "SHADOW",
        "name=next: next scores a share of name's answers too; /metrics tells how they agree.",
        "--shadow",
    ),
]
ShadowShare = Annotated[float, _option("SHADOW_SHARE", "Share of the answers.", min=0, max=1)]
KeysFile = Annotated[Path | None, _option("API_KEYS_FILE", "API keys, one a line; or set SECONDPASS_API_KEYS.")]
ShutdownDelay = Annotated[
    float, _option("SHUTDOWN_DELAY_S", "After a signal, stay this long answering 503 to be noticed.", min=0)
]


CORPUS_HELP = "a BEIR folder, JSON Lines or a table of ids and texts; secondpass/demo when absent"


def serve(
    context: typer.Context,
    *,
    model: Models = None,
    host: Annotated[str, _option("HOST", "Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, _option("PORT", "0 takes a free one.", "--port", "-p", min=0, max=65535)] = 8000,
    api_keys_file: KeysFile = None,
    without_keys: Annotated[bool, _option("WITHOUT_KEYS", "Let others in without a key.", "--without-keys")] = False,
    open_metrics: Annotated[bool, _option("OPEN_METRICS", "/metrics needs no key.", "--open-metrics")] = False,
    docs: Annotated[bool, _option("DOCS", "Offer Swagger's pages at /docs.", "--docs")] = False,
    playground: Annotated[bool, _option("PLAYGROUND", "Offer a page at /playground.", "--playground")] = False,
    corpus: Annotated[Path | None, _option("CORPUS", f"What its first pass searches: {CORPUS_HELP}.")] = None,
    trace_texts: Annotated[bool, _option("TRACE_TEXTS", "Put texts into spans.", "--trace-texts")] = False,
    max_requests: Annotated[int, _option("MAX_REQUESTS", "Requests at once; then 429.", min=1)] = 256,
    max_documents: Annotated[int, _option("MAX_DOCUMENTS", "Documents of a request; then 422.", min=1)] = 1000,
    max_body_bytes: Annotated[int, _option("MAX_BODY_BYTES", "Bytes of a body; then 413.", min=1)] = 10_000_000,
    max_characters: Annotated[int, _option("MAX_CHARACTERS", "Characters of one text; then 422.", min=1)] = 1_000_000,
    max_waiting_pairs: Annotated[int, _option("MAX_WAITING_PAIRS", "Pairs that wait; then 429.", min=1)] = 20_000,
    max_waiting_tokens: Annotated[int, _option("MAX_WAITING_TOKENS", "The same for their tokens.", min=1)] = 4_000_000,
    max_wait_ms: Annotated[float, _option("MAX_WAIT_MS", "How long an idle model waits for company.", min=0)] = 0.0,
    deadline_s: Annotated[float, _option("DEADLINE_S", "Seconds to an answer; then 504.", min=0.001)] = 30.0,
    head_s: Annotated[float, _option("HEAD_S", "Seconds for a request line and headers; then 408.", min=0.001)] = 5.0,
    shutdown_delay_s: ShutdownDelay = 0.0,
    keep_alive_s: Annotated[int, _option("KEEP_ALIVE_S", "Seconds that an idle connection stays open.", min=1)] = 75,
    max_length: Annotated[int | None, _option("MAX_LENGTH", arguments.MAX_LENGTH_HELP, min=1)] = None,
    device: Annotated[str | None, _option("DEVICE", arguments.DEVICE_HELP)] = None,
    precision: Annotated[Precision | None, _option("PRECISION", arguments.PRECISION_HELP)] = None,
    instruction: Instructions,
    template: Annotated[str | None, _option("TEMPLATE", arguments.TEMPLATE_HELP)] = None,
    true_token: Annotated[str | None, _option("TRUE_TOKEN", arguments.TRUE_HELP)] = None,
    false_token: Annotated[str | None, _option("FALSE_TOKEN", arguments.FALSE_HELP)] = None,
    token_cache_mb: Annotated[int, _option("TOKEN_CACHE_MB", "MiB for documents' tokens; 0 for none.", min=0)] = 64,
    long: Annotated[arguments.Truncation | None, _option("LONG", arguments.LONG_HELP)] = None,
    window_tokens: Annotated[int | None, _option("WINDOW_TOKENS", arguments.WINDOW_TOKENS_HELP, min=1)] = None,
    window_overlap: Annotated[int | None, _option("WINDOW_OVERLAP", arguments.OVERLAP_HELP, min=0)] = None,
    max_windows: Annotated[int | None, _option("MAX_WINDOWS", arguments.MAX_WINDOWS_HELP, min=1)] = None,
    select: Annotated[Select | None, _option("SELECT", arguments.SELECT_HELP)] = None,
    score_cache: Annotated[str | None, _option("SCORE_CACHE", "File that keeps scores; or :memory:.")] = None,
    score_cache_mb: Annotated[int, _option("SCORE_CACHE_MB", "MiB that it has.", min=1)] = 256,
    keep: Keep = None,
    calibration: Calibrations = None,
    shadow: Shadows = None,
    shadow_share: ShadowShare = 0.1,
) -> None:
    """Answer rerank requests over HTTP: the APIs of Cohere, Jina, vLLM, Voyage and text-embeddings-inference.

    Logs are JSON lines on stderr and hold no texts. SIGTERM or Ctrl-C finishes what was accepted, SIGHUP loads the
    models anew, and reads the file of keys.

    [bold]Examples[/bold]

    secondpass serve

    secondpass serve --model pocket=secondpass/pocket --model big=models/big --port 9000

    secondpass serve --model best=secondpass/pocket,models/big --keep 50 --long windows --score-cache scores.db

    secondpass serve --playground --corpus help_centre.jsonl

    SECONDPASS_API_KEYS=$(cat keys) secondpass serve --host 0.0.0.0
    """
    models = instructed(map(model_source, model or [arguments.POCKET]), instruction)
    settings = Settings(
        models=probable(keeping(models, keep or ()), calibration or ()), keys=read_keys(os.environ, api_keys_file),
        truncation=arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select), template=template,
        max_waiting_tokens=max_waiting_tokens, max_waiting_pairs=max_waiting_pairs, shutdown_delay_s=shutdown_delay_s,
        max_body_bytes=max_body_bytes, score_cache_mb=score_cache_mb, max_characters=max_characters, device=device,
        token_cache_mb=token_cache_mb, max_documents=max_documents, without_keys=without_keys, false_token=false_token,
        open_metrics=open_metrics, keep_alive_s=keep_alive_s, max_requests=max_requests, score_cache=score_cache,
        max_wait_ms=max_wait_ms, max_length=max_length, true_token=true_token, deadline_s=deadline_s, head_s=head_s,
        shadows=shadows_of(shadow or ()), shadow_share=shadow_share, precision=precision, trace_texts=trace_texts,
        playground=_searched(playground, corpus, context), docs=docs, host=host, port=port,
    )  # fmt: skip
    require_libraries()
    from secondpass.serving.server import serve as run

    run(settings)


def _searched(playground: bool, corpus: Path | None, context: typer.Context) -> str | None:
    """The corpus of the playground; None: there is none."""
    source = context.get_parameter_source("corpus")
    # the variable is Hayhooks' wrappers' too, and may be set for them
    if not playground and source is not None and source.name == "COMMANDLINE":
        raise InvalidInput("--corpus goes with --playground")
    return str(corpus or DEMO) if playground else None


def play(
    corpus: Annotated[Path, typer.Argument(help=f"What the first pass searches: {CORPUS_HELP}.")] = Path(DEMO),
    *,
    model: Models = None,
    port: Annotated[int, _option("PORT", "0 takes a free one.", "--port", "-p", min=0, max=65535)] = 8000,
    max_length: Annotated[int | None, _option("MAX_LENGTH", arguments.MAX_LENGTH_HELP, min=1)] = None,
    device: Annotated[str | None, _option("DEVICE", arguments.DEVICE_HELP)] = None,
    precision: Annotated[Precision | None, _option("PRECISION", arguments.PRECISION_HELP)] = None,
    keep: Keep = None,
    calibration: Calibrations = None,
) -> None:
    """Look at both passes over a corpus in the browser: what moved, why, and how long it took.

    It is `secondpass serve --playground`, for this machine alone; that command has all other options.

    [bold]Examples[/bold]

    secondpass play

    secondpass play help_centre.jsonl --model small=models/small --model pocket=secondpass/pocket
    """
    models = keeping(map(model_source, model or [arguments.POCKET]), keep or ())
    settings = Settings(
        models=probable(models, calibration or ()), playground=str(corpus), port=port, max_length=max_length,
        device=device, precision=precision,
    )  # fmt: skip
    require_libraries()
    from secondpass.serving.server import serve as run

    note(f"http://{settings.host}:{port}/playground in a moment; Ctrl-C ends it" if port else "Ctrl-C ends it")
    run(settings)
