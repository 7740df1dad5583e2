"""From a request's pairs to its answer: cut where asked, scored in shared batches, ordered as in process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

import torch
from torch.nn import Sigmoid

from secondpass.cuts import CutPolicy
from secondpass.engine import Scored
from secondpass.errors import TooLong
from secondpass.outputs import activated
from secondpass.ranking import ranked
from secondpass.serving.checking import blank_query
from secondpass.serving.models import Served
from secondpass.serving.problems import CLIENT_GONE, Problem, invalid, late
from secondpass.serving.shapes.parts import Answer, Work, indices
from secondpass.text import readable

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Result = TypeVar("Result")


async def answered(served: Served, work: Work, deadline_s: float) -> Answer:
    """Score the pairs of `work`, of which one has text at least; a cancelled task takes queued work back.

    Blank documents come last, with the lowest logit and score (`ranking.ranked`).

    Raises:
        Problem: 422, something would be cut and may not be, or the tokenizer makes nothing of a query.
        SecondPassError: what scoring raises.
    """
    cut = CutPolicy(
        "error" if work.refuse_cuts else served.reranker.truncation, work.keep_tail, work.max_document_tokens
    )
    # Blank is blank: a megabyte of line feeds need not be read.
    documents = tuple(map(readable, work.documents))
    try:
        scored = await served.shared.score(work.queries, documents, deadline_s=deadline_s, cut=cut)
    except TooLong as error:
        places = indices(error.indices)
        message = f"{work.field}: {places} are longer than the model's window of {served.window} tokens"
        raise invalid(message) from None
    silent = scored.blank[:, 0]
    if silent.any():
        raise blank_query(work, int(silent.argmax()))
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


def _answer(served: Served, work: Work, scored: Scored) -> Answer:
    cuts = scored.record.truncated
    (best,) = ranked(scored.logits, served.reranker.default_activation_function, blank=scored.blank[:, 1])
    in_order = sorted(best, key=lambda document: document.index)
    logits = torch.tensor([document.logit for document in in_order])
    warnings = work.warnings
    if cuts:
        lost = sum(cut.query_tokens + cut.document_tokens for cut in cuts)
        places = indices([cut.index for cut in cuts])
        warnings = (*warnings, f"cut {work.field}: {places} ({lost} tokens; the window has {served.window})")
    return Answer(
        model=served.name,
        scores=tuple(document.score for document in in_order),
        probabilities=tuple(activated(logits, Sigmoid(), False).tolist()),
        logits=tuple(document.logit for document in in_order),
        order=tuple(document.index for document in best),
        tokens=scored.record.tokens,
        cuts=cuts,
        warnings=warnings,
    )
