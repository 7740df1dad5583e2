"""A loaded pipeline that answers queries: its stages, the first pass's ranking beside the second's, and their times."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haystack.tracing.tracer import Span, Tracer, enable_tracing, tracer

from secondpass.errors import InvalidInput, SecondPassError
from secondpass.text import is_blank
from secondpass_pipelines.pipeline_files import QUESTIONS, query_inputs
from secondpass_pipelines.results import QueryResult, RankedDocument, chances_of
from secondpass_pipelines.stores import failure_line, in_servers

if TYPE_CHECKING:
    from haystack import Document, Pipeline

RUN = "haystack.component.run"
NAME = "haystack.component.name"


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

    def answer(self, query_id: str, query: str) -> QueryResult:
        """Run one query.

        Raises:
            SecondPassError: a component failed; the message names the query, the cause is the component's error.
        """
        inputs = self.stages.inputs(query, self.depth, self.top_k)
        with component_times() as ms:
            try:
                outputs = self.pipeline.run(inputs, include_outputs_from={*self.stages.first, self.stages.last})
            except Exception as error:
                raise SecondPassError(f"query {query_id!r} failed: {failure_line(error, self.pipeline)}") from error
        last = outputs.get(self.stages.last, {})
        return QueryResult(
            query_id=query_id,
            query=query,
            first={name: _ranking_of(outputs, name, texts=False) for name in self.stages.first},
            second=_ranking_of(outputs, self.stages.last, texts=True),
            ms={name: self._ms(ms, name) for name in (*self.stages.first, self.stages.last)},
            cut=len(last.get("truncated", ())),
            reranked=_is_reranked(last),
            textless=_textless(outputs, self.stages.feeding),
            shortened=any(inputs[component][socket] != query for component, socket in self.stages.queries),
            unscored=last.get("unscored", 0) if last.get("reranked", True) else 0,
            nothing_relevant=last.get("nothing_relevant"),
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
        sockets = [socket for component, socket in self.stages.depths if component == name]
        stated = getattr(self.pipeline.get_component(name), "top_k", None)
        hidden = getattr(self.pipeline.get_component(name), "_top_k", None)
        if not given or not sockets:
            return stated or hidden
        most = given * len(sockets)
        return most if "top_k" in sockets or not stated else min(most, stated)

    def _ms(self, ms: dict[str, float], stage: str) -> float:
        return sum(ms.get(name, 0.0) for name in (stage, *self.stages.upstream[stage]))


def searcher(pipeline: Pipeline, depth: int | None = None, top_k: int | None = None) -> Searcher:
    """Read the stages of a pipeline and be ready to answer queries with it.

    Raises:
        InvalidInput: a search cannot be made with it, or a depth or top_k is given that nothing takes.
    """
    stages = stages_of(pipeline)
    if depth is not None and all(component == stages.last for component, _ in stages.depths):
        raise InvalidInput(f"--depth {depth}: no component of the first pass takes a top_k")
    if top_k is not None and (stages.last, "top_k") not in stages.depths:
        raise InvalidInput(f"--top-k {top_k}: {stages.last!r}, which gives the answer, takes no top_k")
    return Searcher(pipeline, stages, depth, top_k)


def _is_reranked(last: Mapping[str, Any]) -> bool:
    """Whether the last component made an order of its own. A tuned ranker may well read no document on purpose."""
    on_purpose = last.get("read") == 0 and not last.get("unscored")
    return bool(last.get("reranked", True)) or on_purpose or not last.get("documents")


def _textless(outputs: dict[str, Any], feeding: Iterable[str]) -> int:
    given = (document for name in feeding for document in outputs.get(name, {}).get("documents", ()))
    return len({document.id for document in given if is_blank(document.content or "")})


def _ranking_of(outputs: dict[str, Any], stage: str, texts: bool) -> tuple[RankedDocument, ...]:
    documents: Iterable[Document] = outputs.get(stage, {}).get("documents", ())
    told = outputs.get(stage, {}).get("passages", ()) if texts else ()
    passages = {one["id"]: one for one in told if isinstance(one, dict) and "id" in one}
    chances = chances_of(outputs.get(stage, {})) if texts else {}
    ranking: dict[str, RankedDocument] = {}
    for document in documents:
        # A run lists a document once: its first place counts.
        score = None if document.score is None else float(document.score)
        passage = {name: value for name, value in passages.get(document.id, {}).items() if name != "id"}
        chance = chances.get(document.id, {})
        kept = (document.content, _in_json(document.meta), passage, chance) if texts else ()
        ranking.setdefault(document.id, RankedDocument(document.id, score, *kept))
    return tuple(ranking.values())


def _in_json(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in JSON's types; a value that it has not got, such as a date, is its text."""
    found: dict[str, Any] = json.loads(json.dumps(meta, default=str))
    return found


@dataclass(frozen=True, slots=True)
class Stages:
    """Components that give documents: `first` those on the way, `last` the one whose order is the answer.

    `upstream` names, for each of them, the components whose time counts as its own (a retriever's embedder).
    `feeding` are those of `first` whose documents the last one is given: several, if it joins them itself.
    `queries` and `depths` are the (component, socket) pairs that take the query and a top_k, or `top_k_bm25`;
    `limited` names the components that hand the query's words to a server, which takes 1,024 of them at most.
    """

    first: tuple[str, ...]
    last: str
    upstream: dict[str, tuple[str, ...]]
    feeding: tuple[str, ...]
    queries: tuple[tuple[str, str], ...]
    depths: frozenset[tuple[str, str]]
    limited: frozenset[str] = frozenset()

    def inputs(self, query: str, depth: int | None, top_k: int | None) -> dict[str, dict[str, Any]]:
        """Inputs by component. A flat {"top_k": ...} would reach every component that has such an input."""
        inputs = query_inputs(self.queries, query, self.limited)
        for component, socket in self.depths:
            value = top_k if component == self.last else depth
            if value is not None:
                inputs.setdefault(component, {})[socket] = value
        return inputs


def stages_of(pipeline: Pipeline) -> Stages:
    """Read the stages off a pipeline's graph.

    Raises:
        InvalidInput: no component or more than one gives the answer, or one needs an input that is not a query.
    """
    outputs = pipeline.outputs(include_components_with_connected_outputs=True)
    giving = {name for name, sockets in outputs.items() if "documents" in sockets}
    above = {name: _above(pipeline, name) for name in giving}
    ends = sorted(giving - set().union(*above.values()))
    if len(ends) != 1:
        found = f"{len(ends)} components do ({', '.join(ends)})" if ends else "none does"
        raise InvalidInput(f"the pipeline must end in one component that gives documents; {found}")
    # What lies further down has more above it, so retrievers come before what joins them.
    first = tuple(sorted(giving - {ends[0]}, key=lambda name: (len(above[name]), name)))
    upstream = {name: tuple(sorted(above[name] - giving)) for name in first}
    feeding = tuple(name for name in first if not any(name in above[other] for other in first))
    # What joins or ranks what others found keeps its own top_k.
    finding = {name for name in first if not above[name] & (giving - {name})}
    queries, depths = _inputs_of(pipeline, finding, ends[0])
    upstream[ends[0]] = ()
    return Stages(first, ends[0], upstream, feeding, tuple(queries), frozenset(depths), in_servers(pipeline))


def _above(pipeline: Pipeline, name: str) -> set[str]:
    """Components whose output reaches `name`."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for sender in pipeline.graph.predecessors(waiting.pop()):
            if sender not in found:
                found.add(sender)
                waiting.append(sender)
    return found


def _inputs_of(pipeline: Pipeline, finding: set[str], last: str) -> tuple[list[tuple[str, str]], set[tuple[str, str]]]:
    queries: list[tuple[str, str]] = []
    depths: set[tuple[str, str]] = set()
    for component, sockets in pipeline.inputs().items():
        # Of a component that searches twice, top_k cuts what both searches found.
        limits = [socket for socket in sockets if socket.startswith("top_k_")] or ["top_k"]
        for socket, described in sockets.items():
            named = socket in QUESTIONS and described["type"] in (str, Any)  # a prompt's variable is of any type
            if named or (socket == "text" and described["type"] is str and described["is_mandatory"]):
                queries.append((component, socket))
            elif described["is_mandatory"]:
                raise InvalidInput(f"component {component!r} needs {socket!r}, which a search has not got")
            elif (component == last and socket == "top_k") or (component in finding and socket in limits):
                depths.add((component, socket))
    if not queries:
        raise InvalidInput("no component of the pipeline takes a query")
    return queries, depths


class ComponentClock(Tracer):
    """Passes every span on to the tracer that was there before, and adds up how long each component took."""

    def __init__(self, before: Tracer) -> None:
        self._before = before
        self.ms: dict[str, float] = {}

    @contextmanager
    def trace(
        self, operation_name: str, tags: dict[str, Any] | None = None, parent_span: Span | None = None
    ) -> Iterator[Span]:
        """Time a span of a component."""
        began = time.perf_counter()
        with self._before.trace(operation_name, tags=tags, parent_span=parent_span) as span:
            yield span
        name = (tags or {}).get(NAME)
        if operation_name == RUN and name is not None:
            self.ms[name] = self.ms.get(name, 0.0) + 1000 * (time.perf_counter() - began)

    def current_span(self) -> Span | None:
        """Return the span of the tracer that was there before."""
        return self._before.current_span()


@contextmanager
def component_times() -> Iterator[dict[str, float]]:
    """Collect milliseconds by component name while the `with` block runs pipelines (one at a time in a process)."""
    before = tracer.actual_tracer
    clock = ComponentClock(before)
    enable_tracing(clock)
    try:
        yield clock.ms
    finally:
        enable_tracing(before)
