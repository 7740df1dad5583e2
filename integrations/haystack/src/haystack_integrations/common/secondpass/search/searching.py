"""A loaded pipeline that answers queries, with the first pass's ranking kept beside the second's."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack_integrations.common.secondpass.search.answers import Answer, Hit
from haystack_integrations.common.secondpass.search.server_stores import engine_of
from haystack_integrations.common.secondpass.search.stages import Stages, stages_of
from haystack_integrations.common.secondpass.search.store_failures import failure_line
from haystack_integrations.common.secondpass.search.stores import store_of
from haystack_integrations.common.secondpass.search.timing import component_times

from secondpass.errors import SecondPassError
from secondpass.text import is_blank
from secondpass_servers.two_pass import shortened

if TYPE_CHECKING:
    from haystack import Document, Pipeline


@dataclass(frozen=True, slots=True)
class Searcher:
    """A pipeline with its stages; `depth` and `top_k` replace the top_k of first pass and second where given.

    `limited` names the components that hand the query's words to a server, which takes 1,024 of them at most.
    """

    pipeline: Pipeline
    stages: Stages
    depth: int | None = None
    top_k: int | None = None
    limited: frozenset[str] = frozenset()

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
        short = shortened(query) if self.limited else query
        for component, socket in self.stages.queries:
            if component in self.limited:
                inputs[component][socket] = short
        with component_times() as ms:
            try:
                outputs = self.pipeline.run(inputs, include_outputs_from={*self.stages.first, self.stages.last})
            except Exception as error:
                raise SecondPassError(f"query {query_id!r} failed: {failure_line(error, self.pipeline)}") from error
        last = outputs.get(self.stages.last, {})
        return Answer(
            query_id=query_id,
            query=query,
            first={name: _hits(outputs, name, texts=False) for name in self.stages.first},
            second=_hits(outputs, self.stages.last, texts=True),
            ms={name: self._ms(ms, name) for name in (*self.stages.first, self.stages.last)},
            cut=len(last.get("truncated", ())),
            reranked=bool(last.get("reranked", True)) or not last.get("documents"),
            textless=_textless(outputs, self.stages.feeding),
            shortened=short != query,
        )

    def shallow(self) -> str:
        """Why no query can get as many documents as were asked for; empty if it can."""
        depths = [self._top_k(name, self.depth) for name in self.stages.feeding]
        wanted = self._top_k(self.stages.last, self.top_k)
        known = [depth for depth in depths if depth is not None]
        if wanted is None or not known or len(known) < len(depths) or sum(known) >= wanted:
            return ""
        return f"the first pass gives {sum(known)} documents at most, so no query gets the {wanted} asked for"

    def _top_k(self, name: str, given: int | None) -> int | None:
        stated = getattr(self.pipeline.get_component(name), "top_k", None)
        hidden = getattr(self.pipeline.get_component(name), "_top_k", None)
        return given or stated or hidden

    def _ms(self, ms: dict[str, float], stage: str) -> float:
        return sum(ms.get(name, 0.0) for name in (stage, *self.stages.upstream[stage]))


def searcher(pipeline: Pipeline, depth: int | None = None, top_k: int | None = None) -> Searcher:
    """Read the stages of a pipeline and be ready to answer queries with it."""
    stages = stages_of(pipeline)
    limited = (name for name, _ in stages.queries if _in_server(pipeline.get_component(name)))
    return Searcher(pipeline, stages, depth, top_k, frozenset(limited))


def _in_server(component: Any) -> bool:
    store = store_of(component)
    return store is not None and engine_of(store.to_dict()) is not None


def _textless(outputs: dict[str, Any], feeding: Iterable[str]) -> int:
    given = (document for name in feeding for document in outputs.get(name, {}).get("documents", ()))
    return len({document.id for document in given if is_blank(document.content or "")})


def _hits(outputs: dict[str, Any], stage: str, texts: bool) -> tuple[Hit, ...]:
    documents: Iterable[Document] = outputs.get(stage, {}).get("documents", ())
    hits: dict[str, Hit] = {}
    for document in documents:
        # A run lists a document once: its first place counts.
        score = None if document.score is None else float(document.score)
        hits.setdefault(document.id, Hit(document.id, score, document.content if texts else None))
    return tuple(hits.values())
