"""From a request's pairs to its answer: cut where asked, scored in shared batches, ordered as in process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, TypeVar

import torch

from secondpass import outputs, ranking
from secondpass.cuts import CutPolicy
from secondpass.errors import TooLong
from secondpass.merging import Answer as Logits
from secondpass.serving.models import Served
from secondpass.serving.problems import CLIENT_GONE, Problem, invalid, late
from secondpass.serving.shapes.parts import Answer, Work, indices

# The logit of a blank document: nothing in it answers anything. Models for ranking stay far above it.
BLANK_LOGIT = -100.0

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Result = TypeVar("Result")


async def answered(served: Served, work: Work, deadline_s: float) -> Answer:
    """Score the pairs of `work`, of which one has text at least; a cancelled task takes queued work back.

    Blank documents are never relevant: whatever the model says, they have the logit `BLANK_LOGIT` and come last.

    Raises:
        Problem: 422, something would be cut and may not be.
        SecondPassError: what scoring raises.
    """
    # Blank is blank: a megabyte of line feeds need not be read.
    work = replace(work, documents=tuple(text if text.strip() else "" for text in work.documents))
    cut = CutPolicy(
        "error" if work.refuse_cuts else served.reranker.truncation, work.keep_tail, work.max_document_tokens
    )
    try:
        scored = await served.shared.score(work.queries, work.documents, deadline_s=deadline_s, cut=cut)
    except TooLong as error:
        places = indices(error.indices)
        message = f"{work.field}: {places} are longer than the model's window of {served.window} tokens"
        raise invalid(message) from None
    return _answer(served, work, scored)


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
        raise Problem(CLIENT_GONE, "client_gone", "the client went away") if gone.done() else late(limit_s)
    finally:
        for one in (task, gone):
            one.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(served: Served, work: Work, scored: Logits) -> Answer:
    cuts = scored.record.truncated
    activation = served.reranker.default_activation_function
    blank = torch.tensor([not text for text in work.documents])
    logits = _lowered(scored.logits[:, 0], blank, BLANK_LOGIT)
    scores = outputs.by_label(outputs.activated(logits[:, None], activation, False), 1)
    if bool(blank.any()):
        # An activation need not be monotone.
        scores = _lowered(scores, blank, float(scores[blank].min()))
    order = sorted(ranking.order(scores, logits), key=blank.tolist().__getitem__)
    warnings = work.warnings
    if cuts:
        lost = sum(cut.query_tokens + cut.document_tokens for cut in cuts)
        places = indices([cut.index for cut in cuts])
        warnings = (*warnings, f"cut {work.field}: {places} ({lost} tokens; the window has {served.window})")
    return Answer(
        model=served.name,
        scores=tuple(scores.tolist()),
        probabilities=tuple(torch.sigmoid(logits).tolist()),
        logits=tuple(logits.tolist()),
        order=tuple(order),
        tokens=scored.record.tokens,
        cuts=cuts,
        warnings=warnings,
    )


def _lowered(values: torch.Tensor, blank: torch.Tensor, least: float) -> torch.Tensor:
    """`values` [documents] with `least` for blank ones, or the lowest of the others where that is lower."""
    return values.masked_fill(blank, min(least, float(values[~blank].min())))
