"""Which component of a pipeline gives the answers, what each is asked, and answers as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput

if TYPE_CHECKING:
    from haystack import Pipeline

# The sockets that hold answers, the better one first: objects that know their documents, then texts.
SOCKETS = ("answers", "replies")


@dataclass(frozen=True, slots=True)
class Answered:
    """The socket that gives the answers, and the (component, socket) pairs that take the question."""

    component: str
    socket: str
    queries: tuple[tuple[str, str], ...]

    def inputs(self, question: str) -> dict[str, dict[str, Any]]:
        """Inputs by component."""
        made: dict[str, dict[str, Any]] = {}
        for component, socket in self.queries:
            made.setdefault(component, {})[socket] = question
        return made


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """A text, its score where it has one, the ids of its documents, and its place in the document it is quoted from."""

    text: str
    score: float | None
    sources: tuple[str, ...]
    start: int | None = None
    end: int | None = None


def answered(pipeline: Pipeline, file: Path) -> Answered:
    """Find where a pipeline takes the question and gives the answers.

    Raises:
        InvalidInput: no component or more than one gives answers, or one needs an input that is not the question.
    """
    outputs = pipeline.outputs()
    giving = [(name, socket) for socket in SOCKETS for name, sockets in outputs.items() if socket in sockets]
    components = {name for name, _ in giving}
    if len(components) != 1:
        found = f"{len(components)} do ({', '.join(sorted(components))})" if components else "none does"
        raise InvalidInput(f"{file}: one component must give answers or replies at its end; {found}")
    queries = []
    for component, sockets in pipeline.inputs().items():
        for socket, described in sockets.items():
            takes = socket in ("query", "question") or (socket == "text" and described["type"] is str)
            if takes and described["is_mandatory"]:
                queries.append((component, socket))
            elif described["is_mandatory"]:
                raise InvalidInput(f"{file}: component {component!r} needs {socket!r}, which a question is not")
    if not queries:
        raise InvalidInput(f"{file}: no component takes a question")
    component, socket = giving[0]
    return Answered(component, socket, tuple(queries))


def read_answers(values: Iterable[Any]) -> Iterator[PlainAnswer]:
    """Answers of a reader (with scores and places), of an answer builder, or bare replies."""
    for value in values:
        if hasattr(value, "document_offset"):
            place = value.document_offset
            yield PlainAnswer(
                value.data or "",
                float(value.score),
                (value.document.id,) if value.document is not None else (),
                None if place is None else place.start,
                None if place is None else place.end,
            )
        elif hasattr(value, "documents"):
            cited = [document for document in value.documents if document.meta.get("referenced", True)]
            yield PlainAnswer(str(value.data), None, tuple(document.id for document in cited))
        else:
            yield PlainAnswer(str(getattr(value, "text", value)), None, ())
