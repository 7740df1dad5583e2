"""Both passes of a pipeline over the judged queries of a BEIR folder, as runs: `secondpass evaluate --pipeline`.

Nothing heavy is imported before `run_dataset` is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import JudgedQueries, Qrels, judged_queries
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import DatasetRequest, DatasetRuns
from secondpass.models.identity import marks_of
from secondpass_pipelines.pipeline_files import (
    down_to_ranker,
    load_pipeline,
    measures_of,
    model_of,
    need_haystack,
    pipeline_file,
    ranker_of,
    read_pipeline,
)
from secondpass_pipelines.results import Notes, QueryResult, RankedDocument
from secondpass_pipelines.stores import absent, absent_ids, close, document_stores, store_name, told_in_one_line

if TYPE_CHECKING:
    from pathlib import Path

    from haystack import Pipeline
    from haystack_integrations.components.rankers.secondpass import SecondPassRanker

    from secondpass.calibration import Conditions
    from secondpass_pipelines.search_run import PipelineSearch
    from secondpass_pipelines.searching import Stages

Documents = list[tuple[str, float | None]]


def run_dataset(request: DatasetRequest) -> DatasetRuns:
    """Index a BEIR folder into a pipeline and run its judged queries through both passes.

    Raises:
        InvalidInput: a file is refused, the pipeline has no second pass, or none of the judged documents is indexed.
        MissingExtra: Haystack is not installed.
        SecondPassError: a component failed on a query, or a server does not answer; what was answered before is kept
            in OUTPUT.partial.
    """
    need_haystack(request.pipeline)
    from secondpass_pipelines.indexing import collection
    from secondpass_pipelines.search_run import ResultWriter, partial_results, query_results
    from secondpass_pipelines.searching import searcher
    from secondpass_pipelines.tuned_pipelines import for_tuning

    file = pipeline_file(request.pipeline)
    queries = judged_queries(request.dataset, request.split)
    shaped = partial(for_tuning, file=file, taken=request.taken) if request.tuning else down_to_ranker
    pipeline = load_pipeline(file, request.model, request.index, request.instruction, request.ranker, shaped)
    with ExitStack() as stack:
        stack.callback(close, pipeline)
        corpus = None if request.indexed else request.corpus or request.dataset
        found = collection(pipeline, corpus, request.add)
        # No query has more candidates than there are documents.
        search = replace(searcher(pipeline, request.depth, request.top_k), top_k=request.top_k or found.documents)
        if not search.stages.first:
            raise InvalidInput(f"{file}: only {search.stages.last!r} gives documents, so there is no second pass in it")
        asked = _asked(request, corpus, queries.with_unanswered() if request.tuning else queries, search.top_k)
        asked.check_columns()
        missing = not_indexed(pipeline, asked.asked) if request.indexed else 0
        passes, notes = Passes(search.stages, by_component=request.tuning), Notes()
        kept = stack.enter_context(partial_results(asked, file, found))
        answers = passes.watch(notes.watch(query_results(asked, search, found, kept)))
        documents: dict[str, CorpusDocument] = {}
        ranker: Any = pipeline.get_component(search.stages.last) if request.tuning else None
        answers = answers if ranker is None else with_documents(answers, ranker, documents)
        known = -_hits(ranker)
        ResultWriter(request.output, asked.form, {}, search.stages).write(answers, list)
        known += _hits(ranker)  # before the sample pairs are asked for, which may be known too
        marks, conditions = (None, None) if ranker is None else _identity(ranker)
    *first, second = passes.runs()
    texts = asked.asked.texts
    judged = queries.qrels or Qrels({})
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
        unasked=queries.textless,
        model=_last(request.model or model_of(read_pipeline(file))),
        relevance=ranker_of(read_pipeline(file)).get("relevance"),
        documents=documents,
        marks=marks,
        conditions=conditions,
        known=known,
    )


def _identity(ranker: SecondPassRanker) -> tuple[tuple[float, ...], Conditions]:
    """What the model is known by, and how it read."""
    from haystack_integrations.components.rankers.secondpass.tuned_ranker import conditions_of

    with ranker.lent_model() as model:
        return marks_of(model), conditions_of(ranker, model)


def _hits(ranker: SecondPassRanker | None) -> int:
    """Scores that its cache has known until now."""
    if ranker is None or ranker.score_cache is None:
        return 0
    with ranker.lent_model() as model:
        return int(model.score_cache.hits)


def _asked(request: DatasetRequest, corpus: Path | None, queries: JudgedQueries, top_k: int | None) -> PipelineSearch:
    from secondpass_pipelines.search_run import PipelineSearch

    return PipelineSearch(
        request.pipeline,
        corpus,
        queries,
        limit=request.limit,
        depth=request.depth,
        top_k=top_k,
        model=request.model,
        instruction=request.instruction,
        ranker={**request.ranker, **({"tuning": True} if request.tuning else {})},
        output=request.output,
        # JSON keeps the texts
        form="" if request.output is None else "json" if request.tuning else "trec",
        index=request.index,
        add=request.add,
    )


def _last(models: str | list[str] | None) -> str | None:
    """Of a cascade the model whose word it is."""
    return models[-1] if isinstance(models, list) else models


def with_documents(
    answers: Iterable[QueryResult], ranker: SecondPassRanker, into: dict[str, CorpusDocument]
) -> Iterator[QueryResult]:
    """Pass answers on and keep the documents of the last pass, each with the text that the ranker reads."""
    from haystack import Document

    for answer in answers:
        for one in answer.second:
            if one.id not in into:
                text = ranker.layout.document(Document(content=one.text, meta=dict(one.meta)))
                into[one.id] = CorpusDocument(one.id, "", text, one.meta)
        yield answer


class Passes:
    """Collects answers as runs: one for each component of the first pass, one for the second.

    Where the ranker joins several lists itself, there is a further run of its candidates: these lists one after the
    other, each document once, without scores, which would not be of one scale. `by_component` collects those lists
    alone, under their components' names.
    """

    def __init__(self, stages: Stages, *, by_component: bool = False) -> None:
        self._last = stages.last
        self._by_component = by_component
        self._first = stages.feeding if by_component else stages.first
        self._joined = stages.feeding if len(stages.feeding) > 1 and not by_component else ()
        candidates = (" + ".join(self._joined),) if self._joined else ()
        self._rankings: dict[str, dict[str, Documents]] = {
            name: {} for name in (*self._first, *candidates, stages.last)
        }
        self._ms: dict[str, list[float]] = {name: [] for name in self._rankings}

    def watch(self, answers: Iterable[QueryResult]) -> Iterator[QueryResult]:
        """Pass answers on and keep their rankings."""
        for answer in answers:
            for name in self._first:
                self._add(name, answer, answer.first[name], answer.ms[name])
            if self._joined:
                ms = sum(answer.ms[name] for name in answer.first)
                self._add(" + ".join(self._joined), answer, answer.given(self._joined), ms)
            self._add(self._last, answer, answer.second, answer.ms[self._last])
            yield answer

    def runs(self) -> list[Run]:
        """Runs in the order of the passes, the second last, by names that say which component it was."""
        return [Run(self._title(name), rankings) for name, rankings in self._rankings.items()]

    def ms(self) -> dict[str, float]:
        """Mean milliseconds a query by the name of the run."""
        return {self._title(name): fmean(times) for name, times in self._ms.items() if times}

    def _add(self, name: str, answer: QueryResult, ranking: Iterable[RankedDocument], ms: float) -> None:
        self._rankings[name][answer.query_id] = [(document.id, document.score) for document in ranking]
        self._ms[name].append(ms)

    def _title(self, name: str) -> str:
        if self._by_component:
            return name
        return f"{'second' if name == self._last else 'first'} pass ({name})"


def not_indexed(pipeline: Pipeline, queries: JudgedQueries) -> int:
    """How many documents that are relevant to a query no store of the pipeline has.

    Raises:
        InvalidInput: all of them, so it is another collection, or its ids are not in the field "id".
        SecondPassError: a server does not answer.
    """
    qrels = queries.qrels or Qrels({})
    grades = (qrels[query_id] for query_id in queries.texts)
    relevant = sorted({document for graded in grades for document, grade in graded.items() if grade > 0})
    with told_in_one_line(pipeline):
        stores = document_stores(pipeline)
        left = relevant
        for store in stores[:-1]:
            left = absent_ids(store, left)
        missing = absent(stores[-1], left) if stores else 0
        if missing and missing == len(relevant):
            names = ", ".join(store_name(store) for store in stores)
            raise InvalidInput(f"none of the {missing} relevant documents is in {names}: is it another collection?")
    return missing
