"""`secondpass calibrate`: what a model's logits mean, by labelled candidates, into its folder or a file of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from secondpass.calibration import Calibration, file_of
from secondpass.cli import arguments
from secondpass.cli.output import PipeConsole, print_json
from secondpass.cli.rank import RelevanceRule, relevance_of
from secondpass.corpora import corpus_file, named_file, packaged, read_corpus, read_queries
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import qrels_file, read_qrels
from secondpass.evaluation.runs import read_run
from secondpass.models.card import write_card
from secondpass.models.folders import PACKAGED
from secondpass.models.identity import put_calibration
from secondpass.tuning.probabilities import calibrate as calibrated

if TYPE_CHECKING:
    from secondpass.tuning.probabilities import Label

PRECISIONS = (0.5, 0.7, 0.8, 0.9, 0.95)
Candidates = tuple[list[str], list[list[str]], "list[list[Label]]", str]

Labels = Annotated[
    Path,
    typer.Argument(
        help="Labelled candidates: groups as `train` and `mine` have them; or with --run a BEIR folder or judgements.",
        show_default=False,
    ),
]
RunFile = Annotated[
    Path | None, typer.Option("--run", "-r", help="Candidates of the judged queries, as the first pass finds them.")
]
Corpus = Annotated[Path | None, typer.Option(help="With --run: texts of the documents; by default the BEIR folder's.")]
Queries = Annotated[Path | None, typer.Option(help="With --run: texts of the queries; by default the BEIR folder's.")]
Depth = Annotated[int, typer.Option(min=1, help="With --run: candidates of a query at most, as many as there will be.")]
Unjudged = Annotated[
    Literal["other", "absent"], typer.Option(help="Documents that nobody judged: not relevant, or left out.")
]
Answered = Annotated[
    float | None,
    typer.Option(help="Share of answerable queries that the rule for 'nothing relevant' keeps; else both count alike."),
]
Origin = Annotated[
    str | None, typer.Option(help="Where labels come from that people did not give; by default what their file says.")
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="JSON file, or folder; by default the model's own, which then applies it."),
]


def calibrate(
    labels: Labels,
    run: RunFile = None,
    corpus: Corpus = None,
    queries: Queries = None,
    split: Annotated[str, typer.Option(help="Which judgements of a BEIR folder.")] = "test",
    depth: Depth = 100,
    model: arguments.Model = arguments.POCKET,
    max_length: arguments.MaxLength = None,
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
    unjudged: Unjudged = "other",
    answered: Answered = None,
    origin: Origin = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the held-out halves.")] = 0,
    output: Output = None,
    as_json: arguments.JsonObject = False,
) -> None:
    """Fit the probability that a document is relevant, thresholds that hold, and when nothing is relevant.

    Label queries and candidates such as there will be: what is fitted holds for that kind of candidates and for that
    share of relevant ones. About a hundred judged queries do. Needs the extra tune.

    [bold]Examples[/bold]

    secondpass calibrate groups.jsonl --model models/mine

    secondpass calibrate beir/scifact --run bm25.trec --output scifact.json

    secondpass calibrate qrels.txt --run bm25.trec --corpus docs.jsonl --queries queries.tsv --model models/mine
    """
    if run is None:
        texts, lists, grades, told = _groups(labels, corpus, queries)
    else:
        texts, lists, grades, told = _ranked(labels, run, corpus, queries, split, depth)
    target, rule = _target(output, model), relevance_of(relevance)
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    encoder = arguments.load(model, max_length, device, precision, instruction, template, true_token, false_token)
    with arguments.with_files(encoder, score_cache):
        made = calibrated(
            encoder, texts, lists, grades, relevance=rule, unjudged=unjudged, answered=answered, seed=seed,
            origin=told if origin is None else origin, truncation=how,
        )  # fmt: skip
    own = packaged(Path(model))
    if target == own:
        put_calibration(own, made)
        write_card(own, own, None, made)
    else:
        made.save(target)
    if as_json:
        promises = [{"precision": wanted, **asdict(made.threshold_for(wanted))} for wanted in PRECISIONS]
        print_json({"file": file_of(target), "calibration": made.to_dict(), "promises": promises})
    else:
        _tell(made, file_of(target))


def _target(output: Path | None, model: str) -> Path:
    """Where it is written; known before anything is scored."""
    own = packaged(Path(model))
    if output is None and (model in PACKAGED or not own.is_dir()):
        raise InvalidInput(f"{model} is no folder of yours: say with --output where the calibration is written")
    target = own if output is None or output.absolute() == own.absolute() else output
    arguments.check_targets(file_of(target))
    return target


def _groups(labels: Path, *unused: Path | None) -> Candidates:
    """Candidates with a label each, rows of one query together."""
    from secondpass.training.data.groups import label_origins
    from secondpass.training.data.sources import read_groups

    if any(unused) or packaged(labels).is_dir():
        raise InvalidInput("judgements need --run: the candidates of each query, as the first pass finds them")
    found: dict[str, dict[str, Label]] = {}
    groups = list(read_groups(labels))
    for group in groups:
        own = found.setdefault(group.query, {})
        for document, label in zip(group.documents, group.labels, strict=True):
            if own.setdefault(document, label) != label:
                raise InvalidInput(
                    f"{labels}: a document of query {group.query!r} has the label {label:g} and {own[document]:g}: "
                    f"{document[:60]!r}"
                )
    grades = [list(own.values()) for own in found.values()]
    return list(found), [list(own) for own in found.values()], grades, label_origins(groups)


def _ranked(labels: Path, run: Path, corpus: Path | None, queries: Path | None, split: str, depth: int) -> Candidates:
    """The candidates of the judged queries, with what the judgements say of each."""
    place = packaged(labels)
    beir = place.is_dir()
    if not beir and (corpus is None or queries is None):
        raise InvalidInput(f"{labels} is no BEIR folder: give --corpus and --queries too")
    qrels = read_qrels(qrels_file(place, split) if beir else place)
    texts = read_queries(queries or named_file(place, "queries.jsonl"))
    rankings = read_run(run)
    chosen = {
        # BEIR leaves out a query that is a document itself
        query: [document for document in rankings[query] if not beir or document != query][:depth]
        for query in qrels
        if query in rankings and query in texts
    }
    if not chosen:
        raise InvalidInput(f"{run}: has no candidates of a judged query whose text is known")
    wanted = {document for documents in chosen.values() for document in documents}
    whole: Mapping[str, str] = {
        one.id: one.content for one in read_corpus(corpus_file(corpus or place)) if one.id in wanted
    }
    lacking = wanted - whole.keys()
    if lacking:
        raise InvalidInput(f"{run}: {len(lacking):,} of its documents have no text, {min(lacking)!r} is one")
    return (
        [texts[query] for query in chosen],
        [[whole[document] for document in documents] for documents in chosen.values()],
        [[qrels[query].get(document) for document in documents] for query, documents in chosen.items()],
        qrels.origin,
    )


def _tell(made: Calibration, file: Path) -> None:
    console = PipeConsole(soft_wrap=True)
    error = "" if made.error is None else f", expected calibration error on held-out halves {made.error:.4f}"
    console.print(f"{file}: {made.method}{error}.")
    if made.origin:
        console.print(f"Judgements {made.origin}.")
    share = made.relevant / made.rows
    console.print(
        f"{made.queries:,} queries, {made.rows:,} documents, {made.relevant:,} relevant ({share:.1%}): probabilities "
        "hold where candidates are of that kind and that share of them is relevant."
    )
    if made.unjudged:
        low, high = made.bounds([_middle(made)])
        told = "as not relevant" if made.unjudged_as == "other" else "as absent"
        console.print(
            f"Nobody judged {made.unjudged:,} documents, which count {told}: what is given as {_chance(made):.0%} may "
            f"be from {low[0]:.0%} to {high[0]:.0%}."
        )
    for wanted in PRECISIONS:
        promise = made.threshold_for(wanted)
        if promise.threshold is None:
            console.print(f"Precision {wanted:.0%}: {promise.reason}.")
            break
        least = math.ceil(promise.threshold * 1000) / 1000  # rounded down it would let in more than is promised
        console.print(
            f"Precision {wanted:.0%} is promised (confidence {promise.confidence:.0%}) from probability {least:.3f} "
            f"on, which {promise.queries_kept:.0%} of the queries have a document with."
        )
    if made.answers is not None:
        rule = made.answers
        console.print(
            f"Nothing is relevant where the best logit is below {rule.logit:.3f}: that keeps {rule.answered:.0%} of "
            f"{rule.queries:,} queries, and refuses {rule.refused:.0%} of "
            + (
                f"{rule.unanswered:,} without an answer."
                if rule.unanswered
                else "them without their relevant documents."
            )
        )


def _middle(made: Calibration) -> float:
    """A logit whose probability is as near to a half as those of the labelled documents come."""
    return min((step.logit for step in made.sequence), key=lambda logit: abs(made.probabilities([logit])[0] - 0.5))


def _chance(made: Calibration) -> float:
    return float(made.probabilities([_middle(made)])[0])
