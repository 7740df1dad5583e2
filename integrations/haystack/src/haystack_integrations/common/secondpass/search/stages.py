"""Which components of a pipeline make the first pass and which one the second, and what each is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput

if TYPE_CHECKING:
    from haystack import Pipeline


@dataclass(frozen=True, slots=True)
class Stages:
    """Components that give documents: `first` those on the way, `last` the one whose order is the answer.

    `upstream` names, for each of them, the components whose time counts as its own (a retriever's embedder).
    `feeding` are those of `first` whose documents the last one is given: several, if it joins them itself.
    `queries` and `depths` are the (component, socket) pairs that take the query and a top_k.
    """

    first: tuple[str, ...]
    last: str
    upstream: dict[str, tuple[str, ...]]
    feeding: tuple[str, ...]
    queries: tuple[tuple[str, str], ...]
    depths: frozenset[str]

    def inputs(self, query: str, depth: int | None, top_k: int | None) -> dict[str, dict[str, Any]]:
        """Inputs by component. A flat {"top_k": ...} would reach every component that has such an input."""
        inputs: dict[str, dict[str, Any]] = {}
        for component, socket in self.queries:
            inputs.setdefault(component, {})[socket] = query
        for component in self.depths:
            value = top_k if component == self.last else depth
            if value is not None:
                inputs.setdefault(component, {})["top_k"] = value
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
    queries, depths = _inputs_of(pipeline, giving)
    return Stages(first, ends[0], {**upstream, ends[0]: ()}, feeding, queries, depths)


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


def _inputs_of(pipeline: Pipeline, stages: set[str]) -> tuple[tuple[tuple[str, str], ...], frozenset[str]]:
    queries: list[tuple[str, str]] = []
    depths: set[str] = set()
    for component, sockets in pipeline.inputs().items():
        for socket, described in sockets.items():
            if described["type"] is str and (socket == "query" or (socket == "text" and described["is_mandatory"])):
                queries.append((component, socket))
            elif described["is_mandatory"]:
                raise InvalidInput(f"component {component!r} needs {socket!r}, which a search has not got")
            elif socket == "top_k" and component in stages:
                depths.add(component)
    if not queries:
        raise InvalidInput("no component of the pipeline takes a query")
    return tuple(queries), frozenset(depths)
