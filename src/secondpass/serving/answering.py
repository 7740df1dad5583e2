"""From a request's pairs to its answer: cut where asked, scored in shared batches, ordered as in process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from secondpass.activations import SIGMOID
from secondpass.errors import TooLong
from secondpass.inputs import CutPolicy
from secondpass.ranking import activated, ranked
from secondpass.scoring import Scored
from secondpass.serving.bodies import SLICE, too_many
from secondpass.serving.models import Models, Served
from secondpass.serving.problems import Problem, client_gone, invalid, late
from secondpass.serving.scores import ScoreRequest, TextPairsRequest
from secondpass.serving.settings import Settings
from secondpass.serving.shapes import Answer, RankingRequest, RerankRequest, TextsRequest, VoyageRequest, Work, indices
from secondpass.serving.telemetry import Admission, Facts, Metrics, facts_of
from secondpass.text import is_blank

# OpenSearch hands over an empty string for a field that a hit lacks or that a `_source` filter dropped.
ALL_BLANK = (
    "every document is blank; a search engine sends empty texts when its hits lack the configured field or a _source "
    "filter dropped it"
)


def check_texts(work: Work, settings: Settings) -> tuple[Work, tuple[str, ...]]:
    """Refuse what no ranking can come of; returns the work with blank documents empty, and a warning about them.

    Raises:
        Problem: 422, naming the field and the index.
    """
    count = len(work.documents)
    if count > settings.max_documents:
        raise too_many(work.field, count, settings.max_documents)
    # One query may stand beside a thousand documents.
    queries = {text: index for index, text in reversed(list(enumerate(work.queries)))}
    asked = sorted((index, text) for text, index in queries.items())
    for name, texts in (("query", asked), (work.field, enumerate(work.documents))):
        for index, text in texts:
            if len(text) > settings.max_characters:
                place = work.asked(index) if name == "query" else f"{name}[{index}]"
                raise invalid(f"{place} has {len(text)} characters, more than {settings.max_characters}")
            if name == "query" and is_blank(text):
                raise blank_query(work, index)
    if len(work.instruction or "") > settings.max_characters:
        raise invalid(f"instruction has {len(work.instruction or '')} characters, more than {settings.max_characters}")
    blank = [index for index, text in enumerate(work.documents) if is_blank(text)]
    if len(blank) == count:
        raise invalid(f"{work.field}: {ALL_BLANK}")
    if not blank:
        return work, ()
    # Blank is blank: a megabyte of line feeds need not be read.
    none = set(blank)
    documents = tuple("" if index in none else text for index, text in enumerate(work.documents))
    return replace(work, documents=documents), (f"blank {work.field}: {indices(blank)}",)


def blank_query(work: Work, index: int) -> Problem:
    """422: the query of that document says nothing."""
    return invalid(f"{work.asked(index)} is blank")


Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Result = TypeVar("Result")


async def answered(served: Served, work: Work, deadline_s: float) -> Answer:
    """Score the pairs of `work`, of which one has text at least; a cancelled task takes queued work back.

    Blank documents come last, with the lowest logit and score (`ranking.ranked`).

    Raises:
        Problem: 422, something would be cut and may not be, or the tokenizer makes nothing of a query.
        SecondPassError: what scoring raises.
    """
    truncation = "error" if work.refuse_cuts else served.reranker.truncation
    cut = CutPolicy(truncation, work.keep_tail, work.max_document_tokens, work.max_query_tokens, work.max_tokens)
    window = cut.window(served.window)
    try:
        scored = await served.shared.score(
            work.queries, work.documents, deadline_s=deadline_s, cut=cut, instruction=work.instruction
        )
    except TooLong as error:
        places = indices(error.indices)
        message = f"{work.field} at {places}: longer than the model's window of {window} tokens"
        raise invalid(message) from None
    silent = scored.blank[:, 0]
    if silent.any():
        raise blank_query(work, int(silent.argmax()))
    return _answer(served, work, scored, window)


async def unless_gone(receive: Receive, seconds: float, limit_s: float, work: Awaitable[Result]) -> Result:
    """Await `work`, but no longer than `seconds` and only while the client is there; else it is cancelled.

    Raises:
        Problem: 504 or 499.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise client_gone() if gone.done() else late(limit_s)
    finally:
        for one in (task, gone):
            one.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(served: Served, work: Work, scored: Scored, window: int) -> Answer:
    cuts = scored.record.truncated
    (best,) = ranked(scored.logits, served.reranker.own_activation, blank=scored.blank[:, 1])
    in_order = sorted(best, key=lambda document: document.index)
    logits = np.array([document.logit for document in in_order], np.float32)
    warnings = work.warnings
    if cuts:
        lost = sum(cut.query_tokens + cut.document_tokens for cut in cuts)
        places = indices([cut.index for cut in cuts])
        warnings = (*warnings, f"cut {work.field}: {places} ({lost} tokens; the window has {window})")
    return Answer(
        model=served.name,
        scores=tuple(document.score for document in in_order),
        probabilities=tuple(activated(logits, SIGMOID, False).tolist()),
        logits=tuple(document.logit for document in in_order),
        order=tuple(document.index for document in best),
        tokens=scored.record.tokens,
        cuts=cuts,
        warnings=warnings,
    )


Shape = RerankRequest | VoyageRequest | RankingRequest | TextsRequest | ScoreRequest | TextPairsRequest
# Headers are lines, and proxies refuse long ones.
LONGEST_HEADER = 1000


@dataclass(frozen=True, slots=True)
class Service:
    """One running service."""

    settings: Settings
    models: Models
    metrics: Metrics
    admission: Admission
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "secondpass-bodies"))

    async def aside(self, facts: Facts, do: Callable[..., Result], *given: Any) -> Result:
        """Do what takes the longer the larger a body is; for a large one beside the event loop, one after the other."""
        if facts.size < SLICE:
            return do(*given)
        return await asyncio.get_running_loop().run_in_executor(self.thread, do, *given)

    async def answer(self, request: Request, shape: Shape, deadline_ms: int | None) -> Response:
        """Score a request's pairs within its deadline, and as long as its client is there.

        Raises:
            Problem: it is refused, late, or nobody is there any more.
            SecondPassError: what scoring raises.
        """
        facts = facts_of(request.scope)
        work = shape.work()
        with self.models.held(work.model) as served:
            facts.model, facts.pairs = served.name, len(work.documents)
            work, warnings = await self.aside(facts, check_texts, work, self.settings)
            whole = min(self.settings.deadline_s, (deadline_ms or float("inf")) / 1000)
            left = whole - (time.monotonic() - facts.began)
            if left <= 0:
                raise late(whole)
            answer = await unless_gone(request.receive, left, whole, answered(served, work, left))
        facts.tokens, facts.cut = answer.tokens, len(answer.cuts)
        self.metrics.scored(served.name, len(work.documents), answer.tokens, len(answer.cuts))
        answer = replace(answer, warnings=(*answer.warnings, *warnings))
        body = await self.aside(facts, lambda: shape.render(answer, facts.request_id).encode())
        return Response(body, media_type="application/json", headers=_headers(answer))


def _headers(answer: Answer) -> dict[str, str]:
    """What an answer without room for it says beside itself."""
    headers = {"Cache-Control": "no-store", "Secondpass-Truncated": str(len(answer.cuts))}
    if answer.warnings:
        headers["Secondpass-Warnings"] = "; ".join(answer.warnings)[:LONGEST_HEADER]
    return headers
