"""`secondpass ask`: a corpus into a pipeline, questions through it, answers with their sources out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_integrations.components.rankers.secondpass import SecondPassRanker, SecondPassTunedRanker

from secondpass.calibration import Calibration
from secondpass.cli.output import PipeConsole
from secondpass.errors import InvalidInput, SecondPassError
from secondpass_pipelines.indexing import collection, fill
from secondpass_pipelines.pipeline_files import QUESTIONS, load_pipeline, pipeline_file, query_inputs
from secondpass_pipelines.stores import close, failure_line, in_servers

if TYPE_CHECKING:
    from haystack import Pipeline

# The sockets that hold answers, the better one first: objects that know their documents, then texts.
SOCKETS = ("answers", "replies")
RANKERS = (SecondPassRanker, SecondPassTunedRanker)


def run_ask(
    pipeline_name: str,
    corpus: Path | None,
    questions: Mapping[str, str],
    as_json: bool,
    calibration: Path | None = None,
    refuse: bool | None = None,
    index: str | None = None,
    add: bool = False,
) -> None:
    """Answer the questions, by their ids, one after the other and print each as it comes.

    `calibration` and `refuse` (no answer where no document has one) take the place of what the pipeline's ranker says,
    `index` that of the index of stores that live in a server. `add` lets the corpus into one that holds documents.

    Raises:
        InvalidInput: a file is refused, an index is filled, no component answers, or `refuse` has no calibration.
        SecondPassError: a component failed on a question.
    """
    file = pipeline_file(pipeline_name)
    if calibration is not None:
        Calibration.load(calibration)
    dropping = None if refuse is None else "drop" if refuse else "keep"
    given = {"calibration": calibration and str(calibration), "when_nothing_relevant": dropping}
    pipeline = load_pipeline(file, index=index, ranker=given)
    try:
        rankers = {name: part for name, part in pipeline.walk() if isinstance(part, RANKERS)}
        if refuse:
            check_rule(*rankers.values())
        elif calibration is not None:  # whether it is the model's is known when that is loaded, and not late
            any(ranker.has_answer_rule() for ranker in rankers.values())
        asked = answer_sockets(pipeline, file)
        fill(pipeline, collection(pipeline, corpus, add))
        console = PipeConsole(soft_wrap=True)
        for query_id, question in questions.items():
            began = time.perf_counter()
            try:
                outputs = pipeline.run(asked.inputs(question), include_outputs_from=set(rankers))
            except Exception as error:
                raise SecondPassError(f"question {query_id!r} failed: {failure_line(error, pipeline)}") from error
            answers = list(read_answers(outputs.get(asked.component, {}).get(asked.socket, ())))
            seconds = time.perf_counter() - began
            if as_json:
                found = [asdict(answer) for answer in answers]
                line = {"query_id": query_id, "query": question, "answers": found, "seconds": round(seconds, 3)}
                verdicts = [outputs.get(name, {}).get("nothing_relevant") for name in rankers]
                line |= {"nothing_relevant": verdicts[-1]} if verdicts and verdicts[-1] is not None else {}
                console.out(json.dumps(line, ensure_ascii=False), highlight=False)
            else:
                _show(console, question, answers)
    finally:
        close(pipeline)


def check_rule(*rankers: SecondPassRanker | SecondPassTunedRanker) -> None:
    """Refuse rankers none of which knows when nothing is relevant, so that no question would be refused.

    Raises:
        InvalidInput: so it is.
    """
    if not any(ranker.has_answer_rule() for ranker in rankers):
        raise InvalidInput("--refuse: the ranker's model has no calibration that says when nothing is relevant")


def _show(console: PipeConsole, question: str, answers: list[Any]) -> None:
    console.print(question, style="bold", markup=False)
    if not answers:
        console.print("  (no answer in the documents)")
    for answer in answers:
        score = "" if answer.score is None else f"{answer.score:.2f}  "
        console.print(f"  {score}{answer.text}", markup=False)
        if answer.sources:
            console.print(f"  from {', '.join(answer.sources)}", style="dim", markup=False)


@dataclass(frozen=True, slots=True)
class AnswerSockets:
    """The socket that gives the answers, and the (component, socket) pairs that take the question.

    `limited` names the components that hand its words to a server, which takes 1,024 of them at most.
    """

    component: str
    socket: str
    queries: tuple[tuple[str, str], ...]
    limited: frozenset[str] = frozenset()

    def inputs(self, question: str) -> dict[str, dict[str, Any]]:
        """Inputs by component."""
        return query_inputs(self.queries, question, self.limited)


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """A text, its score where it has one, the ids of its documents, and its place in the document it is quoted from."""

    text: str
    score: float | None
    sources: tuple[str, ...]
    start: int | None = None
    end: int | None = None


def answer_sockets(pipeline: Pipeline, file: Path) -> AnswerSockets:
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
            if socket in QUESTIONS or (socket == "text" and described["type"] is str and described["is_mandatory"]):
                queries.append((component, socket))
            elif described["is_mandatory"]:
                raise InvalidInput(f"{file}: component {component!r} needs {socket!r}, which a question is not")
    if not queries:
        raise InvalidInput(f"{file}: no component takes a question")
    component, socket = giving[0]
    return AnswerSockets(component, socket, tuple(queries), in_servers(pipeline))


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
