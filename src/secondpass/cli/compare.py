"""`secondpass compare`: several models on the candidates of one first pass, over a labelled dataset."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from tqdm import tqdm

from secondpass.cli import arguments
from secondpass.cli.evaluate import (
    Budget,
    Csv,
    Evaluated,
    Examples,
    Html,
    Json,
    Level,
    MeasureNames,
    Seed,
    analysed,
    check_reports,
    conclude,
    noted,
    run_of,
    without_identical_ids,
)
from secondpass.cli.output import note
from secondpass.cli.rank import RelevanceRule, relevance_of
from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass.evaluation.measures import parsed
from secondpass.evaluation.qrels import Qrels, column_of, judged_queries
from secondpass.evaluation.reporting.files import opened
from secondpass.evaluation.runs import RANKED, Run, run_name, write_run
from secondpass.models.templates import ANSWER, check_alone
from secondpass.ranking import Relevance, checked_relevance

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.record import CallRecord

BM25 = "bm25"

Dataset = Annotated[Path, typer.Option("--dataset", "-d", help="BEIR folder with judgements, or secondpass/demo.")]
Compared = Annotated[
    list[str],
    typer.Option("--model", help="Folder or hub name of a cross-encoder, or NAME=MODEL; once for each."),
]
First = Annotated[
    str,
    typer.Option(help="What finds the candidates: bm25, a run file (or NAME=FILE), or a bi-encoder (folder or name)."),
]
Runs = Annotated[
    Path | None, typer.Option("--output", "-o", help="RUN.trec: the first pass goes to RUN.bm25.trec, and so on.")
]


@dataclass(frozen=True, slots=True)
class Reranked:
    """A model's run, the milliseconds that a query took it, and the records of its calls."""

    run: Run
    ms: float
    records: tuple[CallRecord, ...]

    def notes(self) -> list[str]:
        """What its figures hide."""
        pairs, hits = (sum(getattr(record, name) for record in self.records) for name in ("pairs", "cache_hits"))
        cut = sum(len(record.truncated) for record in self.records)
        known = known_note(hits, pairs, self.run.name)
        lost = f"{cut:,} documents were cut to fit {self.run.name}"
        return [text for number, text in ((hits, known), (cut, lost)) if number]


def known_note(hits: int, pairs: int, name: str) -> str:
    """That a cache of scores had some of them."""
    return f"{hits:,} of {pairs:,} scores of {name} were known, so its milliseconds are fewer"


def compare(
    dataset: Dataset,
    model: Compared,
    first: First = BM25,
    split: Annotated[str, typer.Option(help="Which judgements of the BEIR folder.")] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Ask only the first queries.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Candidates of each query that are re-ranked.")] = 100,
    measure: MeasureNames = None,
    ignore_identical_ids: Annotated[
        bool,
        typer.Option(
            "--ignore-identical-ids/--keep-identical-ids", help="Leave out documents whose id is the query's, as BEIR."
        ),
    ] = True,
    max_length: arguments.MaxLength = None,
    batch_size: arguments.BatchSize = 32,
    device: arguments.Device = None,
    precision: arguments.Precision = None,
    instruction: arguments.Instruction = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
    relevance: RelevanceRule = None,
    long: arguments.Long = None,
    window_tokens: arguments.WindowTokens = None,
    window_overlap: arguments.WindowOverlap = None,
    max_windows: arguments.MaxWindows = None,
    select: arguments.SelectWindows = None,
    score_cache: arguments.ScoreCacheFile = None,
    output: Runs = None,
    budget_ms: Budget = None,
    html: Html = None,
    json: Json = None,
    csv: Csv = None,
    level: Level = 0.95,
    seed: Seed = 0,
    examples: Examples = 10,
) -> None:
    """Compare cross-encoders on the candidates of one first pass.

    The first pass finds the candidates of every judged query once, each model re-ranks them, one query at a time and
    timed. All pairs are told as in `evaluate`: differences with intervals and corrected tests, effect sizes, how many
    queries would decide, which documents moved, and for which queries a model hurts.

    [bold]Examples[/bold]

    secondpass compare --dataset beir/scifact --model secondpass/pocket --model models/mine

    secondpass compare -d beir/scifact --model old=models/1 --model new=models/2 --first run.trec --html report.html

    secondpass compare -d beir/scifact --model models/mine --score-cache scores.db --output runs/scifact.trec
    """
    check_reports(0, html, json, csv, output)
    if measure:
        parsed(measure)
    loading = max_length, device, precision, None, template, true_token, false_token
    models, rule = _named(model, loading[4:]), relevance_of(relevance)
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    found = judged_by(dataset, split, limit)
    corpus = {document.id: document.content for document in read_corpus(dataset)}
    found, first_ms = first_pass(found, first, corpus, depth, ignore_identical_ids, device)
    (candidates,) = found.runs
    _check_names([candidates.name, *models], candidates, output)
    only = _checked(models, loading, rule)
    options: Any = dict(batch_size=batch_size, truncation=how, instruction=instruction, relevance=rule)
    made = [
        reranked(name, only or arguments.load(source, *loading), score_cache, found, corpus, options)
        for name, source in models.items()
    ]
    found = _joined(found, made, models, first_ms, depth)
    if output is not None:
        _write_runs(output, found.runs)
    found = replace(found, lengths={document: len(text) for document, text in corpus.items()})
    conclude(analysed(found, measure, level, seed, examples, candidates.name), found.notes, budget_ms, html, json, csv)


def judged_by(dataset: Path, split: str, limit: int | None, *, unanswered: bool = False) -> Evaluated:
    """The first judged queries, and their judgements; perhaps with those that have no relevant document."""
    queries = judged_queries(dataset, split)
    queries = queries.with_unanswered() if unanswered else queries
    texts = queries.limited(limit).texts
    qrels = queries.qrels or Qrels({})
    judged = qrels if limit is None else qrels.only(texts)
    return Evaluated(judged, (), texts, notes=noted(queries.textless), beir=True, folder=dataset)


def _named(given: Sequence[str], answer: Sequence[str | None]) -> dict[str, str]:
    """Models by the names that reports call them; a template and the tokens of an answer are for one of them."""
    made: dict[str, str] = {}
    for one in given:
        name, equals, source = one.partition("=")
        if not equals or Path(one).exists():
            name, source = (Path(one).name or one) if Path(one).is_dir() else one, one
        if not name or name in made:
            why = f"{made[name]} is called {name!r} too" if name else "it has no name"
            raise InvalidInput(f"--model {one}: {why}; say NAME=MODEL")
        made[name] = source
    check_alone(made.values(), dict(zip(ANSWER, answer, strict=True)))
    return made


def _checked(models: Mapping[str, str], loading: Sequence[Any], rule: Relevance | None) -> CrossEncoder | None:
    """Open each model, so that none is refused after others have ranked everything; gives an only one, still open."""
    for name, source in models.items():
        encoder = arguments.load(source, *loading)
        try:
            if (count := encoder.num_labels) > 1:
                checked_relevance(rule, count)
        except InvalidInput:
            asked = f"--relevance 0 to {count - 1} or expected"
            what = f"it has {count} labels; say by which to rank, {asked}"
            raise InvalidInput(f"--model {name}={source}: {what}") from None
        if len(models) == 1:
            return encoder
        encoder.close()  # several may not fit beside each other
    return None


def first_pass(
    found: Evaluated, source: str, corpus: Mapping[str, str], depth: int, other_ids: bool, device: str | None
) -> tuple[Evaluated, float | None]:
    """The candidates as the only run, at most `depth` a query, and milliseconds a query where they were found here."""
    from secondpass.training.negatives import candidates

    texts, ms, read = found.texts or {}, None, is_run_file(source)
    if source == BM25:
        index = candidates.BM25(list(corpus.values()))
        began = time.perf_counter()
        run = Run(BM25, candidates.bm25_candidates(texts, corpus, depth=depth + other_ids, index=index))
        ms = (time.perf_counter() - began) * 1000 / len(texts)
    elif read:
        run = run_of(source).only(texts)
        for query, ranking in run.items():
            if unknown := next((document for document in ranking if document not in corpus), None):
                raise InvalidInput(f"{source}: document {unknown!r} of query {query!r} is not in the dataset")
    else:
        encode = arguments.bi_encoder("--first", source, device)
        run = Run(name_of(source), candidates.encoder_candidates(texts, corpus, encode, depth=depth + other_ids))
    found = replace(found, runs=(run,))
    found = without_identical_ids(found) if other_ids else found
    (whole,) = found.runs
    if not any(whole.values()):
        raise InvalidInput(f"--first {source}: it finds nothing for any of the {len(texts)} queries")
    kept = Run(whole.name, {query: list(ranking.items())[:depth] for query, ranking in whole.items()})
    if read and (deeper := sum(map(len, whole.values())) - sum(map(len, kept.values()))):
        note = f"{deeper:,} documents of {whole.name} are beyond the depth of {depth:,} and left out (--depth)"
        found = replace(found, notes=(*found.notes, note))
    return replace(found, runs=(kept,)), ms


def is_run_file(source: str) -> bool:
    """Whether a first pass is read from a file, with a name in front or without one."""
    return source != BM25 and (Path(source).is_file() or Path(source.partition("=")[2]).is_file())


def name_of(source: str) -> str:
    """What the run of a first pass is called, before anything is read."""
    if not is_run_file(source):
        return Path(source).name if source != BM25 and Path(source).is_dir() else source
    name, equals, _ = source.partition("=")
    return name if equals and not Path(source).exists() else run_name(Path(source))


def reranked(
    name: str,
    encoder: CrossEncoder,
    cache: Path | None,
    found: Evaluated,
    corpus: Mapping[str, str],
    options: dict[str, Any],
    *,
    by_logit: bool = False,
) -> Reranked:
    """One model over all candidates, a query at a time; the run has its scores, or its logits."""
    options = {**options, "show_progress_bar": False} | ({"relevance": None} if encoder.num_labels == 1 else {})
    filled = {query: list(ranking) for query, ranking in found.runs[0].items() if ranking}
    queries = found.texts or {}
    rankings: dict[str, list[tuple[str, float | None]]] = {}
    records, seconds = [], 0.0
    with arguments.with_files(encoder, cache):
        # What a first call sets up is no query's time.
        encoder.rank_many(["first call"], [["first call"]], **options)
        for query, documents in tqdm(filled.items(), name, disable=not sys.stderr.isatty(), leave=False):
            texts = [corpus[document] for document in documents]
            began = time.perf_counter()
            (ranking,) = encoder.rank_many([queries[query]], [texts], **options)
            seconds += time.perf_counter() - began
            rankings[query] = [
                (documents[one.index], one.logit if by_logit else one.score) for one in ranking.documents
            ]
            records.append(ranking.record)
    encoder.close()
    return Reranked(Run(name, rankings), seconds * 1000 / len(filled), tuple(records))


def _joined(
    found: Evaluated, made: Sequence[Reranked], models: Mapping[str, str], first_ms: float | None, depth: int
) -> Evaluated:
    """The first pass with what the models made of it."""
    (candidates,) = found.runs
    ms = {each.run.name: each.ms + (first_ms or 0.0) for each in made}
    notes = [note for each in made for note in each.notes()]
    if first_ms is None:
        notes.append(f"milliseconds are the models' alone: {candidates.name} was not timed")
    else:
        ms[candidates.name] = first_ms
    last = {each.run.name: each.records[-1] for each in made}
    settings = {f"model {name}": f"{models[name]}, {record.dtype} on {record.device}" for name, record in last.items()}
    return replace(
        found,
        runs=(candidates, *(each.run for each in made)),
        ms=ms,
        notes=(*found.notes, *notes),
        settings={**settings, "candidates": f"{depth:,} a query at most"},
    )


def _check_names(names: Sequence[str], candidates: Run, output: Path | None) -> None:
    """Refuse what reports and files of runs cannot hold or keep apart, before hours of work."""
    if names[0] in names[1:]:
        raise InvalidInput(f"--model: the first pass is called {names[0]!r} too; say NAME=MODEL")
    if output is None:
        return
    for name in {*candidates, *(document for ranking in candidates.values() for document in ranking)}:
        column_of(name)
    files = [_file(output, name) for name in names]
    for place, file in enumerate(files):
        if file in files[:place]:
            raise InvalidInput(f"--output: {names[place]!r} and {names[files.index(file)]!r} would both go to {file}")


def _write_runs(output: Path, runs: Sequence[Run]) -> None:
    ranked = 0
    for run in runs:
        with opened(_file(output, run.name)) as stream:
            rows = [(query, list(ranking.items())) for query, ranking in run.items()]
            ranked += write_run(stream, rows, _plain(run.name))
    if ranked:
        note(RANKED.format(ranked))


def _file(output: Path, name: str) -> Path:
    return output.with_name(f"{output.stem}.{_plain(name)}{output.suffix}")


def _plain(name: str) -> str:
    return re.sub(r"[^\w.+-]", "_", name)
