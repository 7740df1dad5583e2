"""`secondpass ask`: a corpus into a pipeline, questions through it, answers with their sources out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack_integrations.common.secondpass.rag.answered import Answered, answered, read_answers
from haystack_integrations.common.secondpass.search.collection import told_in_one_line
from haystack_integrations.common.secondpass.search.indexing import index
from haystack_integrations.common.secondpass.search.pipeline_files import IN_MEMORY, load_pipeline, pipeline_file
from haystack_integrations.common.secondpass.search.search_run import progress_bars
from haystack_integrations.common.secondpass.search.store_failures import failure_line
from haystack_integrations.common.secondpass.search.stores import document_stores

from secondpass.cli.failures import PipeConsole
from secondpass.corpora import read_corpus, survey
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.queries import read_queries
from secondpass.text import checked_query

if TYPE_CHECKING:
    from haystack import Pipeline


@dataclass(frozen=True, slots=True)
class AskRequest:
    """What the command line asked for; exactly one of `question` and `queries` is given."""

    pipeline: str
    corpus: Path | None
    question: str | None
    queries: Path | None
    as_json: bool


def run_ask(request: AskRequest) -> None:
    """Answer the questions one after the other and print each as it comes.

    Raises:
        InvalidInput: a file is refused, or the pipeline gives no answers.
        SecondPassError: a component failed on a question.
    """
    questions = _questions(request)
    file = pipeline_file(request.pipeline)
    pipeline = load_pipeline(file)
    asked = answered(pipeline, file)
    if request.corpus is not None:
        _fill(pipeline, request.corpus)
    elif all(type(store).__module__ == IN_MEMORY.rpartition(".")[0] for store in document_stores(pipeline)):
        raise InvalidInput(f"{file}: its documents are kept in memory, so --corpus must say what to search")
    console = PipeConsole(highlight=False, soft_wrap=True)
    for query_id, question in questions.items():
        began = time.perf_counter()
        answers = _answers(pipeline, asked, query_id, question)
        seconds = time.perf_counter() - began
        if request.as_json:
            found = [asdict(answer) for answer in answers]
            line = {"query_id": query_id, "query": question, "answers": found, "seconds": round(seconds, 3)}
            console.out(json.dumps(line, ensure_ascii=False), highlight=False)
        else:
            _show(console, question, answers)


def _questions(request: AskRequest) -> Mapping[str, str]:
    if request.question is not None:
        return {"1": checked_query(request.question, "question")}
    return read_queries(request.queries) if request.queries is not None else {}


def _fill(pipeline: Pipeline, corpus: Path) -> None:
    found = survey(corpus)
    with progress_bars() as progress, told_in_one_line(pipeline):
        bar = progress.add_task("Indexing", total=found.documents)
        index(pipeline, read_corpus(corpus), lambda count: progress.advance(bar, count))


def _answers(pipeline: Pipeline, asked: Answered, query_id: str, question: str) -> list[Any]:
    try:
        outputs = pipeline.run(asked.inputs(question))
    except Exception as error:
        raise SecondPassError(f"question {query_id!r} failed: {failure_line(error, pipeline)}") from error
    return list(read_answers(outputs.get(asked.component, {}).get(asked.socket, ())))


def _show(console: PipeConsole, question: str, answers: list[Any]) -> None:
    console.print(question, style="bold", markup=False)
    if not answers:
        console.print("  (no answer in the documents)")
    for answer in answers:
        score = "" if answer.score is None else f"{answer.score:.2f}  "
        console.print(f"  {score}{answer.text}", markup=False)
        if answer.sources:
            console.print(f"  from {', '.join(answer.sources)}", style="dim", markup=False)
