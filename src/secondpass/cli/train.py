"""`secondpass train` (a documented file to a trained model) and `secondpass mine` (what it trains on)."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from secondpass.cli import arguments
from secondpass.cli.output import INTERRUPTED, PipeConsole, note, print_json, print_table
from secondpass.cli.rank import RelevanceRule, relevance_of
from secondpass.corpora import named_file, read_corpus, read_queries
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels
from secondpass.evaluation.runs import read_run
from secondpass.training.negatives.sifting import Against, MiningRule, Sampling

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.evaluation.comparison import Analysis
    from secondpass.ranking import Relevance
    from secondpass.training.configured import Finished, Prepared
    from secondpass.training.measuring.before_after import BeforeAfter
    from secondpass.training.negatives.candidates import Candidates


# Of a column of the table that is printed at the end.
LONGEST_NAME = 14


def train(
    config: Annotated[Path | None, typer.Argument(help="YAML file; --example shows every key.")] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="KEY=VALUE", help="Change a key, such as settings.learning_rate=3e-5."),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder, instead of output.folder.")] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume/--no-resume", help="Go on from the newest checkpoint in the folder, or begin anew."),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and check all data, count the steps, and stop before the first.")
    ] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a file with every key, its default and meaning.")
    ] = False,
    storage: Annotated[
        Literal["int8"] | None, typer.Option("--storage", help="Write the weights as int8, a quarter of the size.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    as_json: arguments.JsonObject = False,
) -> None:
    """Train a reranker as a YAML file says.

    The folder gets the model, the configuration, a log and a model card. The same command again goes on where a broken
    run stopped: checkpoints stay until the run is done, with settings.keep for good. With data.dev or data.test, the
    model is measured before and after.

    [bold]Examples[/bold]

    secondpass train --example > train.yaml

    secondpass train train.yaml --dry-run

    secondpass train train.yaml --set settings.epochs=3 --set data.dev_share=0.1 -o my-reranker
    """
    from secondpass.training.yaml import example_text, read_config

    if example and as_json:
        raise InvalidInput("give either --example, which prints YAML, or --json")
    if example:
        sys.stdout.write(example_text())
        return
    if config is None:
        raise InvalidInput("CONFIG is missing: a YAML file, such as `secondpass train --example` prints")
    overrides = list(set_values or ())
    if output is not None:
        # JSON's strings are YAML's too, whatever is in them.
        overrides.append(f"output.folder={json.dumps(str(output.absolute()))}")
    if storage is not None:
        overrides.append(f"output.storage={storage}")
    chosen = read_config(config, overrides)
    from secondpass.training.configured import prepare

    prepared = prepare(chosen)
    if _is_first():
        _introduce(prepared, as_json)
    if dry_run:
        _dry(prepared, as_json)
        return
    _run(prepared, resume, config, quiet, as_json)


def _run(prepared: Prepared, resume: bool, config: Path, quiet: bool, as_json: bool) -> None:
    from secondpass.training.configured import run

    folder = Path(prepared.config.output.folder)
    try:
        # two bars, one below the other, move the cursor: in a file those are escape sequences
        shown = not quiet and sys.stderr.isatty()
        dev = "" if prepared.dev is None else prepared.dev.ranking.primary_metric
        done = run(prepared, resume=resume, watch=partial(_tell, dev, aside=as_json), show_progress_bar=shown)
    except KeyboardInterrupt:
        if _is_first():
            note(_where_it_stands(folder, config))
        raise typer.Exit(INTERRUPTED) from None
    if _is_first() and as_json:
        print_json(_concluded(done, folder))
    elif _is_first():
        _conclude(done, folder)


def _is_first() -> bool:
    """Whether this is the process that talks, of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


def _introduce(prepared: Prepared, aside: bool) -> None:
    """What is trained on; on stderr where stdout is JSON."""
    say = partial(typer.echo, err=aside)
    say("training data:")
    checked = prepared.checked
    groups = [line for line in checked.counts.lines() if not (line.startswith("dropped") and "groups, " in line)]
    for line in (*groups, *checked.dropped):
        say(f"  {line}")
    for held in prepared.measured:
        candidates = sum(len(group) for group in held.ranking.groups)
        first = "" if held.first is None else f", first pass {held.first.name}"
        say(f"{held.name}: {len(held.queries):,} queries, {candidates:,} candidates{first}")
    for line in prepared.notes:
        say(f"note: {line}")


def _dry(prepared: Prepared, as_json: bool) -> None:
    plan = prepared.plan()
    tokens = int(plan.lengths.tokens.sum())
    settings = prepared.config.settings
    if as_json:
        print_json({
            "steps": plan.total, "epochs": plan.epochs, "tokens_an_epoch": tokens, "loss": str(settings.loss),
            "cut": int(plan.cut), "pairs": len(plan.lengths.tokens), "folder": str(prepared.config.output.folder),
        })  # fmt: skip
        return
    typer.echo(f"steps: {plan.total:,} in {plan.epochs:,} epochs ({tokens:,} tokens an epoch), loss {settings.loss}")
    if plan.cut:
        typer.echo(f"cut: {plan.cut:,} of {len(plan.lengths.tokens):,} pairs are too long and lose tokens")
    typer.echo(f"output: {prepared.config.output.folder} (nothing was written: --dry-run)")


def _tell(measure: str, entry: Mapping[str, Any], aside: bool = False) -> None:
    """Say the score of each evaluation on dev, by its measure, as it comes."""
    from tqdm import tqdm

    if entry["kind"] == "evaluation":
        best = ", the best so far" if entry.get("best") else ""
        with tqdm.external_write_mode():
            typer.echo(f"step {entry['step']:,}: dev {measure} {entry['score']:.4f}{best}", err=aside)


def _where_it_stands(folder: Path, config: Path) -> str:
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("step-*") if path.is_dir())
    if not checkpoints:
        return f"interrupted before the first checkpoint; {folder} has none to go on from"
    kept = config if config.absolute().parent == folder.absolute() else folder / "train.yaml"
    last = folder / "checkpoints" / checkpoints[-1]
    return f"interrupted; the last checkpoint is {last}: `secondpass train {kept}` goes on from it"


def _concluded(done: Finished, folder: Path) -> dict[str, object]:
    """The same as `_conclude` for programs; of each held-out set what training changed."""
    measured = {held.name: held.gain().comparisons for held in done.measured}
    return {"model": folder, "card": done.card, "report": done.report, "unchanged": done.report.unchanged,
            "measured": measured}  # fmt: skip


def _conclude(done: Finished, folder: Path) -> None:
    report = done.report
    went_on = "" if report.resumed_from is None else f", gone on from step {report.resumed_from:,}"
    if report.resumed_from == report.steps:
        went_on = ", all of them before: the run was done"
    early = ", stopped early: no better score" if report.stopped_early else ""
    typer.echo(f"{report.steps:,} steps, {report.pairs:,} pairs in {report.seconds:,.0f} s{went_on}{early}")
    rows = [row for held in done.measured for row in _rows(held)]
    if rows:
        typer.echo("")
        print_table(("data", "measure", "first", "before", "after", "change", "95 % interval", "p"), rows)
        typer.echo("")
    if report.best_step is not None:
        typer.echo(f"weights: those of step {report.best_step:,}, the best on dev")
    typer.echo(f"model: {folder}")
    if done.card is not None:
        typer.echo(f"card: {done.card}")
    if report.unchanged:
        typer.echo(report.unchanged)


def _rows(held: BeforeAfter) -> list[Sequence[str]]:
    """A line a measure: means of the passes, and what training changed, paired by query."""
    from secondpass.evaluation.reporting.wording import NOTHING, number, p_cell, shortened, signed, signed_span

    gain: Analysis = held.gain()
    first = held.analysis().reports[0] if held.first is not None else None
    before, after = gain.reports
    return [
        (
            shortened(held.name, LONGEST_NAME),
            each.measure,
            NOTHING if first is None else number(first.means[each.measure]),
            number(before.means[each.measure]),
            number(after.means[each.measure]),
            signed(each.difference),
            signed_span(each.interval),
            p_cell(each.p_adjusted),
        )
        for each in gain.comparisons
    ]


# ---- Labelled queries to training groups with hard negatives.
BM25 = "bm25"


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read: texts by id, and the judgements."""

    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Qrels


OwnCorpus = Annotated[Path | None, typer.Option(help="Documents (JSON lines or BEIR folder), without --dataset.")]
OwnJudgements = Annotated[Path | None, typer.Option(help="Judgements (TREC, BEIR or JSON lines), without --dataset.")]
Clicks = Annotated[
    Path | None, typer.Option(help="Relevant pairs (.csv, .parquet, .jsonl), texts or ids, for --qrels.")
]
SecondPass = Annotated[
    str | None, typer.Option(help="Cross-encoder that drops what it finds as relevant as the positive.")
]
OwnDocuments = Annotated[
    bool | None,
    typer.Option(
        "--ignore-identical-ids/--keep-identical-ids",
        help="Take no document whose id is the query's; by default with --dataset only, as BEIR's evaluation does.",
    ),
]


def mine(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the groups go, as JSON lines.")],
    dataset: Annotated[Path | None, typer.Option("--dataset", "-d", help="BEIR folder, or secondpass/demo.")] = None,
    corpus: OwnCorpus = None,
    queries: Annotated[Path | None, typer.Option(help="Queries (JSON lines or .tsv), without --dataset.")] = None,
    qrels: OwnJudgements = None,
    clicks: Clicks = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=NAME", help="Of --clicks, where names do not say it; see docs.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which judgements of the BEIR folder.")] = "train",
    source: Annotated[str, typer.Option("--from", help="bm25, a run file, or a bi-encoder (folder or name).")] = BM25,
    negatives: Annotated[int, typer.Option("--negatives", "-n", min=1, help="For each query, at most.")] = 5,
    first: Annotated[int, typer.Option(min=1, help="Rank of the first candidate, relevant ones not counted.")] = 1,
    last: Annotated[int, typer.Option(min=1, help="Rank of the last candidate.")] = 100,
    margin: Annotated[
        float | None, typer.Option(min=0, help="Negatives score lower than the positive by this share of its score.")
    ] = None,
    absolute_margin: Annotated[float | None, typer.Option(min=0, help="The same as a difference of scores.")] = None,
    max_score: Annotated[float | None, typer.Option(help="Drop candidates with a higher score.")] = None,
    against: Annotated[Against, typer.Option(help="Which of several positives margins start from.")] = "lowest",
    rescore: SecondPass = None,
    instruction: Annotated[str | None, typer.Option(help="What --rescore is told to look for.")] = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
    relevance: RelevanceRule = None,
    rescore_margin: Annotated[float, typer.Option(min=0, help="By how much it has to score lower.")] = 0.0,
    sampling: Annotated[Sampling, typer.Option(help="The best candidates left, or any of them.")] = "top",
    positives: Annotated[int | None, typer.Option(min=1, help="For each query, at most; by default all.")] = None,
    graded: Annotated[bool, typer.Option("--graded", help="Labels are the grades, not 1 and 0.")] = False,
    query_prefix: Annotated[str, typer.Option(help="What the bi-encoder wants before queries, 'query: '.")] = "",
    document_prefix: Annotated[str, typer.Option(help="What it wants before documents, 'passage: '.")] = "",
    device: arguments.Device = None,
    ignore_identical_ids: OwnDocuments = None,
    seed: Annotated[int, typer.Option(help="Of random sampling.")] = 0,
    as_json: arguments.JsonObject = False,
) -> None:
    """Find hard negatives: documents that a first pass ranks high and nobody judged relevant.

    Writes a group for each query (its relevant documents and its negatives, with labels) that training reads, and
    prints how many candidates were dropped and why. Documents judged and not relevant are taken first. Clicks need no
    corpus if they have texts: then the documents of all queries are the candidates.

    [bold]Examples[/bold]

    secondpass mine --dataset beir/scifact --split train --output groups.jsonl

    secondpass mine -d beir/scifact --from sentence-transformers/all-MiniLM-L6-v2 --margin 0.05 -o groups.jsonl

    secondpass mine --clicks clicks.csv --output groups.jsonl

    secondpass mine -d beir/scifact --from run.trec --first 10 --rescore secondpass/pocket -o groups.jsonl
    """
    from secondpass.training.data.groups import checked_target

    checked_target(output)
    told: Any = dict(instruction=instruction, template=template, true_token=true_token, false_token=false_token)
    by_label = _for_second_pass(rescore, relevance, told)
    with _said_as_options():
        rule = MiningRule(
            negatives=negatives, first=first, last=last, max_score=max_score, absolute_margin=absolute_margin,
            relative_margin=margin, rescore_margin=rescore_margin, against=against, sampling=sampling,
            positives=positives, graded=graded, seed=seed,
            ignore_identical_ids=bool(dataset) if ignore_identical_ids is None else ignore_identical_ids,
        )  # fmt: skip
    if clicks is None:
        labelled = _read(dataset, corpus, queries, qrels, split)
    else:
        _refuse_beside_clicks(dataset or qrels, queries, corpus)
        labelled = _clicked(clicks, corpus, queries, column or ())
    found = _candidates(source, labelled, last + rule.ignore_identical_ids, (query_prefix, document_prefix), device)
    encoder = None if rescore is None else arguments.load(rescore, None, device, **told)
    _write(output, labelled, found, rule, encoder, by_label, as_json)


def _for_second_pass(rescore: str | None, relevance: str | None, told: Mapping[str, str | None]) -> Relevance | None:
    """What --relevance says; what is for a cross-encoder is refused where there is none."""
    given = [name for name, value in {**told, "relevance": relevance}.items() if value is not None]
    if given and rescore is None:
        raise InvalidInput(f"--{given[0].replace('_', '-')} is for the cross-encoder of --rescore")
    return relevance_of(relevance)


def _write(
    output: Path,
    labelled: Dataset,
    found: Candidates,
    rule: MiningRule,
    encoder: CrossEncoder | None,
    relevance: Relevance | None,
    as_json: bool,
) -> None:
    from secondpass.training.negatives.mining import mine_negatives, write_mined

    mined = mine_negatives(
        labelled.queries, labelled.corpus, labelled.qrels, found,
        rule=rule, cross_encoder=encoder, relevance=relevance, progress=sys.stderr.isatty(),
    )  # fmt: skip
    if not mined.groups:
        for line in mined.report.lines():
            note(line)
        raise InvalidInput(f"no query has a negative that the rule allows: {output} is not written")
    write_mined(output, mined)
    if as_json:
        print_json({"file": output, **asdict(mined.report)})
        return
    console = PipeConsole(soft_wrap=True)
    for line in mined.report.lines():
        console.print(line)


def _read(dataset: Path | None, corpus: Path | None, queries: Path | None, qrels: Path | None, split: str) -> Dataset:
    """Texts and judgements; of the queries only those that are judged."""
    if dataset is not None:
        if corpus or queries or qrels:
            raise InvalidInput("give either --dataset, or --corpus, --queries and --qrels")
        corpus, queries, qrels = dataset, named_file(dataset, "queries.jsonl"), qrels_file(dataset, split)
    if corpus is None or queries is None or qrels is None:
        raise InvalidInput("give --dataset, or --corpus, --queries and --qrels")
    judged = read_qrels(qrels)
    texts = {query: text for query, text in read_queries(queries).items() if query in judged}
    return Dataset({document.id: document.content for document in read_corpus(corpus)}, texts, judged)


@contextmanager
def _said_as_options() -> Iterator[None]:
    """A rule's own words as options: "last=3 is before first=5" is about --last and --first."""
    try:
        yield
    except InvalidInput as error:
        named = re.sub(r"\b([a-z_]+)=", lambda found: f"--{found[1].replace('_', '-')} ", str(error))
        raise InvalidInput(named.replace("--relative-margin", "--margin")) from None


def _refuse_beside_clicks(judged: Path | None, queries: Path | None, corpus: Path | None) -> None:
    if judged or (queries and not corpus):
        raise InvalidInput("--clicks goes without --dataset and --qrels, and --queries with --corpus, for ids")


def _clicked(clicks: Path, corpus: Path | None, queries: Path | None, columns: Sequence[str]) -> Dataset:
    """Texts and judgements of relevant pairs; documents of the corpus that have their texts are the same documents."""
    from secondpass.training.data.groups import judged
    from secondpass.training.data.sources import read_groups
    from secondpass.training.settings import words_of

    parts = [column.partition("=") for column in columns]
    if not all(role and equals for role, equals, _ in parts):
        raise InvalidInput("--column is ROLE=NAME, such as label=clicks; label= where no column says it")
    chosen = {role: name or None for role, _, name in parts}
    with words_of("options"):
        groups = list(read_groups(clicks, columns=chosen or None, corpus=corpus if queries else None, queries=queries))
    if not groups:
        raise InvalidInput(f"{clicks} has no rows: there is nothing to find negatives for")
    contents = {} if corpus is None else {document.id: document.content for document in read_corpus(corpus)}
    found = judged(groups, contents)
    return Dataset(contents, found.texts, found.qrels or Qrels({}))


def _candidates(source: str, labelled: Dataset, last: int, prefixes: tuple[str, str], device: str | None) -> Candidates:
    from secondpass.training.negatives.candidates import bm25_candidates, encoder_candidates

    is_run = source != BM25 and Path(source).is_file()
    if any(prefixes) and (is_run or source == BM25):
        raise InvalidInput("--query-prefix and --document-prefix are for a bi-encoder")
    if is_run:
        return {query: list(ranking.items()) for query, ranking in read_run(Path(source)).items()}
    # Relevant documents have no rank, so the list has to be longer by as many as there are.
    most = max(sum(grade > 0 for grade in grades.values()) for grades in labelled.qrels.values())
    given: dict[str, Any] = {"depth": last + most, "qrels": labelled.qrels}
    if source == BM25:
        return bm25_candidates(labelled.queries, labelled.corpus, **given)
    encode = arguments.bi_encoder("--from", source, device)
    return encoder_candidates(
        labelled.queries, labelled.corpus, encode, query_prefix=prefixes[0], document_prefix=prefixes[1], **given
    )
