"""From a request's pairs to its answer: cut where asked, scored in shared batches, ordered as in process."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from secondpass.activations import scaled
from secondpass.cascade import going_on, joined, put
from secondpass.errors import DeadlineExceeded, NonFiniteScore, NoTokens, OutOfMemory, TooLong
from secondpass.forwards.contract import non_finite
from secondpass.inputs import CutPolicy
from secondpass.ranking import Ranked, Ranking, activated, ranked
from secondpass.record import CallRecord, Cut
from secondpass.scoring import Scored
from secondpass.serving.bodies import SLICE, too_many
from secondpass.serving.models import Models, Served, Stage
from secondpass.serving.problems import Problem, client_gone, invalid, late
from secondpass.serving.scores import ScoreRequest, TextPairsRequest
from secondpass.serving.settings import Settings
from secondpass.serving.shapes import RankingRequest, RerankRequest, TextsRequest, VoyageRequest
from secondpass.serving.telemetry import Admission, Metrics, facts_of
from secondpass.serving.work import Answer, Work, agreement, indices
from secondpass.stopping import StoppingRule
from secondpass.text import is_blank

# What is left in seconds of a deadline or budget that is over.
LEAST_S = 1e-6
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


class Standing:
    """The documents of one request while one model after the other scores them.

    `blocks` are the documents by the model that scored them, the last model's first, each best first. None has a higher
    score than those of the blocks before its own. It `is_short` where a later model had no time for some.
    """

    def __init__(self, served: Served, work: Work, deadline_s: float, budget_s: float | None) -> None:
        self._served, self._work = served, work
        self._ends = [None if left is None else time.monotonic() + left for left in (deadline_s, budget_s)]
        self._notes: list[str] = []
        self._rooms: dict[int, str] = {}
        self.is_short = False
        self.blocks: list[list[Ranked]] = []
        self.cuts: dict[int, Cut] = {}
        self.records: list[CallRecord] = []

    async def score(self, stage: Stage, rows: Sequence[int]) -> list[Ranked]:
        """Documents of the request, best first; what was not read because a budget was spent has no score of this.

        Raises:
            Problem: 422, something would be cut and may not be, or the tokenizer makes nothing of a query.
            SecondPassError: what scoring raises.
        """
        work, reranker = self._work, stage.shared.reranker
        cut = work.cut(self._served.standing or reranker.truncation)
        deadline_s, budget_s = (None if end is None else max(LEAST_S, end - time.monotonic()) for end in self._ends)
        try:
            scored = await stage.shared.score(
                [work.queries[row] for row in rows],
                [work.documents[row] for row in rows],
                deadline_s=deadline_s,
                cut=cut,
                instruction=self._instruction(stage),
                budget_s=budget_s,
            )
        except TooLong as error:
            places, window = indices([rows[index] for index in error.indices]), cut.window(reranker.window)
            raise invalid(f"{work.field} at {places}: longer than the model's window of {window} tokens") from None
        except NoTokens as error:
            raise blank_query(work, rows[error.indices[0]]) from None
        except (NonFiniteScore, OutOfMemory) as error:
            wrong = tuple(rows[index] for index in error.indices)
            if isinstance(error, NonFiniteScore):
                raise non_finite(wrong) from error
            raise OutOfMemory(f"pairs {list(wrong)}: {error}", wrong) from error
        silent = scored.blank[:, 0]
        if silent.any():
            raise blank_query(work, rows[int(silent.argmax())])
        self._note(scored, rows, cut, cut.window(reranker.window))
        if stage is self._served.stages[-1] and reranker.calibration is not None:
            reranker.compare_conditions(reranker.conditions(instruction=self._instruction(stage), truncation=cut))
        (best,) = ranked(
            scored.logits,
            reranker.own_activation,
            blank=scored.blank[:, 1],
            read=scored.read,
            passages=scored.passages,
        )
        return list(best) if isinstance(rows, range) else [replace(one, index=rows[one.index]) for one in best]

    async def go_on(self, number: int, stage: Stage) -> None:
        """Let a further model score what the one before found best, as `Cascade.rank_many` does."""
        before, keep = [one for one in self.blocks[0] if one.scored], stage.keep
        if isinstance(keep, int):
            before = going_on(before, keep)
        logits = [one.logit for one in before]
        ends = keep.ends(logits) if isinstance(keep, StoppingRule) else [len(before)]
        done: list[Ranked] = []
        begin, is_short = 0, False
        for end in ends:
            is_short = is_short or self._is_late()
            if is_short or not before:
                break
            scored = await self.score(stage, [one.index for one in before[begin:end]])
            done += [replace(one, stage=number) for one in scored if one.scored]
            begin, is_short = end, not all(one.scored for one in scored)
            if isinstance(keep, StoppingRule) and keep.stops([one.logit for one in done], logits[end:]):
                break
        self.is_short = self.is_short or is_short
        if is_short:
            count = sum(bool(self._work.documents[one.index]) for one in done)
            self._notes.append(f"model {number} of the cascade scored {count} (the budget was spent)")
        put(self.blocks, done, self._work.documents)

    def _instruction(self, stage: Stage) -> str | None:
        """Of the models of a cascade those with a place for it are told; where there is none it is refused."""
        stages, asked = self._served.stages, self._work.instruction
        asked = self._served.instruction if asked is None else asked
        if asked is None or len(stages) == 1:
            return asked
        placed = [one for one in stages if one.shared.reranker.takes_instruction]
        return asked if stage in placed or not placed else None

    def _is_late(self) -> bool:
        return any(end is not None and time.monotonic() >= end for end in self._ends)

    def _note(self, scored: Scored, rows: Sequence[int], cut: CutPolicy, window: int) -> None:
        self.records.append(scored.record)
        room = f"the window has {window}"
        if cut.windows is not None and cut.windows.most is not None:
            room = f"at most {cut.windows.most} windows of {cut.windows.tokens or window} are read"
        for number, row in enumerate(rows):
            # what this model had no time for stands as the one before read it
            if scored.read is None or scored.read[number]:
                self.cuts.pop(row, None)
        cuts = {rows[one.index]: replace(one, index=rows[one.index]) for one in scored.record.truncated}
        self.cuts |= cuts
        self._rooms |= dict.fromkeys(cuts, room)

    def warnings(self) -> Iterator[str]:
        """What the client should know of how its documents were read."""
        field = self._work.field
        # of a cascade each document was read by the last model that scored it, in the window of that one
        for room in dict.fromkeys(self._rooms[index] for index in sorted(self.cuts)):
            cuts = [self.cuts[index] for index in sorted(self.cuts) if self._rooms[index] == room]
            lost = sum(cut.query_tokens + cut.document_tokens for cut in cuts)
            yield f"cut {field}: {indices([cut.index for cut in cuts])} ({lost} tokens; {room})"
        left = sorted(one.index for block in self.blocks for one in block if not one.scored)
        if left:
            yield f"not scored: {field} at {indices(left)} (the budget was spent)"
        yield from self._notes


async def answered(served: Served, work: Work, deadline_s: float, budget_s: float | None = None) -> Answer:
    """Score the pairs of `work`, of which one has text at least; a cancelled task takes queued work back.

    Blank documents come last, with the lowest logit and score (`ranking.ranked`). With a budget, in seconds, the answer
    is what is scored when it is spent.

    Raises:
        Problem: 422, something would be cut and may not be, or the tokenizer makes nothing of a query.
        SecondPassError: what scoring raises.
    """
    if len(served.stages) > 1 and not work.ranks:
        raise invalid(f"model: {served.name} is a cascade, which ranks and gives no scores of pairs")
    if work.min_probability is not None and served.reranker.calibration is None:
        raise invalid(f"min_probability: the model {served.name} has no calibration, so nothing has a probability")
    standing = Standing(served, work, deadline_s, budget_s)
    standing.blocks = [await standing.score(served.stages[0], range(len(work.documents)))]
    for number, stage in enumerate(served.stages[1:], start=1):
        await standing.go_on(number, stage)
    return _answer(served, work, standing, budget_s is not None)


async def unless_gone(receive: Receive, seconds: float, limit_s: float, work: Awaitable[Result]) -> Result:
    """Await `work`, but no longer than `seconds` and only while the client is there; else it is cancelled.

    Raises:
        Problem: 504 or 499.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        # what scores has a deadline, too, which may be over first
        if task.done() and not isinstance(task.exception(), DeadlineExceeded):
            return task.result()
        raise client_gone() if gone.done() and not task.done() else late(limit_s)
    finally:
        for one in (task, gone):
            one.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _answer(served: Served, work: Work, standing: Standing, has_budget: bool) -> Answer:
    blocks, records = standing.blocks, standing.records
    best = joined(blocks) if len(blocks) > 1 else blocks[0]
    unscored = frozenset(document.index for document in best if not document.scored)
    ranking, calibration = Ranking(tuple(best), (), records[0], len(unscored)), served.reranker.calibration
    if calibration is not None:
        ranking = calibration.ranking(ranking, work.min_probability, len(served.stages) - 1)
    verdict = ranking.nothing_relevant if work.ranks else None
    in_order = sorted(best, key=lambda document: document.index)
    logits = np.array([document.logit for document in in_order], np.float32)
    return Answer(
        model=served.name,
        scores=tuple(document.score for document in in_order),
        scaled=tuple(activated(logits, scaled(served.reranker.own_activation), False).tolist()),
        logits=tuple(document.logit for document in in_order),
        order=tuple(document.index for document in ranking.documents),
        tokens=sum(record.tokens for record in records),
        cuts=tuple(standing.cuts[index] for index in sorted(standing.cuts)),
        warnings=(*work.warnings, *standing.warnings()),
        pairs=sum(record.pairs - record.unscored for record in records),
        cache_hits=sum(record.cache_hits for record in records),
        windows=sum(record.windows for record in records),
        unscored=unscored if has_budget else None,
        passages=tuple(document.passage for document in in_order),
        chances={
            one.index: (one.probability, *one.interval)
            for one in ranking.documents
            if one.probability is not None and one.interval is not None
        },
        nothing_relevant=None if verdict and standing.is_short else verdict,
        is_short=standing.is_short,
    )


Shape = RerankRequest | VoyageRequest | RankingRequest | TextsRequest | ScoreRequest | TextPairsRequest
# Headers are lines, and proxies refuse long ones.
LONGEST_HEADER = 1000
# Answers that are scored a second time at once; what is beyond is left out.
SHADOWS = 4
_DRAW = random.Random()  # noqa: S311 - which answers, no secret


@dataclass(frozen=True, slots=True)
class Service:
    """One running service."""

    settings: Settings
    models: Models
    metrics: Metrics
    admission: Admission
    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "secondpass-bodies"))
    shadowing: set[asyncio.Task[None]] = field(default_factory=set)

    async def aside(self, request: Request, limit_s: float, do: Callable[..., Result], *given: Any) -> Result:
        """Do what takes the longer the larger a body is; for a large one beside the event loop, one after the other.

        Raises:
            Problem: 504 or 499, as `unless_gone`; and what `do` raises.
        """
        facts = facts_of(request.scope)
        if facts.size < SLICE:
            return do(*given)
        made = asyncio.get_running_loop().run_in_executor(self.thread, do, *given)
        return await unless_gone(request.receive, limit_s - (time.monotonic() - facts.began), limit_s, made)

    async def answer(self, request: Request, shape: Shape, deadline_ms: int | None, budget_ms: int | None) -> Response:
        """Score a request's pairs within its deadline, and as long as its client is there.

        When the budget is spent, which counts from the first byte too, the answer is what is scored by then.

        Raises:
            Problem: it is refused, late, or nobody is there any more.
            SecondPassError: what scoring raises.
        """
        facts = facts_of(request.scope)
        work = shape.work()
        with self.models.held(work.model) as served:
            facts.model, facts.pairs = served.name, len(work.documents)
            whole = min(self.settings.deadline_s, (deadline_ms or float("inf")) / 1000)
            work, warnings = await self.aside(request, whole, check_texts, work, self.settings)
            passed = time.monotonic() - facts.began
            left, budget = whole - passed, None if budget_ms is None else max(LEAST_S, budget_ms / 1000 - passed)
            if left <= 0:
                raise late(whole)
            facts.span.asked(
                served.name,
                work.queries[0] if work.ranks else None,
                work.documents,
                top_k=shape.most,
                texts=self.settings.trace_texts,
            )
            answer = await unless_gone(request.receive, left, whole, answered(served, work, left, budget))
        facts.answered(answer, self.models.score_cache is not None)
        scores = dict(enumerate(answer.scores)) | dict.fromkeys(answer.unscored or ())
        facts.span.answered([(one, scores[one]) for one in answer.order[: shape.most]])
        self.metrics.scored(served.name, answer, time.monotonic() - facts.began)
        self._shadow(work, answer)
        answer = replace(answer, warnings=(*answer.warnings, *warnings))
        body = await self.aside(request, whole, lambda: shape.render(answer, facts.request_id).encode())
        return Response(body, media_type="application/json", headers=_headers(answer))

    def _shadow(self, work: Work, answer: Answer) -> None:
        """Let the model's shadow score the same documents, for a share of the answers, once this one is given."""
        name = dict(self.settings.shadows).get(answer.model)
        is_whole = answer.complete and not answer.is_short and work.min_probability is None
        if name is None or not (work.ranks and is_whole) or _DRAW.random() >= self.settings.shadow_share:
            return
        if len(self.shadowing) >= SHADOWS or self.admission.draining:
            self.metrics.shadowed(answer.model, name, "skipped")
            return
        task = asyncio.create_task(self._compare(replace(work, model=name), answer, name))
        self.shadowing.add(task)
        task.add_done_callback(self.shadowing.discard)

    async def _compare(self, work: Work, answer: Answer, name: str) -> None:
        try:
            with self.models.held(name) as served:
                other = await answered(served, work, self.settings.deadline_s)
            agreed = agreement(answer.order, other.order)
        except Exception:  # whatever: the client has its answer
            self.metrics.shadowed(answer.model, name, "failed")
        else:
            self.metrics.shadowed(answer.model, name, "compared", agreed)


def _headers(answer: Answer) -> dict[str, str]:
    """What an answer without room for it says beside itself."""
    headers = {"Cache-Control": "no-store", "Secondpass-Truncated": str(len(answer.cuts))}
    if answer.scored is not None:
        headers |= {"Secondpass-Scored": str(answer.scored), "Secondpass-Complete": str(answer.complete).lower()}
    if answer.nothing_relevant is not None:
        headers["Secondpass-Nothing-Relevant"] = str(answer.nothing_relevant).lower()
    if answer.warnings:
        headers["Secondpass-Warnings"] = "; ".join(answer.warnings)[:LONGEST_HEADER]
    return headers
