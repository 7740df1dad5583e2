"""Both passes of a pipeline over the judged queries of a BEIR folder, as runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from statistics import fmean
from typing import TYPE_CHECKING

from haystack_integrations.common.secondpass.search.answers import Answer, Hit
from haystack_integrations.common.secondpass.search.collection import collection, told_in_one_line
from haystack_integrations.common.secondpass.search.evaluation_nodes import measures_of
from haystack_integrations.common.secondpass.search.notes import Notes
from haystack_integrations.common.secondpass.search.partial_file import PartialFile
from haystack_integrations.common.secondpass.search.pipeline_files import load_pipeline, pipeline_file, read_pipeline
from haystack_integrations.common.secondpass.search.questions import Questions, judged_questions
from haystack_integrations.common.secondpass.search.results import ResultWriter
from haystack_integrations.common.secondpass.search.search_run import (
    SearchRequest,
    answered,
    progress_bars,
    settings,
)
from haystack_integrations.common.secondpass.search.searching import searcher
from haystack_integrations.common.secondpass.search.stages import Stages
from haystack_integrations.common.secondpass.search.stores import absent, close, document_stores, store_name

from secondpass.errors import InvalidInput
from secondpass.evaluation.columns import column_of
from secondpass.evaluation.dataset_runs import DatasetRequest, DatasetRuns
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run

if TYPE_CHECKING:
    from haystack import Pipeline

Documents = list[tuple[str, float | None]]


class Passes:
    """Collects answers as runs: one for each component of the first pass, one for the second.

    Where the ranker joins several lists itself, there is a further run of its candidates: these lists one after the
    other, each document once, without scores, which would not be of one scale.
    """

    def __init__(self, stages: Stages) -> None:
        self._last = stages.last
        self._joined = stages.feeding if len(stages.feeding) > 1 else ()
        candidates = (" + ".join(self._joined),) if self._joined else ()
        self._rankings: dict[str, dict[str, Documents]] = {
            name: {} for name in (*stages.first, *candidates, stages.last)
        }
        self._ms: dict[str, list[float]] = {name: [] for name in self._rankings}

    def watch(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Pass answers on and keep their rankings."""
        for answer in answers:
            for name, hits in answer.first.items():
                self._add(name, answer, hits, answer.ms[name])
            if self._joined:
                joined = {hit.id: Hit(hit.id, None) for name in self._joined for hit in answer.first[name]}
                ms = sum(answer.ms[name] for name in answer.first)
                self._add(" + ".join(self._joined), answer, joined.values(), ms)
            self._add(self._last, answer, answer.second, answer.ms[self._last])
            yield answer

    def runs(self) -> list[Run]:
        """Runs in the order of the passes, the second last, by names that say which component it was."""
        return [Run(self._title(name), rankings) for name, rankings in self._rankings.items()]

    def ms(self) -> dict[str, float]:
        """Mean milliseconds a query by the name of the run."""
        return {self._title(name): fmean(times) for name, times in self._ms.items() if times}

    def _add(self, name: str, answer: Answer, hits: Iterable[Hit], ms: float) -> None:
        self._rankings[name][answer.query_id] = [(hit.id, hit.score) for hit in hits]
        self._ms[name].append(ms)

    def _title(self, name: str) -> str:
        return f"{'second' if name == self._last else 'first'} pass ({name})"


def both_passes(request: DatasetRequest) -> DatasetRuns:
    """Do what `dataset_run.run_dataset` says.

    Raises:
        InvalidInput: a file is refused, the pipeline has no second pass, or none of the judged documents is indexed.
        SecondPassError: a component failed on a query, or a server does not answer; what was answered is kept.
    """
    file = pipeline_file(request.pipeline)
    questions = judged_questions(request.dataset, request.split)
    pipeline = load_pipeline(file, request.model, request.index)
    with ExitStack() as stack:
        stack.callback(close, pipeline)
        found = collection(pipeline, None if request.indexed else request.dataset, request.add)
        # No query has more candidates than there are documents.
        search = searcher(pipeline, request.depth, request.top_k or found.documents)
        if not search.stages.first:
            raise InvalidInput(f"{file}: only {search.stages.last!r} gives documents, so there is no second pass in it")
        asked = _as_search(request, questions, search.top_k)
        missing = not_indexed(pipeline, asked.asked) if request.indexed else 0
        passes, notes = Passes(search.stages), Notes()
        progress = stack.enter_context(progress_bars())
        partial = None
        if request.output is not None:
            partial = stack.enter_context(PartialFile(request.output, settings(asked, file, found)))
        answers = passes.watch(notes.watch(answered(asked, search, found, partial, progress)))
        ResultWriter(request.output, asked.form, {}).write(answers, list)
        if partial is not None:
            partial.remove()
    *first, second = passes.runs()
    texts = asked.asked.texts
    judged = questions.qrels or Qrels({})
    return DatasetRuns(
        qrels=judged if request.limit is None else judged.only(texts),
        first=tuple(first),
        second=second,
        texts=texts,
        ms=passes.ms(),
        cut=notes.cut,
        not_reranked=notes.given_back,
        measures=measures_of(read_pipeline(file)),
        textless=notes.textless,
        shortened=notes.shortened,
        absent=missing,
    )


def not_indexed(pipeline: Pipeline, questions: Questions) -> int:
    """How many documents that are relevant to a question no store of the pipeline has.

    Raises:
        InvalidInput: all of them, so it is another collection, or its ids are not in the field "id".
        SecondPassError: a server does not answer.
    """
    qrels = questions.qrels or Qrels({})
    grades = (qrels[query_id] for query_id in questions.texts)
    relevant = sorted({document for graded in grades for document, grade in graded.items() if grade > 0})
    with told_in_one_line(pipeline):
        stores = document_stores(pipeline)
        missing = max((absent(store, relevant) for store in stores), default=0)
        if missing and missing == len(relevant):
            names = ", ".join(store_name(store) for store in stores)
            raise InvalidInput(f"none of the {missing} relevant documents is in {names}: is it another collection?")
    return missing


def _as_search(request: DatasetRequest, questions: Questions, top_k: int | None) -> SearchRequest:
    form = "trec" if request.output is not None else ""
    if form:
        for query_id in questions.texts:
            column_of(query_id)
    return SearchRequest(
        request.pipeline,
        None if request.indexed else request.dataset,
        questions,
        request.limit,
        request.depth,
        top_k,
        request.model,
        request.output,
        form,
        request.index,
        request.add,
    )
