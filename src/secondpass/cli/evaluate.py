"""`secondpass evaluate`: runs, or a pipeline over a labelled dataset, against judgements."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from math import isclose
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass.cli import arguments
from secondpass.cli.arguments import IdenticalIds, load
from secondpass.cli.output import PipeConsole
from secondpass.corpora import corpus_file, named_file, packaged, read_corpus, read_queries
from secondpass.errors import InvalidInput, MissingExtra, SecondPassError
from secondpass.evaluation.analysis import analyse
from secondpass.evaluation.comparison import Analysis, Change
from secondpass.evaluation.measures import DEFAULT_MEASURES, parsed
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels, textless_note, with_text
from secondpass.evaluation.reporting.files import print_analysis, write_csv, write_json
from secondpass.evaluation.reporting.page import write_page
from secondpass.evaluation.runs import Run, read_run, without_query_ids
from secondpass.evaluation.second_pass import DatasetRequest, DatasetRuns, depth_for

if TYPE_CHECKING:
    from secondpass.explanation import Explanation
    from secondpass.ranking import Relevance

# Runs a pipeline over a dataset: a function of another import package of this distribution.
RUN_DATASET = "secondpass_pipelines.dataset:run_dataset"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What is to be analysed; the first run is the baseline. `beir` says that the judgements are a BEIR folder's.

    Of a pipeline there is a `first_pass`, and the last run is the ranker's, by its `model` and `relevance`.
    """

    qrels: Qrels
    runs: tuple[Run, ...]
    texts: Mapping[str, str] | None = None
    ms: Mapping[str, float] | None = None
    measures: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    beir: bool = False
    first_pass: str = ""
    model: str | None = None
    folder: Path | None = None
    lengths: Mapping[str, int] | None = None
    settings: Mapping[str, str] | None = None
    relevance: Relevance | None = None


Judgements = Annotated[
    Path | None, typer.Option("--qrels", help="Judgements: TREC or BEIR file, JSON lines, or a BEIR folder.")
]
Runs = Annotated[
    list[str] | None,
    typer.Option("--run", "-r", help="Run file (TREC, MS MARCO, JSON lines), or NAME=FILE. The first is the baseline."),
]
MeasureNames = Annotated[
    list[str] | None, typer.Option("--measure", "-m", help="As ir_measures names it; the first one is the primary.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="With --pipeline: a run of each pass; a broken one continues."),
]
Explained = Annotated[
    int, typer.Option(min=0, help="So many of the documents that moved are explained in the page and JSON.")
]
Texts = Annotated[
    Path | None,
    typer.Option(help="Their texts, a BEIR folder or file: for --explain, and to group queries by their length."),
]
Budget = Annotated[float | None, typer.Option(min=0, help="Which depth to choose for so many ms a query, if timed.")]
Html = Annotated[Path | None, typer.Option(help="Report as one HTML page.")]
Json = arguments.JsonFile
Csv = Annotated[Path | None, typer.Option(help="A line per query and system.")]
Level = Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the confidence intervals.")]
Seed = Annotated[int, typer.Option(min=0, help="Of resampling.")]
Examples = Annotated[int, typer.Option(min=0, help="Queries helped and hurt most to show.")]


PipelineName = Annotated[
    str | None, typer.Option("--pipeline", "-p", help="YAML file, or a packaged name such as evaluate_rerank.")
]
FirstPass = Annotated[
    str | None, typer.Option(help="Name of the run that found the candidates, or none; else the first run.")
]
RankerModels = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        help="With --pipeline: cross-encoder for the ranker, several are a cascade; else the one to --explain by.",
    ),
]
RankerInstruction = Annotated[
    str | None, typer.Option(help="With --pipeline or --explain: what the ranker is told to look for.")
]
Indexed = Annotated[bool, typer.Option("--indexed", help="With --pipeline: its stores hold the documents already.")]
Add = Annotated[bool, typer.Option("--add", help="With --pipeline: index into one that holds documents already.")]


def evaluate(
    qrels: Judgements = None,
    run: Runs = None,
    pipeline: PipelineName = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", "-d", help="BEIR folder for --pipeline.")] = None,
    measure: MeasureNames = None,
    queries: Annotated[Path | None, typer.Option(help="Texts of the queries, to show those helped and hurt.")] = None,
    split: Annotated[str, typer.Option(help="Which judgements of a BEIR folder.")] = "test",
    first_pass: FirstPass = None,
    ignore_identical_ids: IdenticalIds = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --pipeline: ask only the first queries.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="With --pipeline: top_k of the first pass.")] = None,
    model: RankerModels = None,
    keep: arguments.Keep = None,
    instruction: RankerInstruction = None,
    long: arguments.Long = None,
    window_tokens: arguments.WindowTokens = None,
    window_overlap: arguments.WindowOverlap = None,
    max_windows: arguments.MaxWindows = None,
    select: arguments.SelectWindows = None,
    score_cache: arguments.ScoreCacheFile = None,
    output: Output = None,
    indexed: Indexed = False,
    index: Annotated[str | None, typer.Option(help="With --pipeline: index of Elasticsearch or OpenSearch.")] = None,
    add: Add = False,
    budget_ms: Budget = None,
    html: Html = None,
    json: Json = None,
    csv: Csv = None,
    level: Level = 0.95,
    seed: Seed = 0,
    examples: Examples = 10,
    explain: Explained = 0,
    documents: Texts = None,
) -> None:
    """Measure runs against judgements, and what a second pass adds to a first.

    Either run files with --qrels, or a pipeline over a BEIR folder, which is indexed and asked first. All runs are
    compared with each other, with confidence intervals and paired tests. A run that re-ranks the candidates of the
    first pass is a second pass: how much of the possible gain it reaches is shown too. The first pass is the first
    run, or the one that --first-pass names; "--first-pass none" compares second passes as equals.

    [bold]Examples[/bold]

    secondpass evaluate --qrels qrels.txt --run bm25.trec --run reranked.trec --html report.html

    secondpass evaluate --qrels beir/scifact -r BM25=a.trec -r ours=b.trec -m nDCG@10 -m "P(rel=2)@5"

    secondpass evaluate --qrels qrels.txt -r base.trec -r large.trec --first-pass none

    secondpass evaluate --pipeline evaluate_rerank --dataset beir/scifact --html report.html

    secondpass evaluate --pipeline rerank_elasticsearch_bm25 --index docs --dataset beir/scifact --indexed
    """
    ranker = _ranker(keep, score_cache, long, window_tokens, window_overlap, max_windows, select)
    alone = {"keep": keep, "score-cache": score_cache, "limit": limit, "depth": depth, "output": output, "index": index,
             "indexed": indexed, "add": add}  # fmt: skip
    _check_choice(qrels, run, pipeline, dataset, queries, documents)
    _check_piped(pipeline, explain, alone, {"long": long, "model": model, "instruction": instruction})
    check_reports(explain, html, json, csv, output)
    parsed(measure or DEFAULT_MEASURES)
    if pipeline is not None and dataset is not None:
        request = DatasetRequest(pipeline, dataset, split, limit, depth, None, _one_or_some(model), output, indexed,
                                 index, add, instruction, ranker)  # fmt: skip
        found = _piped(request)
    elif qrels is not None and run:
        found = _read(qrels, run, queries, split)
    else:
        raise InvalidInput("give --qrels and at least one --run, or --pipeline and --dataset")
    if found.beir if ignore_identical_ids is None else ignore_identical_ids:
        found = without_identical_ids(found)
    corpus = documents or (None if indexed else dataset)
    if corpus is not None:
        found = replace(found, lengths=lengths_of(corpus, found.runs))
    analysis = analysed(found, measure, level, seed, examples, _first_pass(found, first_pass))
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    analysis = _explained(analysis, found, documents or found.folder, model or [], explain,
                          instruction=instruction, truncation=how)  # fmt: skip
    conclude(analysis, found.notes, budget_ms, html, json, csv)


def lengths_of(corpus: Path, runs: Sequence[Run]) -> dict[str, int]:
    """Characters by id of the documents that a run has."""
    wanted = {document for run in runs for ranking in run.values() for document in ranking}
    return {each.id: len(each.content) for each in read_corpus(corpus) if each.id in wanted}


def analysed(
    found: Evaluated, measures: Sequence[str] | None, level: float, seed: int, examples: int, first_pass: str | None
) -> Analysis:
    """Measure what was found, by the measures given or by its own."""
    made = analyse(found.qrels, found.runs, measures or found.measures or DEFAULT_MEASURES, texts=found.texts,
                   ms=found.ms, level=level, seed=seed, examples=examples, first_pass=first_pass,
                   lengths=found.lengths)  # fmt: skip
    return replace(made, settings={**(found.settings or {}), **(made.settings or {})})


def conclude(
    analysis: Analysis,
    notes: tuple[str, ...],
    budget_ms: float | None,
    html: Path | None,
    json: Path | None,
    csv: Path | None,
) -> None:
    """Print an analysis and write the reports that were asked for."""
    notes = (*(() if budget_ms is None else _within(analysis, budget_ms)), *notes)
    if not arguments.printed(json):
        _show(analysis, notes)
    _write(replace(analysis, notes=(*analysis.notes, *notes)), html, json, csv)


def _one_or_some(models: list[str] | None) -> str | list[str] | None:
    return models[0] if models and len(models) == 1 else models


def _ranker(
    keep: list[int] | None, score_cache: Path | None, long: arguments.Truncation | None, *windows: Any
) -> dict[str, Any]:
    """What was given, under the names of the ranker's parameters."""
    file = None if score_cache is None else str(score_cache)
    options = arguments.windows_of(long, *windows)
    given = {"keep": keep, "truncation": long, "windows": options, "score_cache": file}
    return {name: value for name, value in given.items() if value}


def _check_choice(
    qrels: Path | None,
    run: list[str] | None,
    pipeline: str | None,
    dataset: Path | None,
    queries: Path | None,
    documents: Path | None,
) -> None:
    if (pipeline is None) != (dataset is None):
        raise InvalidInput("--pipeline and --dataset go together")
    if pipeline is not None and (run or qrels):
        raise InvalidInput("give either --pipeline and --dataset, or --qrels and --run")
    if pipeline is not None and queries is not None:
        raise InvalidInput("--queries goes with --run: a pipeline is asked the queries of its --dataset")
    if documents is not None:
        corpus_file(documents)


def _check_piped(pipeline: str | None, explain: int, alone: Mapping[str, object], told: Mapping[str, object]) -> None:
    """Refuse options that would say nothing: `alone` is for a pipeline, `told` for explaining runs too."""
    given = dict(alone) if explain else {**alone, **told}
    if pipeline is None and (unused := [name for name, value in given.items() if value]):
        raise InvalidInput(f"--{unused[0]} goes with --pipeline{' or --explain' * (unused[0] in told)}")
    if alone["indexed"] and alone["add"]:
        raise InvalidInput("give either --indexed or --add: nothing is indexed with the first")


def check_reports(explain: int, html: Path | None, json: Path | None, *others: Path | None) -> None:
    """Refuse files that cannot be written, before the work; raises InvalidInput."""
    if explain and html is None and json is None:
        raise InvalidInput("--explain goes with --html or --json")
    arguments.check_targets(html, json, *others)


def _read(qrels: Path, runs: list[str], queries: Path | None, split: str) -> Evaluated:
    """Judgements and runs out of files; a BEIR folder brings the texts of its queries along."""
    qrels = packaged(qrels)
    folder = qrels if qrels.is_dir() else None
    judged = read_qrels(qrels if folder is None else qrels_file(folder, split))
    file = queries or (None if folder is None else named_file(folder, "queries.jsonl"))
    read = tuple(run_of(given) for given in runs)
    if file is None:
        return Evaluated(judged, read, folder=folder)
    texts = read_queries(file)
    # What a run answers was asked, wherever its text is.
    asked, textless = with_text(judged, texts.keys() | {query for run in read for query in run})
    if textless and not asked.with_relevant:
        raise InvalidInput(f"{qrels}: none of its {len(textless)} judged queries has a text in {file}")
    return Evaluated(asked, read, texts, notes=noted(textless), beir=folder is not None, folder=folder)


def noted(textless: Sequence[str]) -> tuple[str, ...]:
    """The note on judged queries without a text, if there are any."""
    return (textless_note(textless),) if textless else ()


def _first_pass(found: Evaluated, given: str | None) -> str | None:
    """The run that `analyse` is to take for the first pass: a run may be called "none"."""
    if given is None:
        return found.first_pass
    return None if given == "none" and all(run.name != given for run in found.runs) else given


def without_identical_ids(found: Evaluated) -> Evaluated:
    """BEIR's convention, with a note where it changed a run."""
    left = [without_query_ids(run) for run in found.runs]
    gone = [f"{count:,} of {run.name}" for run, count in left if count]
    asked = {query for run in found.runs for query in run if query in run[query]}
    own = sum(found.qrels.get(query, {}).get(query, 0) > 0 for query in asked)
    note = f"documents whose id is their query's are left out, as BEIR does ({', '.join(gone)}; --keep-identical-ids)"
    relevant = (f"judged relevant to their query are {own:,} of these documents",) if own else ()
    notes = (*found.notes, note, *relevant) if gone else found.notes
    return replace(found, runs=tuple(run for run, _ in left), notes=notes)


def run_of(given: str) -> Run:
    """A run from FILE, or from NAME=FILE."""
    name, equals, path = given.partition("=")
    named = equals and not Path(given).exists()
    return read_run(Path(path), name) if named else read_run(Path(given))


def pipeline_runs(request: DatasetRequest) -> DatasetRuns:
    """Both passes of a pipeline; the Haystack part runs it, since the core knows no framework."""
    try:
        runner: Callable[[DatasetRequest], DatasetRuns] = resolve_name(RUN_DATASET)
    except ModuleNotFoundError as error:
        raise MissingExtra(f'nothing here can run a pipeline ({error}): pip install "secondpass[haystack]"') from error
    return runner(request)


def notes_of(runs: DatasetRuns) -> tuple[str, ...]:
    """What the figures of both passes of a pipeline hide."""
    counted = (
        (runs.cut, "documents were cut to fit the model"),
        (runs.not_reranked, "queries kept the first pass's order, because the ranker failed"),
        (runs.textless, "documents were ranked without any text"),
        (runs.shortened, "queries were cut for retrieval; the ranker read them whole"),
        (runs.absent, "relevant documents are not in the index, so no pass can find them"),
    )
    return (*(f"{count} {what}" for count, what in counted if count), *noted(runs.unasked))


def _piped(request: DatasetRequest) -> Evaluated:
    """What they found, to be analysed."""
    runs = pipeline_runs(request)
    # The last component before the ranker gave it the candidates: that is the first pass it is measured against.
    first = (runs.first[-1], *runs.first[:-1])
    every = (*first, runs.second)
    known = (runs.texts, runs.ms, runs.measures, notes_of(runs), True, first[0].name, runs.model, request.dataset)
    return Evaluated(runs.qrels, every, *known, relevance=runs.relevance)


def _explained(
    analysis: Analysis, found: Evaluated, corpus: Path | None, models: list[str], most: int, **options: Any
) -> Analysis:
    """The analysis with `most` documents explained, or, where that fails after a pipeline ran, a note that says why."""
    if not most:
        return analysis
    try:
        return _with_explanations(analysis, found, corpus, models, most, **options)
    except SecondPassError as error:
        if not found.first_pass:  # files are soon read again
            raise
        return replace(analysis, notes=(*analysis.notes, f"no document is explained: {error}"))


def _with_explanations(
    analysis: Analysis, found: Evaluated, corpus: Path | None, models: list[str], most: int, **options: Any
) -> Analysis:
    """`most` of the documents that moved are explained, those of helped and of hurt queries in turn."""
    model = models[-1] if models else found.model  # of a cascade the last one's word
    if model is None or corpus is None:
        raise InvalidInput("--explain needs the --model that made the run, and its --documents or a BEIR folder")
    ranker = found.runs[-1].name if found.first_pass else None  # the lists of several retrievers count as passes too
    passes = [each for each in analysis.second_passes if ranker in (None, each.system)]
    if len(passes) != 1:
        raise InvalidInput(f"--explain is about one second pass; here are {len(passes)}")
    (second,) = passes
    in_turn = chain.from_iterable(zip_longest(second.helped, second.hurt))
    moved = [(change, each.document) for change in in_turn if change and change.text for each in change.moved]
    names = {document for _, document in moved}
    texts = {each.id: each.content for each in read_corpus(corpus) if each.id in names}
    chosen = [(change, document) for change, document in moved if document in texts][:most]
    encoder = load(model, None, None)
    if encoder.num_labels > 1:
        options["relevance"] = found.relevance
    if (found.first_pass or models[1:]) and not encoder.takes_instruction:
        options["instruction"] = None  # it was for others of a cascade
    made = {(change.query, name): encoder.explain(str(change.text), texts[name], **options) for change, name in chosen}

    def explained(change: Change) -> Change:
        own = (replace(each, explanation=made.get((change.query, each.document))) for each in change.moved)
        return replace(change, moved=tuple(own))

    whole = replace(second, helped=tuple(map(explained, second.helped)), hurt=tuple(map(explained, second.hurt)))
    run = next(run for run in found.runs if run.name == second.system)
    strange = sum(_differs(run.get(query, {}).get(name), why) for (query, name), why in made.items())
    counted = (
        (strange, f"of the documents explained have another score in {run.name}: another model, text or setting"),
        (len(names - texts.keys()), f"documents that moved have no text in {corpus}"),
    )
    settings = {**(analysis.settings or {}), "explanations": f"{len(made)} documents, leave-one-out by {model}"}
    notes = (*analysis.notes, *(f"{count} {what}" for count, what in counted if count))
    others = (whole if each is second else each for each in analysis.second_passes)
    return replace(analysis, second_passes=tuple(others), settings=settings, notes=notes)


def _differs(score: float | None, why: Explanation) -> bool:
    """Whether a run's score is neither the model's score nor its logit, rounding of half types aside."""
    own = (why.score, why.logit)
    return score is not None and not any(isclose(score, value, rel_tol=0.05, abs_tol=0.02) for value in own)


def _within(analysis: Analysis, budget_ms: float) -> Iterator[str]:
    """Which depth each second pass has the time for, or why none is told."""
    for found in analysis.second_passes:
        points = () if found.depth is None else found.depth.points
        least = min((point.ms for point in points if point.ms is not None), default=None)
        if found.depth is None or least is None:
            said = "no depth is told, since its milliseconds by depth are not known"
        elif not budget_ms >= least:
            said = f"no depth fits; the least takes {least:.3g} ms"
        else:
            point = depth_for(found.depth, budget_ms)
            said = f"depth {point.depth}, {analysis.primary} {point.value:.4f}"
        yield f"{found.system} within {budget_ms:g} ms a query: {said}"


def _show(analysis: Analysis, notes: tuple[str, ...]) -> None:
    console = PipeConsole()
    print_analysis(console, analysis)
    for note in notes:
        console.print(f"Note: {note}.")


def _write(analysis: Analysis, html: Path | None, json: Path | None, csv: Path | None) -> None:
    if html is not None:
        write_page(html, analysis)
    if json is not None:
        write_json(sys.stdout if arguments.printed(json) else json, analysis)
    if csv is not None:
        write_csv(csv, analysis)
