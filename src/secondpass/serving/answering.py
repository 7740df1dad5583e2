"""From a request's pairs to its answer: cut where asked, scored in shared batches, ordered as in process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch.nn import Sigmoid

from secondpass.engine import Scored
from secondpass.outputs import activated
from secondpass.ranking import ranked
from secondpass.record import Cut
from secondpass.serving.checking import blank_query
from secondpass.serving.document_cuts import CutDocuments
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
    work = replace(work, documents=tuple(map(readable, work.documents)))
    cut = await _cut(served, work)
    scored = await served.shared.score(work.queries, cut.documents, deadline_s=deadline_s)
    silent = scored.blank[:, 0]
    if silent.any():
        raise blank_query(work, int(silent.argmax()))
    cuts = _merged(cut.cuts, scored.record.truncated)
    if cuts and work.refuse_cuts:
        places = indices(sorted(one.index for one in cuts))
        raise invalid(f"{work.field}: {places} are longer than the model's window of {served.cutter.window} tokens")
    return _answer(served, work, scored, cuts)


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


async def _cut(served: Served, work: Work) -> CutDocuments:
    """Cuts that a client asks for and that the model's window would not make by itself, off the event loop."""
    cutter = served.cutter
    if work.keep_tail is not None and work.keep_tail != cutter.keeps_tail:
        return await asyncio.to_thread(cutter.from_side, work.queries, work.documents, work.keep_tail)
    most = work.max_document_tokens
    if most is not None and most < cutter.window:
        return await asyncio.to_thread(cutter.to_tokens, work.documents, most)
    return CutDocuments(work.documents, ())


def _merged(first: tuple[Cut, ...], second: tuple[Cut, ...]) -> tuple[Cut, ...]:
    """One cut a document, whoever cut it."""
    by_index = {cut.index: cut for cut in first}
    for cut in second:
        own = by_index.get(cut.index, Cut(cut.index, 0, 0))
        by_index[cut.index] = replace(
            cut,
            document_tokens=own.document_tokens + cut.document_tokens,
            characters=own.characters + cut.characters,
        )
    return tuple(by_index[index] for index in sorted(by_index))


def _answer(served: Served, work: Work, scored: Scored, cuts: tuple[Cut, ...]) -> Answer:
    (best,) = ranked(scored.logits, served.reranker.default_activation_function, blank=scored.blank[:, 1])
    in_order = sorted(best, key=lambda document: document.index)
    logits = torch.tensor([document.logit for document in in_order])
    warnings = work.warnings
    if cuts:
        lost = sum(cut.query_tokens + cut.document_tokens for cut in cuts)
        places = indices([cut.index for cut in cuts])
        warnings = (*warnings, f"cut {work.field}: {places} ({lost} tokens; the window has {served.cutter.window})")
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
