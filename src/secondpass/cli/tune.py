"""`secondpass tune`: labelled queries and first passes to the best way to order candidates, and to what applies it."""

from __future__ import annotations

import json as jsons
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from secondpass.cli import arguments
from secondpass.cli.compare import BM25, first_pass, is_run_file, judged_by, known_note, name_of, reranked
from secondpass.cli.evaluate import Evaluated, notes_of, pipeline_runs, without_identical_ids
from secondpass.cli.output import PipeConsole, note
from secondpass.corpora import CorpusDocument, read_corpus
from secondpass.display import stacked
from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import parsed
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.reporting.files import dumped, opened
from secondpass.evaluation.runs import Run
from secondpass.evaluation.second_pass import DatasetRequest
from secondpass.fusion import RERANKER
from secondpass.lazy import optional
from secondpass.models.identity import marks_of
from secondpass.ranking import BLANK_LOGIT
from secondpass.tuning import Tuning
from secondpass.tuning.choosing import FEWEST, SPLITS, SURE
from secondpass.tuning.choosing import tune as tuned_on

if TYPE_CHECKING:
    from secondpass.calibration import Conditions
    from secondpass.cross_encoder import CrossEncoder

# Puts what was tuned into a pipeline: a function of another import package of this distribution.
WRITE_TUNED = "secondpass_pipelines.tuned_pipelines:write_tuned"
TUNED, PIPELINE = "tuned.json", "pipeline.yaml"
DEPTH = 100
# Cells of a terminal below which figures would be broken in the middle.
NARROW = 64

Dataset = Annotated[
    Path,
    typer.Option("--dataset", "-d", help="BEIR folder with labels, secondpass/demo, or a file of graded documents."),
]
Corpus = Annotated[Path | None, typer.Option(help="The documents, where the folder of labels has none.")]
FirstPasses = Annotated[
    list[str] | None,
    typer.Option("--first", help="bm25, NAME=RUN.trec, or a bi-encoder (folder or name); the main one first."),
]
Pipeline = Annotated[
    str | None, typer.Option("--pipeline", "-p", help="Take its retrievers and its ranker instead, and write it tuned.")
]
Reranker = Annotated[str | None, typer.Option("--model", help="Folder or hub name of the cross-encoder.")]
Depth = Annotated[
    int | None, typer.Option(min=1, help="Candidates of each first pass; 100, or what the pipeline says.")
]
Fields = Annotated[
    list[str] | None, typer.Option("--field", help="A number in the documents' metadata that may count, such as year.")
]
Folder = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for tuned.json, and the tuned pipeline.")]


@dataclass(frozen=True, slots=True)
class Labels:
    """What `tune` is given: judgements, first passes, logits of all their documents, and these."""

    qrels: Qrels
    runs: tuple[Run, ...]
    reranked: Run | None
    documents: Mapping[str, CorpusDocument]
    ms_a_document: float | None
    model: str | None
    marks: tuple[float, ...] | None
    notes: tuple[str, ...] = ()
    conditions: Conditions | None = None


def tune(
    dataset: Dataset,
    first: FirstPasses = None,
    pipeline: Pipeline = None,
    corpus: Corpus = None,
    split: Annotated[str, typer.Option(help="Which judgements of the folder.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first labelled queries.")] = None,
    depth: Depth = None,
    model: Reranker = None,
    no_reranker: Annotated[bool, typer.Option("--no-reranker", help="Compare first passes alone.")] = False,
    measure: Annotated[str, typer.Option("--measure", "-m", help="As ir_measures names it.")] = "nDCG@10",
    field: Fields = None,
    max_length: arguments.MaxLength = None,
    batch_size: arguments.BatchSize = 32,
    device: arguments.Device = None,
    precision: arguments.Precision = None,
    instruction: arguments.Instruction = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
    score_cache: arguments.ScoreCacheFile = None,
    splits: Annotated[int, typer.Option(min=2, help="How often the labelled queries are halved.")] = SPLITS,
    sure: Annotated[
        float, typer.Option(min=0.5, max=0.999, help="How certain a dearer way must be better to be recommended.")
    ] = SURE,
    seed: Annotated[int, typer.Option(min=0, help="Of the halves.")] = 0,
    output: Folder = None,
    json: arguments.JsonFile = None,
) -> None:
    """Find the best way to order candidates: first passes alone or together, the reranker, or all of them.

    Each way is fitted on one half of the labelled queries and measured on the other, again and again; a dearer way is
    recommended only where it is likely to be better. About 50 labelled queries do. Needs the extra tune.

    [bold]Examples[/bold]

    secondpass tune --dataset beir/scifact --model models/mine --output tuned

    secondpass tune -d beir/scifact --first bm25.trec --first dense=dense.trec --field year -o tuned

    secondpass tune -d labels --corpus docs.jsonl --pipeline rerank_hybrid -o tuned

    secondpass tune -d graded.jsonl --corpus docs.jsonl -m models/mine -o tuned
    """
    optional("venn_abers", "venn-abers", "tune")  # needed at the end, after hours perhaps
    parsed([measure])
    read_by = {"max-length": max_length, "template": template, "true-token": true_token, "false-token": false_token}
    _check(pipeline, first, output, json, _told(**read_by), no_reranker and model is not None)
    _check_file(dataset, pipeline, split)
    fields, sources = tuple(dict.fromkeys(field or ())), first or [BM25]
    _check_names(() if pipeline is not None else sources, fields)
    how = (max_length, device, precision, instruction, template, true_token, false_token)
    if pipeline is not None:
        ranker = _told(device=device, precision=precision, score_cache=score_cache)
        request = DatasetRequest(pipeline, dataset, split, limit, depth, model=model, instruction=instruction)
        given = _of_pipeline(replace(request, ranker=ranker, tuning=True, corpus=corpus), fields)
    else:
        found, read = _labelled(dataset, corpus, split, limit)
        _check_labels(dataset, found.qrels, fields, read.values())
        encoder = None if no_reranker else arguments.load(model or arguments.POCKET, *how)
        given = _of_first(found, sources, read, depth or DEPTH, device, encoder, score_cache, batch_size)
    halves: Any = dict(splits=splits, seed=seed, sure=sure)
    kept: Any = dict(model=given.model, marks=given.marks, origin=given.qrels.origin)
    result = tuned_on(
        given.qrels,
        given.runs,
        None if no_reranker else given.reranked,
        measure=measure,
        fields={name: _numbers(name, given.documents.values()) for name in fields},
        ms_a_document=given.ms_a_document,
        **halves,
        **kept,
    )
    _tell(result, given.notes, json)
    _write(result, given.conditions, output, pipeline, depth, json, _told(precision=precision, instruction=instruction))


def _told(**options: object) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _check(
    pipeline: str | None,
    first: list[str] | None,
    output: Path | None,
    json: Path | None,
    read_by: Mapping[str, object],
    twice: bool,
) -> None:
    if twice:
        raise InvalidInput("give either --model or --no-reranker")
    if pipeline is not None and read_by:
        raise InvalidInput(f"--{next(iter(read_by))} goes with --first: a pipeline says how texts are read")
    if pipeline is not None and first:
        raise InvalidInput("give either --first or --pipeline: a pipeline has first passes of its own")
    arguments.check_targets(json)
    if output is not None:
        place = next(each for each in (output.absolute(), *output.absolute().parents) if each.exists())
        if not place.is_dir():
            raise InvalidInput(f"--output {output}: {place} is a file, and tuned.json goes into a folder")
        arguments.check_targets(place / TUNED)


def _check_file(dataset: Path, pipeline: str | None, split: str) -> None:
    if dataset.is_file() and pipeline is not None:
        raise InvalidInput(f"--dataset {dataset}: is a file, and --pipeline takes a BEIR folder")
    if dataset.is_file() and split != "test":
        raise InvalidInput(f"--split {split} goes with a BEIR folder, and {dataset} is a file")


def _check_names(sources: Sequence[str], fields: Sequence[str]) -> None:
    """Refuse a name that stands for two of what is summed, before hours of work."""
    called = {RERANKER: "the reranker"}
    given = [(name_of(source), f"--first {source}", is_run_file(source)) for source in sources]
    for name, option, is_named in (*given, *((name, f"--field {name}", False) for name in fields)):
        if name in called:
            raise InvalidInput(f"{option}: {called[name]} is called {name!r} too{'; say NAME=FILE' * is_named}")
        called[name] = option


def _check_labels(dataset: Path, qrels: Qrels, fields: Sequence[str], documents: Iterable[CorpusDocument]) -> None:
    """Refuse labels that are too few, and fields that are no numbers, before hours of work."""
    count = len(qrels.with_relevant)
    if count < FEWEST:
        raise InvalidInput(
            f"--dataset {dataset}: {count} queries (of --split, within --limit) have a relevant document; {FEWEST} are "
            "the fewest to halve"
        )
    for name in fields:
        _numbers(name, documents)


def _labelled(
    dataset: Path, corpus: Path | None, split: str, limit: int | None
) -> tuple[Evaluated, dict[str, CorpusDocument]]:
    """The labelled queries, and all documents: of a file for training those of the corpus and its own."""
    if not dataset.is_file():
        found = judged_by(dataset, split, limit, unanswered=True)
        return found, {one.id: one for one in read_corpus(corpus or dataset)}
    from secondpass.training.data.groups import judged
    from secondpass.training.data.sources import read_groups

    read = {} if corpus is None else {one.id: one for one in read_corpus(corpus)}
    contents = {name: one.content for name, one in read.items()}
    asked = judged(list(read_groups(dataset)), contents)
    read |= {name: CorpusDocument(name, "", text) for name, text in contents.items() if name not in read}
    texts = asked.limited(limit).texts
    return Evaluated((asked.qrels or Qrels({})).only(texts), (), texts), read


def _of_pipeline(request: DatasetRequest, fields: Sequence[str]) -> Labels:
    """What a pipeline's retrievers found, without a document that is its query, as BEIR, and the logits of that."""
    corpus = list(read_corpus(request.corpus or request.dataset)) if fields else []
    _check_labels(
        request.dataset, judged_by(request.dataset, request.split, request.limit, unanswered=True).qrels, fields, corpus
    )
    runs = pipeline_runs(replace(request, taken=(RERANKER, *fields)))
    logits = {
        query: [(document, BLANK_LOGIT if score is None else score) for document, score in ranking.items()]
        for query, ranking in runs.second.items()
    }
    pairs = sum(map(len, logits.values()))
    if (ms := runs.ms.get(runs.second.name)) is not None:
        ms *= len(logits) / max(1, pairs)
    name = runs.second.name
    notes = (*notes_of(runs), *((known_note(runs.known, pairs, name),) if runs.known else ()))
    found = without_identical_ids(Evaluated(runs.qrels, (*runs.first, Run(name, logits)), notes=notes))
    *first, second = found.runs
    known_by = (runs.model, runs.marks, found.notes, runs.conditions)
    return Labels(runs.qrels, tuple(first), second, runs.documents, ms, *known_by)


def _of_first(
    found: Evaluated,
    sources: Sequence[str],
    documents: Mapping[str, CorpusDocument],
    depth: int,
    device: str | None,
    encoder: CrossEncoder | None,
    cache: Path | None,
    batch_size: int,
) -> Labels:
    """First passes that are found here or read from files, and the logits of all that they found."""
    texts = {name: document.content for name, document in documents.items()}
    runs: list[Run] = []
    notes: tuple[str, ...] = ()
    for source in sources:
        one, _ = first_pass(replace(found, runs=()), source, texts, depth, True, device)
        runs += one.runs
        notes += tuple(line for line in one.notes if line not in notes)
    if encoder is None:
        return Labels(found.qrels, tuple(runs), None, documents, None, None, None, notes)
    union = {
        query: [(name, None) for name in dict.fromkeys(name for run in runs for name in run.get(query, {}))]
        for query in found.texts or {}
    }
    marks, name, conditions = marks_of(encoder), encoder.name, encoder.conditions()
    options: dict[str, Any] = dict(batch_size=batch_size, relevance="expected")
    made = reranked(
        RERANKER, encoder, cache, replace(found, runs=(Run("union", union),)), texts, options, by_logit=True
    )
    filled = [len(ranking) for ranking in union.values() if ranking]
    ms = made.ms * len(filled) / max(1, sum(filled))
    notes = (*notes, *made.notes())
    return Labels(found.qrels, tuple(runs), made.run, documents, ms, name, marks, notes, conditions)


def _numbers(name: str, documents: Iterable[CorpusDocument]) -> dict[str, float]:
    """The numbers of a field by document; a document without it has none."""
    made = {}
    for document in documents:
        value = document.meta.get(name)
        if value is None:
            continue
        if not isinstance(value, Real) or isinstance(value, bool):
            raise InvalidInput(f"--field {name}: document {document.id!r} has {value!r}, which is no number")
        made[document.id] = float(value)
    if not made:
        raise InvalidInput(f"--field {name}: no document has it")
    return made


def _tell(result: Tuning, notes: Sequence[str], json: Path | None) -> None:
    if not arguments.printed(json):
        _show(PipeConsole(), result)
    for line in notes:
        note(line)


def _show(console: Console, result: Tuning) -> None:
    names = ("way", "fitted on all", result.measure, "over the first pass", "sure", "ms")
    table = Table(*(Column(name, overflow="fold") for name in names), box=None, pad_edge=False)
    rows = []
    for one in (*result.outcomes, result.choice):
        style = "bold" if one.name == result.recommended else ""
        row = (
            one.name,
            one.fusion,
            f"{one.mean:.3f} ({one.interval.low:.3f} to {one.interval.high:.3f})",
            f"{one.gain:+.3f} ({one.gain_interval.low:+.3f} to {one.gain_interval.high:+.3f})",
            f"{math.floor(1000 * one.certainty) / 10:g}%",
            "" if one.ms is None else f"{one.ms:.0f}",
        )
        rows.append(row)
        table.add_row(*row, style=style)
    fewer = [f", {one.name} {one.splits}" for one in (*result.outcomes, result.choice) if one.splits < result.splits]
    console.print(
        f"Of {result.queries} labelled queries, half of them fitted on and half measured, {result.splits} times"
        + "".join(fewer)
    )
    console.print("\n".join(stacked(names, rows)) if console.width < NARROW else table)
    if result.origin:
        console.print(f"The labels are {result.origin}, not from people.")
    for line in result.verdicts:
        console.print(line)
    _show_depth(console, result)


def _show_depth(console: Console, result: Tuning) -> None:
    depth, rule = result.depth, result.tuned.skip
    if depth is None:
        return
    curve = ", ".join(f"{at}: {value:.3f}" for at, value in depth.values)
    console.print(f"Depth {depth.chosen} (on held-out halves {depth.lost:+.3f} less than all). By depth: {curve}")
    if rule is None:
        console.print("No query is better left to the first passes, as far as these labels tell.")
    else:
        sure = f"that the first passes agree on ({rule.least:.0%} of their ten best)"
        if len(result.tuned.first) == 1:
            sure = f"whose best candidate leads by {rule.least:.0%} of the first pass's scores from first to last"
        console.print(f"Queries {sure} are not reranked: {rule.saved:.0%} of all, for {rule.lost:+.3f} less.")


def _write(
    result: Tuning,
    conditions: Conditions | None,
    output: Path | None,
    pipeline: str | None,
    depth: int | None,
    json: Path | None,
    reading: Mapping[str, object],
) -> None:
    """Write what was tuned, and the pipeline with it, whose ranker is to read as it did here (`reading`).

    Where that was computed, and which scores were kept, is no part of it.
    """
    page = replace(result.tuned, conditions=conditions).to_dict()
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        file = output / TUNED
        with opened(file) as stream:
            stream.write(jsons.dumps(page, indent=1) + "\n")
        note(f"wrote {file}")
        if pipeline is not None:
            resolve_name(WRITE_TUNED)(pipeline, file, output / PIPELINE, depth=depth, reading=reading)
            note(f"wrote {output / PIPELINE}")
    if json is not None:
        with opened(sys.stdout if arguments.printed(json) else json) as stream:
            stream.write(dumped({**asdict(result), "tuned": page}) + "\n")
