"""`secondpass search`: a corpus into a pipeline, queries through it, a run and its figures out."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haystack_integrations.common.secondpass.search.answers import Answer
from haystack_integrations.common.secondpass.search.collection import Collection, collection, fill
from haystack_integrations.common.secondpass.search.measures import Judge
from haystack_integrations.common.secondpass.search.notes import Notes
from haystack_integrations.common.secondpass.search.partial_file import PartialFile
from haystack_integrations.common.secondpass.search.pipeline_files import load_pipeline, pipeline_file
from haystack_integrations.common.secondpass.search.questions import Questions
from haystack_integrations.common.secondpass.search.results import ResultWriter
from haystack_integrations.common.secondpass.search.searching import Searcher, searcher
from haystack_integrations.common.secondpass.search.showing import quality_table
from haystack_integrations.common.secondpass.search.stores import close
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from secondpass.evaluation.columns import column_of


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What the command line asked for; `form` is "trec", "json", "table" or "" for figures only.

    Without a corpus the pipeline's stores are searched as they are. `index` takes the place of the index of stores
    that live in a server; `add` allows to index a corpus into one that holds documents.
    """

    pipeline: str
    corpus: Path | None
    questions: Questions
    limit: int | None
    depth: int | None
    top_k: int | None
    model: str | None
    output: Path | None
    form: str
    index: str | None = None
    add: bool = False

    @property
    def asked(self) -> Questions:
        """The questions within the limit."""
        return self.questions.limited(self.limit)

    @property
    def printing(self) -> bool:
        """Whether answers go to stdout."""
        return self.output is None and self.form != ""


def run_search(request: SearchRequest) -> None:
    """Answer the questions, write what was asked for and print the figures.

    Raises:
        InvalidInput: a file is refused.
        MissingExtra: there are judgements and ir_measures is not installed.
        SecondPassError: a component failed on a query; what was answered before is kept.
    """
    file = pipeline_file(request.pipeline)
    judge = Judge(request.questions.qrels) if request.questions.qrels is not None else None
    if request.form == "trec":
        for query_id in request.questions.texts:
            column_of(query_id)
    pipeline = load_pipeline(file, request.model, request.index)
    with ExitStack() as stack:
        stack.callback(close, pipeline)
        search = searcher(pipeline, request.depth, request.top_k)
        found = collection(pipeline, request.corpus, request.add)
        progress = stack.enter_context(progress_bars())
        partial = None
        if request.output is not None:
            partial = stack.enter_context(PartialFile(request.output, settings(request, file, found)))
        head = {"pipeline": str(file), "corpus": str(request.corpus or found.identity)}
        writer = ResultWriter(request.output, request.form, head)
        answers = answered(request, search, found, partial, progress)
        notes = Notes()
        writer.write(_judged(notes.watch(answers), judge, search.stages.last), lambda: _figures(judge))
        if partial is not None:
            partial.remove()
        shallow = search.shallow()
    notes.show()
    if shallow:
        print(f"secondpass: {shallow}", file=sys.stderr)  # noqa: T201
    if judge is not None:
        _show(judge, search.stages.last, len(request.asked.texts), to_stderr=request.printing)


def progress_bars() -> Progress:
    """Bars on stderr, so that stdout is the result alone; nothing is drawn where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def answered(
    request: SearchRequest,
    search: Searcher,
    found: Collection,
    partial: PartialFile | None,
    progress: Progress,
) -> Iterator[Answer]:
    """Answers in the order of the questions: first those of an earlier, broken run, then new ones."""
    asked = request.asked
    done = partial.answered if partial is not None else set()
    left = {query_id: text for query_id, text in asked.texts.items() if query_id not in done}
    if left:
        continued = partial is not None and partial.continued
        fill(search.pipeline, found, progress, columns=request.form == "trec", continued=continued)
        search.warm_up()
    if request.printing:
        # Bars that are redrawn and results that are printed would overwrite each other on a terminal.
        progress.stop()
    bar = progress.add_task("Searching", total=len(asked.texts), completed=len(asked.texts) - len(left))
    for query_id, text in left.items():
        answer = search.answer(query_id, text)
        if partial is None:
            yield answer
        else:
            partial.append(answer, texts=request.form == "json")
        progress.advance(bar)
    if partial is not None:
        yield from (answer for answer in partial.answers() if answer.query_id in asked.texts)


def _judged(answers: Iterator[Answer], judge: Judge | None, last: str) -> Iterator[Answer]:
    for answer in answers:
        if judge is not None:
            judge.add(answer, last)
        yield answer


def _figures(judge: Judge | None) -> list[dict[str, Any]]:
    """Return a dict for every stage, for JSON."""
    return [] if judge is None else judge.figures()


def _show(judge: Judge, last: str, asked: int, to_stderr: bool) -> None:
    console = Console(file=sys.stderr if to_stderr else sys.stdout, highlight=False)
    console.print(quality_table(judge.qualities(), last))
    console.print(f"Means over {judge.judged} judged queries of {asked}.")


def settings(request: SearchRequest, file: Path, found: Collection) -> dict[str, Any]:
    """Everything that decides what an answer is: a partial file is continued only if all of it is equal."""
    texts = json.dumps(request.questions.texts).encode()
    return {
        "pipeline": hashlib.sha256(file.read_bytes()).hexdigest(),
        "corpus": found.identity,
        "queries": hashlib.sha256(texts).hexdigest(),
        "depth": request.depth,
        "top-k": request.top_k,
        "model": request.model,
        "format": request.form,
    }
