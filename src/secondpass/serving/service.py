"""What one running service holds, and what it does with a request that was let in."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from secondpass.serving.admission import Admission
from secondpass.serving.answering import answered, unless_gone
from secondpass.serving.checking import check_texts
from secondpass.serving.metrics import Metrics
from secondpass.serving.models import Models
from secondpass.serving.problems import late
from secondpass.serving.request_log import facts_of
from secondpass.serving.settings import Settings
from secondpass.serving.shapes.parts import Answer, Work

JSON = "application/json"
# Headers are lines, and proxies refuse long ones.
LONGEST_HEADER = 1000


class Shape(Protocol):
    """A body of one of the APIs."""

    def work(self) -> Work:
        """The pairs to score."""
        ...

    def render(self, answer: Answer, request_id: str) -> str:
        """The answer as JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """One running service."""

    settings: Settings
    models: Models
    metrics: Metrics
    admission: Admission

    async def answer(self, request: Request, shape: Shape, deadline_ms: int | None) -> Response:
        """Score a request's pairs within its deadline, and as long as its client is there.

        Raises:
            Problem: it is refused, late, or nobody is there any more.
            SecondPassError: what scoring raises.
        """
        facts = facts_of(request.scope)
        work = shape.work()
        served = self.models.get(work.model)
        facts.model, facts.pairs = served.name, len(work.documents)
        warnings = check_texts(work, self.settings)
        whole = min(self.settings.deadline_s, (deadline_ms or float("inf")) / 1000)
        left = whole - (time.monotonic() - facts.began)
        if left <= 0:
            raise late(whole)
        answer = await unless_gone(request.receive, left, whole, answered(served, work, left))
        facts.tokens, facts.cut = answer.tokens, len(answer.cuts)
        self.metrics.scored(served.name, len(work.documents), answer.tokens, len(answer.cuts))
        answer = replace(answer, warnings=(*answer.warnings, *warnings))
        return Response(shape.render(answer, facts.request_id), media_type=JSON, headers=_headers(answer))


def _headers(answer: Answer) -> dict[str, str]:
    """What an answer without room for it says beside itself."""
    headers = {"Cache-Control": "no-store", "Secondpass-Truncated": str(len(answer.cuts))}
    if answer.warnings:
        headers["Secondpass-Warnings"] = "; ".join(answer.warnings)[:LONGEST_HEADER]
    return headers
