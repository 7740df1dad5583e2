"""A loaded pipeline that answers queries, with the first pass's ranking kept beside the second's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_integrations.common.secondpass.search.answers import Answer, Hit
from haystack_integrations.common.secondpass.search.stages import Stages, stages_of
from haystack_integrations.common.secondpass.search.timing import component_times

from secondpass.errors import SecondPassError

if TYPE_CHECKING:
    from haystack import Document, Pipeline


@dataclass(frozen=True, slots=True)
class Searcher:
    """A pipeline with its stages; `depth` and `top_k` replace the top_k of first pass and second where given."""

    pipeline: Pipeline
    stages: Stages
    depth: int | None = None
    top_k: int | None = None

    def warm_up(self) -> float:
        """Load the models; returns the seconds it took."""
        began = time.perf_counter()
        self.pipeline.warm_up()
        return time.perf_counter() - began

    def answer(self, query_id: str, query: str) -> Answer:
        """Run one query.

        Raises:
            SecondPassError: a component failed; the message names the query, the cause is the component's error.
        """
        inputs = self.stages.inputs(query, self.depth, self.top_k)
        with component_times() as ms:
            try:
                outputs = self.pipeline.run(inputs, include_outputs_from={*self.stages.first, self.stages.last})
            except Exception as error:
                raise SecondPassError(f"query {query_id!r} failed: {_root(error)}") from error
        last = outputs.get(self.stages.last, {})
        return Answer(
            query_id=query_id,
            query=query,
            first={name: _hits(outputs, name, texts=False) for name in self.stages.first},
            second=_hits(outputs, self.stages.last, texts=True),
            ms={name: self._ms(ms, name) for name in (*self.stages.first, self.stages.last)},
            cut=len(last.get("truncated", ())),
            reranked=bool(last.get("reranked", True)) or not last.get("documents"),
        )

    def _ms(self, ms: dict[str, float], stage: str) -> float:
        return sum(ms.get(name, 0.0) for name in (stage, *self.stages.upstream[stage]))


def searcher(pipeline: Pipeline, depth: int | None = None, top_k: int | None = None) -> Searcher:
    """Read the stages of a pipeline and be ready to answer queries with it."""
    return Searcher(pipeline, stages_of(pipeline), depth, top_k)


def _hits(outputs: dict[str, Any], stage: str, texts: bool) -> tuple[Hit, ...]:
    documents: Iterable[Document] = outputs.get(stage, {}).get("documents", ())
    hits: dict[str, Hit] = {}
    for document in documents:
        # A run lists a document once: its first place counts.
        score = None if document.score is None else float(document.score)
        hits.setdefault(document.id, Hit(document.id, score, document.content if texts else None))
    return tuple(hits.values())


def _root(error: BaseException) -> BaseException:
    """Return what a component raised, without the pipeline's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
