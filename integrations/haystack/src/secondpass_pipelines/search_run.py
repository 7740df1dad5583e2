"""Many queries through a pipeline: a run and its figures for `secondpass search`, both passes for `secondpass demo`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secondpass.calibration import PROBABILITY, Calibration, file_of
from secondpass.cli.output import PipeConsole, note, print_table, progress_bar
from secondpass.corpora import read_corpus
from secondpass.evaluation.qrels import JudgedQueries, Qrels, column_of, judged_queries
from secondpass.evaluation.runs import RANKED, write_run
from secondpass.journal import Journal
from secondpass.models.identity import weights_digest
from secondpass_pipelines.indexing import Collection, collection, fill
from secondpass_pipelines.pipeline_files import (
    down_to_ranker,
    load_pipeline,
    pipeline_file,
    rankers_of,
    read_pipeline,
)
from secondpass_pipelines.results import MRR, NDCG, Judge, Notes, Quality, QueryResult, RankedDocument, moved
from secondpass_pipelines.searching import Searcher, Stages, searcher
from secondpass_pipelines.stores import close
from secondpass_pipelines.tuned_pipelines import tuned_digests, tuned_models

TAG = "secondpass"
RELEVANT = "✓"
DEMO_PIPELINE = "rerank_bm25"
# What OUTPUT.partial says, before any answer, once the corpus may go into a server's index.
INDEXING = {"indexing": True}


@dataclass(frozen=True, slots=True)
class PipelineSearch:
    """What the command line asked for; `form` is "trec", "json", "table" or "" for figures only.

    Without a corpus the pipeline's stores are searched as they are. `index` takes the place of the index of stores
    that live in a server; `add` allows to index a corpus into one that holds documents. `ignore_identical_ids` measures
    without documents whose id is the query's, as BEIR does; what is written has them all the same. `ranker` are further
    parameters of the ranker.
    """

    pipeline: str
    corpus: Path | None
    queries: JudgedQueries
    limit: int | None
    depth: int | None
    top_k: int | None
    model: str | list[str] | None
    output: Path | None
    form: str
    index: str | None = None
    add: bool = False
    ignore_identical_ids: bool = False
    instruction: str | None = None
    ranker: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> JudgedQueries:
        """The queries within the limit."""
        return self.queries.limited(self.limit)

    def check_columns(self) -> None:
        """Refuse ids that a TREC run cannot hold.

        Raises:
            InvalidInput: there is one, and a run is to be written.
        """
        if self.form == "trec":
            for query_id in self.queries.texts:
                column_of(query_id)

    @property
    def printing(self) -> bool:
        """Whether answers go to stdout."""
        return self.output is None and self.form != ""


def run_search(request: PipelineSearch) -> None:
    """Answer the queries, write what was asked for and print the figures.

    Raises:
        InvalidInput: a file is refused.
        SecondPassError: a component failed on a query; what was answered before is kept.
    """
    file = pipeline_file(request.pipeline)
    if (probable := request.ranker.get("calibration")) is not None:
        Calibration.load(probable)
    judge = None
    if request.queries.qrels is not None:
        judge = Judge(request.queries.qrels, request.ignore_identical_ids)
    request.check_columns()
    pipeline = load_pipeline(file, request.model, request.index, request.instruction, request.ranker, down_to_ranker)
    with ExitStack() as stack:
        stack.callback(close, pipeline)
        search = searcher(pipeline, request.depth, request.top_k)
        found = collection(pipeline, request.corpus, request.add)
        partial = stack.enter_context(partial_results(request, file, found))
        head = {"pipeline": str(file), "corpus": str(request.corpus or found.identity)}
        writer = ResultWriter(request.output, request.form, head, search.stages)
        notes = Notes()
        answers = notes.watch(query_results(request, search, found, partial))
        if judge is not None:
            answers = judge.watch(answers, search.stages.last)
        writer.write(answers, lambda: [] if judge is None else judge.figures())
        shallow = search.shallow()
    notes.show()
    for said in (shallow, request.queries.note, "" if judge is None else judge.note, writer.note):
        if said:
            note(said)
    if judge is not None:
        _show(judge, search.stages.last, len(request.asked.texts), to_stderr=request.printing)


def query_results(
    request: PipelineSearch,
    search: Searcher,
    found: Collection,
    partial: Journal | None,
) -> Iterator[QueryResult]:
    """Answers in the order of the queries: first those of an earlier, broken run, then new ones."""
    asked = request.asked
    done = set() if partial is None else {answer.query_id if answer else None for answer in _records(partial)}
    left = {query_id: text for query_id, text in asked.texts.items() if query_id not in done}
    if left:
        begun = None if partial is None else lambda: partial.append(INDEXING)
        # A search that was refused, or that found no server, wrote nothing: what an index holds is not its own.
        fill(search.pipeline, found, columns=request.form == "trec", continued=bool(done), begun=begun)
        search.warm_up()
    with ExitStack() as stack:
        bar = None
        if not (request.printing and sys.stdout.isatty()):
            # a bar that is redrawn and results that are printed would overwrite each other on a terminal
            known = len(asked.texts) - len(left)
            bar = stack.enter_context(progress_bar("Searching", len(asked.texts), "queries", known))
        for query_id, text in left.items():
            answer = search.answer(query_id, text)
            if partial is None:
                yield answer
            else:
                partial.append(answer.to_json(texts=request.form == "json"))
            if bar is not None:
                bar.update()
    if partial is not None:
        yield from (answer for answer in _kept(partial) if answer.query_id in asked.texts)


def _kept(partial: Journal) -> Iterator[QueryResult]:
    return filter(None, _records(partial))


def _records(partial: Journal) -> Iterator[QueryResult | None]:
    """Answers, and None where indexing began."""
    return partial.records(lambda line: None if line == INDEXING else QueryResult.from_json(line), "an answer")


def _show(judge: Judge, last: str, asked: int, to_stderr: bool) -> None:
    console = PipeConsole(file=sys.stderr if to_stderr else sys.stdout)
    console.print(quality_table(judge.qualities(), last))
    console.print(f"Means over {judge.judged} judged queries of {asked}.")


@contextmanager
def partial_results(request: PipelineSearch, file: Path, found: Collection) -> Iterator[Journal | None]:
    """Open OUTPUT.partial, which keeps results as they come and goes when they are whole; None if they go to stdout.

    It is continued only if everything that decides what a result is is equal to what it was begun with.

    Raises:
        InvalidInput: another process writes it, or it was begun with other settings or by another program.
    """
    if request.output is None:
        yield None
        return
    probable = request.ranker.get("calibration")
    settings = {
        "pipeline": hashlib.sha256(file.read_bytes()).hexdigest(),
        "corpus": found.identity,
        "queries": hashlib.sha256(json.dumps(request.queries.texts).encode()).hexdigest(),
        "depth": request.depth,
        "top-k": request.top_k,
        "model": request.model,
        "format": request.form,
        **({} if request.instruction is None else {"instruction": request.instruction}),
        **{f"tuned of {name}": digest for name, digest in tuned_digests(file).items()},
        **_model_digests(file, request.model),
        # where scores are kept decides nothing, and a calibration counts by its contents
        **{name: value for name, value in request.ranker.items() if name not in ("score_cache", "calibration")},
        **({} if probable is None else {"calibration": hashlib.sha256(file_of(probable).read_bytes()).hexdigest()}),
    }

    def refuse(begun: Any) -> str:
        keys = sorted(settings) if isinstance(begun, dict) else []
        other = [key for key in keys if begun.get(key) != settings[key]]
        what = f"with another {', '.join(other)}" if other else "by something else"
        return f"was begun {what}; delete it, or choose another output"

    path = request.output.with_name(request.output.name + ".partial")
    with Journal(path, settings, "another search is writing it", refuse) as partial:
        yield partial
        partial.remove()


def _model_digests(file: Path, model: str | list[str] | None) -> dict[str, str | None]:
    """Digests of what is in those of the rankers' models that are folders, and in calibrations that the file names."""
    data = read_pipeline(file)
    given = [data["components"][name].get("init_parameters") or {} for name in rankers_of(data)]
    named = [model, *tuned_models(file), *(one.get("model") for one in given)]
    several = [name for one in named for name in (one if isinstance(one, list) else [one])]
    folders = [Path(name) for name in several if name is not None and Path(name).is_dir()]
    fitted = [*folders, *(Path(one["calibration"]) for one in given if one.get("calibration"))]
    files = {path: file_of(path) for path in fitted if file_of(path).is_file()}
    return {
        **{f"weights of {folder}": weights_digest(folder) for folder in folders},
        **{f"calibration of {path}": hashlib.sha256(found.read_bytes()).hexdigest() for path, found in files.items()},
    }


@dataclass(frozen=True, slots=True)
class ResultWriter:
    """Writes answers in the form "trec", "json", "table" (stdout only) or "" (nothing at all).

    A file appears under its name only when it is whole. A TREC run holds one ranking a query, so beside OUTPUT, the
    last pass, there is a run for each component before it and one of the candidates where several give them.
    """

    output: Path | None
    form: str
    head: dict[str, str]
    stages: Stages

    def write(self, answers: Iterable[QueryResult], figures: Callable[[], list[dict[str, Any]]]) -> None:
        """Consume the answers; `figures` is asked for after the last."""
        if self.form == "json":
            with self._stream(self.output) as stream:
                _write_json(stream, self.head, answers, figures)
        elif self.form == "trec":
            with ExitStack() as stack:
                last = stack.enter_context(self._stream(self.output))
                before = {name: stack.enter_context(self._stream(file)) for name, file in self.first_runs.items()}
                ranked = 0
                for answer in answers:
                    ranked += write_run(last, [(answer.query_id, _pairs(answer.second))], TAG)
                    for name, stream in before.items():
                        ranked += write_run(stream, [(answer.query_id, _pairs(answer.given(name)))], TAG)
            if ranked:
                note(RANKED.format(ranked))
        for answer in answers:
            if self.form == "table":
                print_answer(answer)

    @property
    def first_runs(self) -> dict[tuple[str, ...], Path]:
        """The files of the runs before the last pass, by the components that give their documents."""
        if self.output is None:
            return {}
        lists: list[tuple[str, ...]] = [(name,) for name in self.stages.first]
        if len(self.stages.feeding) > 1:
            lists.append(self.stages.feeding)
        stem, suffix = self.output.stem, self.output.suffix
        called = {names: re.sub(r"[^\w.+-]", "_", "+".join(names)) for names in lists}
        return {names: self.output.with_name(f"{stem}.{name}{suffix}") for names, name in called.items()}

    @property
    def note(self) -> str:
        """Where the runs before the last pass are; "" if there are none."""
        files = ", ".join(map(str, self.first_runs.values())) if self.form == "trec" else ""
        return f"the first pass is in {files}" if files else ""

    @contextmanager
    def _stream(self, output: Path | None) -> Iterator[TextIO]:
        if output is None:
            yield sys.stdout
            return
        unfinished = output.with_name(output.name + ".writing")
        try:
            with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as stream:
                yield stream
            os.replace(unfinished, output)
        finally:
            unfinished.unlink(missing_ok=True)


def _pairs(ranking: Iterable[RankedDocument]) -> list[tuple[str, float | None]]:
    return [(document.id, document.score) for document in ranking]


def _write_json(
    stream: TextIO, head: dict[str, str], answers: Iterable[QueryResult], figures: Callable[[], list[dict[str, Any]]]
) -> None:
    """One object with a line for each query, written as the answers come."""
    opening = json.dumps(head, ensure_ascii=False)
    stream.write(f'{opening[:-1]}, "queries": [')
    separator = "\n"
    for answer in answers:
        stream.write(separator + json.dumps(answer.to_json(texts=True), ensure_ascii=False))
        separator = ",\n"
    stream.write(f'\n], "figures": {json.dumps(figures())}}}\n')


def run_demo(queries: int | None, rows: int, quiet: bool, as_json: bool, model: str | None) -> None:
    """Answer the queries of the packaged corpus and show, first pass beside second, what the second changed.

    Raises:
        SecondPassError: the model cannot be loaded, or a query failed.
    """
    folder = Path(str(files("secondpass"))) / "demo"
    asked = judged_queries(folder, "test").limited(queries)
    qrels = asked.qrels or Qrels({})
    judge = Judge(qrels)
    search = searcher(load_pipeline(pipeline_file(DEMO_PIPELINE), model))
    console = PipeConsole()
    shown = not (quiet or as_json)
    fill(search.pipeline, collection(search.pipeline, folder))
    load_seconds = search.warm_up()
    titles = {document.id: document.title for document in read_corpus(folder)}
    if shown:
        first = f"{len(asked.texts)} queries over {len(titles)} help-centre articles. First pass: BM25."
        console.print(first, style="bold")
        console.print(f"Second pass: a cross-encoder reads its top 100 again. {RELEVANT} answers the query.\n")
    answers = []
    with ExitStack() as stack:
        bar = None if shown else stack.enter_context(progress_bar("Searching", len(asked.texts), "queries"))
        for query_id, text in asked.texts.items():
            answer = search.answer(query_id, text)
            judge.add(answer, search.stages.last)
            answers.append(answer)
            if bar is not None:
                bar.update()
            else:
                console.print(Text(text, style="bold"))
                console.print(side_by_side(answer, titles, qrels.get(query_id, {}), rows))
                console.print()
    if as_json:
        sys.stdout.write(json.dumps(_summary(judge, search, load_seconds, answers), ensure_ascii=False) + "\n")
    else:
        _conclude(console, judge, search, load_seconds)


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
        "pipeline": DEMO_PIPELINE,
        "figures": judge.figures(),
        "queries_judged": judge.judged,
        "helped": helped,
        "hurt": hurt,
        "load_seconds": load_seconds,
        "queries": [answer.to_json(texts=False) for answer in answers],
    }


# ---- Answers and figures on a terminal: tables that hold at 80 columns and without colours.


def print_answer(answer: QueryResult) -> None:
    """Print the second pass's documents with the rank that the first pass gave them."""
    before = first_ranks(answer)
    PipeConsole().print(Text(one_line(answer.query), style="bold"))
    if not answer.second:
        PipeConsole().print("(no document found)")
        return
    told = PROBABILITY[:1] if any(document.chance for document in answer.second) else ()
    print_table(
        ("rank", "was", "score", *told, "id", "text"),
        (
            (
                str(place),
                str(before.get(document.id, "-")),
                "" if document.score is None else f"{document.score:.4f}",
                *(f"{document.chance[name]:.3f}" if name in document.chance else "-" for name in told),
                document.id,
                document.passage.get("text") or document.text or "",
            )
            for place, document in enumerate(answer.second, start=1)
        ),
    )


def side_by_side(answer: QueryResult, titles: Mapping[str, str], relevant: Mapping[str, int], rows: int) -> Table:
    """First pass left, second pass right, relevant documents ticked, and how far each one moved."""
    table = Table(box=None, expand=True, pad_edge=False, show_header=True, header_style="dim")
    table.add_column("", width=1)
    table.add_column("first pass", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("second pass", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("was", justify="right", no_wrap=True, style="dim")
    first = next(iter(answer.first.values()), ())
    before = first_ranks(answer)
    for place, (left, right) in enumerate(zip_longest(first[:rows], answer.second[:rows]), start=1):
        was = "" if right is None else str(before.get(right.id, "-"))
        table.add_row(str(place), _cell(left, titles, relevant), _cell(right, titles, relevant), was)
    return table


def quality_table(qualities: Sequence[Quality], last: str) -> Table:
    """One line a stage: figures and milliseconds a query."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in (NDCG, MRR, "ms/query"):
        table.add_column(name, justify="right", no_wrap=True)
    for quality in qualities:
        # One component alone is the whole search: there is no second pass in it.
        role = "second pass" if quality.stage == last and len(qualities) > 1 else "first pass"
        figures = [f"{quality.mean(name):.4f}" for name in (NDCG, MRR)]
        style = "bold" if quality.stage == last else ""
        table.add_row(f"{role} ({quality.stage})", *figures, f"{quality.ms:.1f}", style=style)
    return table


def first_ranks(answer: QueryResult) -> dict[str, int]:
    """The best rank that any component of the first pass gave each document, from 1."""
    ranks: dict[str, int] = {}
    for ranking in answer.first.values():
        for place, document in enumerate(ranking, start=1):
            ranks[document.id] = min(place, ranks.get(document.id, place))
    return ranks


def one_line(text: str) -> str:
    """Text with white space squeezed."""
    return " ".join(text.split())


def _cell(document: RankedDocument | None, titles: Mapping[str, str], relevant: Mapping[str, int]) -> Text:
    if document is None:
        return Text("")
    judged = relevant.get(document.id, 0) > 0
    shown = one_line(titles.get(document.id) or document.text or document.id)
    return Text(f"{RELEVANT if judged else ' '} {shown}", style="green" if judged else "")
