"""The playground: one page that shows both passes beside each other, and what it asks beside the service's endpoints.

The first pass is BM25, over a corpus of the service's or texts that come with the query; nothing of these is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from secondpass.corpora import named_file, packaged, read_queries
from secondpass.errors import InvalidInput
from secondpass.explanation import explain
from secondpass.serving.answering import Service, check_texts, unless_gone
from secondpass.serving.fields import Count, ModelName, Query, TextOrObject
from secondpass.serving.problems import late
from secondpass.serving.settings import Settings
from secondpass.serving.shapes import json_number, json_text
from secondpass.serving.telemetry import facts_of
from secondpass.serving.work import Work
from secondpass.text import repaired

PAGE = "/playground"
FILES = {"page.html": "text/html", "page.css": "text/css"} | dict.fromkeys(
    ("page.js", "board.js", "documents.js", "reader.js", "service.js"), "text/javascript"
)
# Nothing of another host, nothing inside the page that it did not come with, and no text ever read as HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
# Documents that the first pass gives where nobody says how many.
FOUND = 100
# Pairs that one explanation scores at most.
PASSES = 60
# Queries of a BEIR folder that the page offers.
EXAMPLES = 6


class SearchRequest(BaseModel):
    """A query for the first pass, over the service's corpus or over texts that come with it."""

    query: Query
    documents: list[TextOrObject] | None = Field(
        default=None, min_length=1, description="Texts to search instead of the corpus; not all blank."
    )
    top_k: Count = Field(default=None, description="How many documents; 100 when absent.")


class FirstHit(BaseModel):
    """A document by its place in the corpus or the request, and its BM25 score; texts are those of the corpus."""

    index: int
    score: float
    id: str | None = None
    title: str | None = None
    text: str | None = None


class SearchResponse(BaseModel):
    """What the first pass found among so many documents, best first."""

    searched: int
    results: list[FirstHit]


class ExplainRequest(BaseModel):
    """A document whose score is to be told apart, or its passage from one character to another."""

    model: ModelName = None
    query: Query
    document: TextOrObject
    passage: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="Start and end in characters: read as if it were the document."
    )
    windows: bool | None = Field(
        default=None, strict=True, description="Whether a document that is too long is read whole, as in /v2/rerank."
    )


class ExplainedPart(BaseModel):
    """text[start:end] of a document or a query, and what the pair loses without it."""

    start: int
    end: int
    text: str
    logit: float
    score: float
    contribution: float
    score_contribution: float
    read: bool


class ExplainResponse(BaseModel):
    """An explanation as `Explanation.to_dict` has it, without the two texts."""

    model: str
    method: str
    logit: float
    score: float
    empty: dict[str, float]
    additive: dict[str, float | str]
    read: dict[str, list[int]]
    passes: int
    sentences: list[ExplainedPart]
    words: list[ExplainedPart]
    query_words: list[ExplainedPart]


class CorpusInfo(BaseModel):
    """What the page searches until it is given other texts, and some queries where the corpus has any."""

    name: str
    documents: int
    examples: list[str]


class Playground:
    """The corpus of the page, and the threads that search it and explain scores, one request after the other each.

    Raises:
        InvalidInput: the corpus cannot be read, or no document in it has text.
        MissingExtra: bm25s or PyStemmer is not installed.
    """

    def __init__(self, corpus: str) -> None:
        from secondpass.training.negatives.candidates import BM25, indexed

        path = Path(corpus)
        self._made = BM25
        self._documents, self._index = indexed(path)
        self._about = CorpusInfo(name=_name(path), documents=len(self._documents), examples=_examples(path))
        self._searching = ThreadPoolExecutor(1, "secondpass-first-pass")
        self._explaining = ThreadPoolExecutor(1, "secondpass-explain")

    def about(self) -> CorpusInfo:
        """What it searches."""
        return self._about

    def close(self) -> None:
        """Let go of the threads."""
        for pool in (self._searching, self._explaining):
            pool.shutdown(wait=False, cancel_futures=True)

    async def search(self, request: Request, asked: SearchRequest, settings: Settings) -> Response:
        """The first pass.

        Of the corpus those documents come that share a word with the query; of texts that came with it also the
        others, behind them and as they were given, for the second pass may find what no word tells.

        Raises:
            Problem: 422, a text is refused; 504 or 499, it is late or nobody waits.
        """
        given = None if asked.documents is None else tuple(asked.documents)
        # without texts of its own the query stands for them: it alone is checked then
        texts = (asked.query,) if given is None else given
        work, _ = check_texts(Work(None, (asked.query,) * len(texts), texts), settings)
        most = min(asked.top_k or FOUND, settings.max_documents)
        own = None if given is None else work.documents
        return await _aside(request, settings, self._searching, lambda: self._found(asked.query, own, most))

    async def explain(self, request: Request, asked: ExplainRequest, service: Service) -> Response:
        """What the sentences and words of a document make of its score, by leaving each out.

        Raises:
            Problem: 404, no model of this name; 422, a text or the passage is refused; 504 or 499, it is late or nobody
                waits.
            SecondPassError: what scoring raises.
        """
        given = Work(None, (asked.query,), (asked.document,), field="document", windows=asked.windows)
        work, _ = check_texts(given, service.settings)
        passage = None if asked.passage is None else (asked.passage[0], asked.passage[1])
        with service.models.held(asked.model) as served:
            facts_of(request.scope).model = served.name
            cut = work.cut(served.truncation)
            told = served.instruction if served.reranker.takes_instruction else None

            def explained() -> str:
                how: Any = {"truncation": cut.windows or cut.truncation, "instruction": told, "max_passes": PASSES}
                found = explain(served.reranker, asked.query, work.documents[0], passage=passage, **how).to_dict()
                del found["query"], found["document"]
                return json_text({"model": served.name, **found})

            return await _aside(request, service.settings, self._explaining, explained)

    def _found(self, query: str, own: tuple[str, ...] | None, most: int) -> str:
        """The answer to a search as JSON; in ASCII, as a corpus may have halves of surrogate pairs."""
        if own is None:
            documents, found = self._documents, self._index.found(query, most)
            texts = [{name: repaired(getattr(documents[place], name)) for name in ("id", "title", "text")}
                     for place, _ in found]  # fmt: skip
            searched = len(documents)
        else:
            found = self._made(own).found(query, most)
            known = {place for place, _ in found}
            found += [(place, 0.0) for place in range(len(own)) if place not in known][: most - len(found)]
            texts, searched = [{} for _ in found], len(own)
        results = (
            f'{{"index":{place},"score":{json_number(score)}{"," if told else "}"}{json_text(told)[1:] if told else ""}'
            for (place, score), told in zip(found, texts, strict=True)
        )
        return f'{{"searched":{searched},"results":[{",".join(results)}]}}'


async def _aside(request: Request, settings: Settings, pool: ThreadPoolExecutor, do: Callable[[], str]) -> Response:
    """An answer that a thread makes within the deadline, while its client is there."""
    left = settings.deadline_s - (time.monotonic() - facts_of(request.scope).began)
    if left <= 0:
        raise late(settings.deadline_s)
    made: Awaitable[str] = asyncio.get_running_loop().run_in_executor(pool, do)
    body = await unless_gone(request.receive, left, settings.deadline_s, made)
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})


def _name(path: Path) -> str:
    """A corpus by the name of its file or folder, without what leads there: others may read it."""
    return repaired(path.resolve().name if path.exists() else path.as_posix())


def _examples(corpus: Path) -> list[str]:
    """The first queries of a BEIR folder."""
    folder = packaged(corpus)
    try:
        queries = read_queries(named_file(folder, "queries.jsonl")) if folder.is_dir() else {}
    except InvalidInput:
        return []  # without queries it is a corpus all the same
    return [repaired(text) for text in list(queries.values())[:EXAMPLES]]


def pages() -> APIRouter:
    """The page and its files, and a way to it from the root; read once."""
    made = APIRouter(include_in_schema=False)
    for name, kind in FILES.items():
        path = PAGE if name == "page.html" else f"{PAGE}/{name}"
        content = files("secondpass").joinpath("playground", name).read_bytes()
        made.add_api_route(path, _page(path, content, f"{kind}; charset=utf-8"), methods=["GET", "HEAD"])
    made.add_api_route("/", _to_the_page, methods=["GET", "HEAD"])
    return made


def _page(path: str, content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        facts_of(request.scope).path = path
        return Response(content, media_type=kind, headers=HEADERS)

    return page


async def _to_the_page() -> Response:
    # relative, as a proxy may have put the service below another path
    return RedirectResponse(PAGE.removeprefix("/"))
