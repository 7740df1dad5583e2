"""`secondpass demo`: the packaged pipeline on the packaged corpus, first pass and second pass side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from secondpass.corpora import read_corpus
from secondpass.evaluation.judged_queries import judged_queries
from secondpass.evaluation.qrels import Qrels
from secondpass_pipelines.indexing import collection, fill
from secondpass_pipelines.pipeline_files import load_pipeline, pipeline_file
from secondpass_pipelines.results import Judge, QueryResult, moved
from secondpass_pipelines.searching import Searcher, searcher
from secondpass_pipelines.showing import RELEVANT, progress_bars, quality_table, side_by_side, stdout_console

PIPELINE = "rerank_bm25"


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """What the command line asked for."""

    queries: int | None
    rows: int
    quiet: bool
    as_json: bool
    model: str | None


def run_demo(request: DemoRequest) -> None:
    """Answer the demo's queries and show what the second pass changed.

    Raises:
        MissingExtra: ir_measures is not installed.
        SecondPassError: the model cannot be loaded, or a query failed.
    """
    folder = Path(str(files("secondpass"))) / "demo"
    queries = judged_queries(folder, "test").limited(request.queries)
    qrels = queries.qrels or Qrels({})
    judge = Judge(qrels)
    search = searcher(load_pipeline(pipeline_file(PIPELINE), request.model))
    console = stdout_console()
    shown = not (request.quiet or request.as_json)
    with progress_bars() as progress:
        fill(search.pipeline, collection(search.pipeline, folder), progress)
        loading = progress.add_task("Loading the model", total=None)
        load_seconds = search.warm_up()
        progress.remove_task(loading)
        bar = progress.add_task("Searching", total=len(queries.texts), visible=not shown)
        titles = {document.id: document.title for document in read_corpus(folder)}
        if shown:
            progress.stop()
            _introduce(console, len(titles), len(queries.texts))
        answers = []
        for query_id, text in queries.texts.items():
            answer = search.answer(query_id, text)
            judge.add(answer, search.stages.last)
            answers.append(answer)
            progress.advance(bar)
            if shown:
                _show(console, answer, titles, qrels.get(answer.query_id, {}), request.rows)
    if request.as_json:
        sys.stdout.write(json.dumps(_summary(judge, search, load_seconds, answers), ensure_ascii=False) + "\n")
    else:
        _conclude(console, judge, search, load_seconds)


def _introduce(console: Console, documents: int, queries: int) -> None:
    console.print(f"{queries} queries over {documents} help-centre articles. First pass: BM25.", style="bold")
    console.print(f"Second pass: a cross-encoder reads its top 100 again. {RELEVANT} answers the query.\n")


def _show(
    console: Console, answer: QueryResult, titles: dict[str, str], relevant: Mapping[str, int], rows: int
) -> None:
    console.print(Text(answer.query, style="bold"))
    console.print(side_by_side(answer, titles, relevant, rows))
    console.print()


def _conclude(console: Console, judge: Judge, search: Searcher, load_seconds: float) -> None:
    qualities = judge.qualities()
    helped, hurt = moved(qualities[0], qualities[-1])
    console.print(quality_table(qualities, search.stages.last))
    console.print(f"\nOf {judge.judged} queries the second pass helped {helped}, hurt {hurt} (by nDCG@10).")
    console.print(f"Model loaded in {load_seconds:.1f} s.")


def _summary(judge: Judge, search: Searcher, load_seconds: float, answers: list[QueryResult]) -> dict[str, Any]:
    qualities = judge.qualities()
    helped, hurt = moved(qualities[0], qualities[-1])
    return {
        "pipeline": PIPELINE,
        "figures": judge.figures(),
        "queries_judged": judge.judged,
        "helped": helped,
        "hurt": hurt,
        "load_seconds": load_seconds,
        "queries": [answer.to_json(texts=False) for answer in answers],
    }
