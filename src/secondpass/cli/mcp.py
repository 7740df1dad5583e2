"""`secondpass mcp`: tools for assistants that speak the Model Context Protocol, over stdin and stdout or loopback HTTP.

`rank` orders texts that it is given, `search` finds documents of a file in two passes, BM25 and the model. Errors of
bad input come back as the tool's, in our words. https://modelcontextprotocol.io/specification
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass.cli import arguments
from secondpass.cli.output import lost_tokens, note
from secondpass.cli.rank import BudgetMs, RelevanceRule, relevance_of
from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass.lazy import optional
from secondpass.text import checked, checked_query, materialised, positive_int, repaired
from secondpass.tracing import reranking

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult, Tool
    from starlette.applications import Starlette

__all__ = ["Tools", "http_app", "server_of"]

HOST = "127.0.0.1"
PATH = "/mcp"
# What `search` gives where nobody says how many.
TOP_K = 10
TEXT = {"type": "string"}
QUERY = {"type": "string", "description": "What is asked, in words."}
COUNT = {"type": "integer", "minimum": 1}
SHARE = {
    "type": "number",
    "minimum": 0,
    "maximum": 1,
    "description": "Leave out documents that are less probably relevant; for models with a calibration.",
}
INSTRUCTION = {"type": "string", "description": "What the model is told to look for, where it has a place for that."}
NUMBER = {"type": "number"}
OUTPUT = {
    "type": "object",
    "properties": {
        "results": {
            "type": "array",
            "description": "Best first.",
            "items": {"type": "object", "properties": {"score": NUMBER}, "required": ["score"]},
        },
        "nothing_relevant": {"type": "boolean", "description": "Whether, by the model's calibration, none answers."},
        "unscored": {"type": "integer", "description": "Documents for which there was no time; they come last."},
    },
    "required": ["results"],
}


@dataclass(frozen=True)
class Tools:
    """What the server does: a model that ranks, and the documents that `search` looks through.

    Attributes:
        model: a `CrossEncoder` or `Cascade`.
        options: keywords of its `rank_many`.
        name: of the model, for spans.
        documents: of the corpus; empty: there is no `search`.
        index: the `BM25` of their contents.
        depth: documents that the first pass hands on.
        max_documents: that `rank` takes.
    """

    model: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = arguments.POCKET
    documents: Sequence[CorpusDocument] = ()
    index: Any = None
    depth: int = 100
    max_documents: int = 1000

    def rank(self, given: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Order the texts of a call; `given` are its arguments.

        Raises:
            InvalidInput: one is refused; the message names it.
            SecondPassError: what scoring raises.
        """
        given = _told(given, RANK)
        documents, named = self._given(given.get("documents"))
        repeats = given.get("return_documents", False)
        if not isinstance(repeats, bool):
            raise InvalidInput(f"return_documents is {type(repeats).__name__}, not bool")
        told, ranked = self._ranked(given, documents, named, headers)
        for place, hit in ranked:
            own = documents[place]
            hit.update({"index": place, **({"id": own.id} if named else {}), **(_words(own) if repeats else {})})
        return told

    def search(self, given: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Find documents of the corpus, in two passes; raises as `rank`."""
        given = _told(given, SEARCH)
        query = checked_query(given.get("query"))
        chosen = [self.documents[place] for place, _ in self.index.found(query, self.depth)]
        told, ranked = self._ranked({"top_k": TOP_K, **given}, chosen, True, headers)
        for place, hit in ranked:
            own = chosen[place]
            hit.update({"id": own.id, **_words(own)})
            hit.update({"first_pass_rank": place + 1, **({"metadata": dict(own.meta)} if own.meta else {})})
        return told

    def _given(self, documents: object) -> tuple[list[CorpusDocument], bool]:
        """The documents of a call, and whether they have ids."""
        if documents is None:
            raise InvalidInput("documents is missing")
        items = materialised(documents, "documents", "a list of texts, or of objects with the string 'text'")
        if not items:
            raise InvalidInput("documents is empty")
        if len(items) > self.max_documents:
            raise InvalidInput(f"documents has {len(items)}, more than {self.max_documents}")
        objects = [_without_null(item) if isinstance(item, dict) else {"text": item} for item in items]
        texts = [checked(item.get("text"), f"documents[{place}].text") for place, item in enumerate(objects)]
        titles = [checked(item.get("title", ""), f"documents[{place}].title") for place, item in enumerate(objects)]
        ids = [checked(item["id"], f"documents[{place}].id") for place, item in enumerate(objects) if "id" in item]
        if ids and len(ids) < len(items):
            raise InvalidInput(f"documents: {len(ids)} of {len(items)} have an id, and all or none do")
        parts = zip(ids or [""] * len(items), titles, texts, strict=True)
        return [CorpusDocument(*part) for part in parts], bool(ids)

    def _ranked(
        self,
        given: Mapping[str, Any],
        documents: Sequence[CorpusDocument],
        named: bool,
        headers: Mapping[str, str] | None,
    ) -> tuple[dict[str, Any], list[tuple[int, dict[str, Any]]]]:
        """The answer, and each of its results with its document's place, still without what says which that is."""
        from secondpass.cross_encoder import hits_of

        query = checked_query(given.get("query")).strip()
        texts, ids = [one.content for one in documents], [one.id for one in documents] if named else None
        limits = {name: given.get(name) for name in ("top_k", "min_probability")}
        if limits["top_k"] is not None:
            positive_int(limits["top_k"], "top_k")
        told = {name: given[name] for name in ("instruction",) if given.get(name) is not None}
        with reranking("mcp rank", headers=headers, serves=True) as span:
            span.asked(self.name, query, texts, top_k=limits["top_k"], ids=ids)
            (ranking,) = self.model.rank_many([query], [texts], **limits, **{**self.options, **told})
            span.answered([(one.index, one.score if one.scored else None) for one in ranking.documents])
        lost = lost_tokens(ranking.record)
        made = []
        for hit in hits_of(ranking, texts, True, ranking.unscored > 0):
            place = hit.pop("corpus_id")
            del hit["text"]
            passage = _in_text(hit.pop("passage"), documents[place]) if "passage" in hit else {}
            if passage.get("end"):  # else it is all title
                hit["passage"] = passage
            made.append((place, hit | ({"cut_tokens": lost[place]} if place in lost else {})))
        answer: dict[str, Any] = {"results": [hit for _, hit in made]}
        if ranking.nothing_relevant is not None:
            answer["nothing_relevant"] = ranking.nothing_relevant
        if ranking.unscored:
            answer["unscored"] = ranking.unscored
        return answer, made


def _words(document: CorpusDocument) -> dict[str, str]:
    return {**({"title": document.title} if document.title else {}), "text": document.text}


def _in_text(passage: Mapping[str, Any], document: CorpusDocument) -> dict[str, Any]:
    """A passage of a document's content by its place in the text, without what it has of the title."""
    joined = f"{document.title} {document.text}"
    # the content has lost the blanks at its ends
    before = len(document.title) + 1 - (len(joined) - len(joined.lstrip()))
    start, end = (max(0, passage[name] - before) for name in ("start", "end"))
    return {**passage, "start": start, "end": end, "text": document.text[start:end]}


RANK: dict[str, Any] = {
    "query": QUERY,
    "documents": {
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                TEXT,
                {"type": "object", "properties": {"text": TEXT, "title": TEXT, "id": TEXT}, "required": ["text"]},
            ]
        },
    },
    "top_k": COUNT | {"description": "How many come back; all when absent."},
    "min_probability": SHARE,
    "instruction": INSTRUCTION,
    "return_documents": {"type": "boolean", "description": "Repeat each document's title and text; false when absent."},
}
SEARCH: dict[str, Any] = {
    "query": QUERY,
    "top_k": COUNT | {"description": f"How many come back; {TOP_K} when absent."},
    "min_probability": SHARE,
    "instruction": INSTRUCTION,
}


def _told(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a call has."""
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InvalidInput(f"there is no argument {unknown[0]!r}; there is {', '.join(known)}")
    return _without_null(given)


def _without_null(given: Mapping[str, Any]) -> dict[str, Any]:
    """Clients fill in what is optional with null: that is what is absent."""
    return {name: value for name, value in given.items() if value is not None}


def server_of(tools: Tools) -> Server[Any, Any]:
    """An MCP server with these tools, for any of the protocol's transports.

    Raises:
        MissingExtra: mcp is not installed.
    """
    types = optional("mcp.types", "mcp", "mcp")
    threads = optional("anyio", "anyio", "mcp").to_thread
    made: Server[Any, Any] = optional("mcp.server.lowlevel", "mcp", "mcp").Server(
        "secondpass",
        version=version("secondpass"),
        instructions="A cross-encoder that reads query and document together.",
    )
    offered = {"rank": tools.rank} | ({"search": tools.search} if tools.documents else {})

    @made.list_tools()  # type: ignore[no-untyped-call, untyped-decorator]
    async def list_tools() -> list[Tool]:
        return [_described(types, name, tools) for name in offered]

    @made.call_tool(validate_input=False)  # type: ignore[untyped-decorator]
    async def call_tool(name: str, given: dict[str, Any]) -> CallToolResult:
        if name not in offered:
            raise InvalidInput(f"there is no tool {name!r}; there is {', '.join(offered)}")
        meta = made.request_context.meta
        extra = {} if meta is None else meta.model_extra or {}
        headers = {key: value for key, value in extra.items() if isinstance(value, str)}
        answer = await threads.run_sync(partial(offered[name], given, headers), abandon_on_cancel=True)
        # a corpus may have halves of surrogate pairs, which no message can hold
        text = repaired(json.dumps(answer, ensure_ascii=False))
        content = types.TextContent(type="text", text=text)
        result: CallToolResult = types.CallToolResult(content=[content], structuredContent=json.loads(text))
        return result

    return made


def _described(types: Any, name: str, tools: Tools) -> Tool:
    properties, required = (RANK, ["query", "documents"]) if name == "rank" else (SEARCH, ["query"])
    about = "Order documents by how well each one answers a query, best first."
    if name == "search":
        about = f"Find the documents that answer a query best, among {len(tools.documents):,}."
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    hints = types.ToolAnnotations(readOnlyHint=True, idempotentHint=True, openWorldHint=False)
    tool: Tool = types.Tool(name=name, description=about, inputSchema=schema, outputSchema=OUTPUT, annotations=hints)
    return tool


async def _over_pipes(server: Server[Any, Any]) -> None:
    """Serve the one client at the other end of stdin and stdout, until it closes them."""
    import anyio
    from mcp.server.stdio import stdio_server

    # its own wrappers close sys.stdin and sys.stdout when they are dropped; a line that is no UTF-8 is no end
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "closefd": False}
    with open(sys.stdin.fileno(), **options) as given, open(sys.stdout.fileno(), "w", **options) as told:
        async with stdio_server(anyio.wrap_file(given), anyio.wrap_file(told)) as (read, write):
            # nothing else may write into the stream of messages
            with contextlib.redirect_stdout(sys.stderr):
                await server.run(read, write, server.create_initialization_options())


def http_app(server: Server[Any, Any]) -> Starlette:
    """The server as an ASGI application; requests meant for another host, or from a web page of one, are refused."""
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from mcp.server.transport_security import TransportSecuritySettings
    from starlette.applications import Starlette
    from starlette.routing import Mount

    names = (HOST, "localhost")
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=[f"{name}:*" for name in names],
        allowed_origins=[f"http://{name}:*" for name in names],
    )
    manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True, security_settings=security)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with manager.run():
            yield

    return Starlette(routes=[Mount(PATH, manager.handle_request)], lifespan=lifespan)


def _over_http(server: Server[Any, Any], port: int) -> None:
    """Serve clients of this machine, and of no other, until a signal ends it."""
    import uvicorn

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise InvalidInput(f"--http {port}: {error.strerror}") from None
        note(f"serving at http://{HOST}:{listener.getsockname()[1]}{PATH}/")
        uvicorn.Server(uvicorn.Config(http_app(server), log_level="warning")).run(sockets=[listener])


def mcp(
    *,
    corpus: Annotated[
        Path | None,
        typer.Option("--corpus", "-c", help="BEIR folder, JSON Lines or table that search looks through."),
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Documents that the first pass hands on.")] = 100,
    http: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Serve HTTP on this port of 127.0.0.1 instead; 0 takes a free one."),
    ] = None,
    max_documents: Annotated[int, typer.Option(min=1, help="Documents that rank takes at once.")] = 1000,
    budget_ms: BudgetMs = None,
    relevance: RelevanceRule = None,
    model: arguments.Models = None,
    keep: arguments.Keep = None,
    max_length: arguments.MaxLength = None,
    batch_size: arguments.BatchSize = 32,
    device: arguments.Device = None,
    precision: arguments.Precision = None,
    instruction: arguments.Instruction = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
    long: arguments.Long = None,
    window_tokens: arguments.WindowTokens = None,
    window_overlap: arguments.WindowOverlap = None,
    max_windows: arguments.MaxWindows = None,
    select: arguments.SelectWindows = None,
    score_cache: arguments.ScoreCacheFile = None,
    calibration: arguments.CalibrationFile = None,
) -> None:
    """Give assistants the tools rank and, with a corpus, search, over the Model Context Protocol.

    It serves the client that started it over stdin and stdout, and ends when that goes away.

    [bold]Examples[/bold]

    secondpass mcp

    secondpass mcp --corpus help_centre.jsonl --long windows --score-cache scores.db

    secondpass mcp --corpus secondpass/demo --http 8010
    """
    from secondpass.training.negatives.candidates import indexed

    anyio = optional("anyio", "anyio", "mcp")
    optional("mcp", "mcp", "mcp")
    rule = relevance_of(relevance)
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    documents, index = ([], None) if corpus is None else indexed(corpus)
    answer: Any = dict(template=template, true_token=true_token, false_token=false_token)
    encoder = arguments.load_all(model, keep, max_length, device=device, precision=precision, **answer)
    options: Any = dict(batch_size=batch_size, truncation=how, instruction=instruction, show_progress_bar=False)
    options |= {"budget_ms": budget_ms, "relevance": rule}
    with arguments.with_files(encoder, score_cache, calibration):
        encoder.rank_many(["ready?"], [["yes"]], **options)
        name = ",".join(model or [arguments.POCKET])
        server = server_of(Tools(encoder, options, name, documents, index, depth, max_documents))
        try:
            if http is not None:
                _over_http(server, http)
            else:
                if sys.stdin.isatty():
                    note("waiting for messages of a client, which is the one to start this command; Ctrl-C ends it")
                # a thread that waits for a line can be told nothing: Ctrl-C ends the process
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                anyio.run(_over_pipes, server)
        finally:
            # calls that nobody waits for any more end at their next batch
            encoder.close()
