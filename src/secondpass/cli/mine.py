"""`secondpass mine`: labelled queries to training groups with hard negatives."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass.cli import choices
from secondpass.cli.failures import PipeConsole
from secondpass.corpora import named_file, read_corpus
from secondpass.errors import InvalidInput
from secondpass.evaluation.qrels import Qrels, qrels_file, read_qrels
from secondpass.evaluation.runs import read_run
from secondpass.queries import read_queries

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder
    from secondpass.training.negatives.candidates import Candidates
    from secondpass.training.negatives.rule import MiningRule

BM25 = "bm25"


class Sampling(StrEnum):
    """How negatives are taken from what is left."""

    top = "top"
    random = "random"


class Against(StrEnum):
    """Which of several positives margins are measured from."""

    lowest = "lowest"
    highest = "highest"


@dataclass(frozen=True, slots=True)
class Labelled:
    """What was read: texts by id, and the judgements."""

    corpus: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Qrels


def mine(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the groups go, as JSON lines.")],
    dataset: Annotated[Path | None, typer.Option("--dataset", "-d", help="BEIR folder.")] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Documents (JSON lines or BEIR folder), without --dataset.")
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries (JSON lines or .tsv), without --dataset.")] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements (TREC, BEIR or JSON lines), without --dataset.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which judgements of the BEIR folder.")] = "train",
    source: Annotated[
        str, typer.Option("--from", help="bm25, a run file, or folder or hub name of a bi-encoder.")
    ] = BM25,
    negatives: Annotated[int, typer.Option("--negatives", "-n", min=1, help="For each query, at most.")] = 5,
    first: Annotated[int, typer.Option(min=1, help="Rank of the first candidate, relevant ones not counted.")] = 1,
    last: Annotated[int, typer.Option(min=1, help="Rank of the last candidate.")] = 100,
    margin: Annotated[
        float | None, typer.Option(min=0, help="Negatives score lower than the positive by this share of its score.")
    ] = None,
    absolute_margin: Annotated[float | None, typer.Option(min=0, help="The same as a difference of scores.")] = None,
    max_score: Annotated[float | None, typer.Option(help="Drop candidates with a higher score.")] = None,
    against: Annotated[Against, typer.Option(help="Which of several positives margins start from.")] = Against.lowest,
    rescore: Annotated[
        str | None, typer.Option(help="Cross-encoder that drops what it finds as relevant as the positive.")
    ] = None,
    rescore_margin: Annotated[float, typer.Option(min=0, help="By how much it has to score lower.")] = 0.0,
    sampling: Annotated[Sampling, typer.Option(help="The best candidates left, or any of them.")] = Sampling.top,
    positives: Annotated[int | None, typer.Option(min=1, help="For each query, at most; by default all.")] = None,
    graded: Annotated[bool, typer.Option("--graded", help="Labels are the grades, not 1 and 0.")] = False,
    query_prefix: Annotated[str, typer.Option(help="What the bi-encoder wants before queries, 'query: '.")] = "",
    document_prefix: Annotated[str, typer.Option(help="What it wants before documents, 'passage: '.")] = "",
    device: choices.Device = None,
    seed: Annotated[int, typer.Option(help="Of random sampling.")] = 0,
) -> None:
    """Find hard negatives: documents that a first pass ranks high and nobody judged relevant.

    Writes a group for each query (its relevant documents and its negatives, with labels) that training reads, and
    prints how many candidates were dropped and why. Documents judged and not relevant are taken first.

    [bold]Examples[/bold]

    secondpass mine --dataset beir/scifact --split train --output groups.jsonl

    secondpass mine -d beir/scifact --from sentence-transformers/all-MiniLM-L6-v2 --margin 0.05 -o groups.jsonl

    secondpass mine -d beir/scifact --from run.trec --first 10 --rescore secondpass/pocket -o groups.jsonl
    """
    from secondpass.training.data.groups import checked_target
    from secondpass.training.negatives.rule import MiningRule

    checked_target(output)
    rule = MiningRule(
        negatives=negatives, first=first, last=last, max_score=max_score, absolute_margin=absolute_margin,
        relative_margin=margin, rescore_margin=rescore_margin, against=against.value, sampling=sampling.value,
        positives=positives, graded=graded, seed=seed,
    )  # fmt: skip
    labelled = _read(dataset, corpus, queries, qrels, split)
    found = _candidates(source, labelled, last, (query_prefix, document_prefix), device)
    encoder = None if rescore is None else choices.load(rescore, None, device)
    _write(output, labelled, found, rule, encoder)


def _write(output: Path, labelled: Labelled, found: Candidates, rule: MiningRule, encoder: CrossEncoder | None) -> None:
    from secondpass.training.negatives.mining import mine_negatives
    from secondpass.training.negatives.writing import write_mined

    shown = sys.stderr.isatty()
    mined = mine_negatives(
        labelled.queries, labelled.corpus, labelled.qrels, found, rule=rule, cross_encoder=encoder, progress=shown
    )
    console = PipeConsole(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for line in mined.report.lines():
        console.print(line)
    if not mined.groups:
        raise InvalidInput(f"no query has a negative that the rule allows: {output} is not written")
    write_mined(output, mined)


def _read(dataset: Path | None, corpus: Path | None, queries: Path | None, qrels: Path | None, split: str) -> Labelled:
    """Texts and judgements; of the queries only those that are judged."""
    if dataset is not None:
        if corpus or queries or qrels:
            raise InvalidInput("give either --dataset, or --corpus, --queries and --qrels")
        corpus, queries, qrels = dataset, named_file(dataset, "queries.jsonl"), qrels_file(dataset, split)
    if corpus is None or queries is None or qrels is None:
        raise InvalidInput("give --dataset, or --corpus, --queries and --qrels")
    judged = read_qrels(qrels)
    texts = {query: text for query, text in read_queries(queries).items() if query in judged}
    return Labelled({document.id: document.content for document in read_corpus(corpus)}, texts, judged)


def _kind(source: str) -> str:
    if source == BM25:
        return BM25
    return "run" if Path(source).is_file() else "encoder"


def _candidates(
    source: str, labelled: Labelled, last: int, prefixes: tuple[str, str], device: str | None
) -> Candidates:
    from secondpass.training.negatives.candidates import bm25_candidates, encoder_candidates, run_candidates

    kind = _kind(source)
    if any(prefixes) and kind != "encoder":
        raise InvalidInput("--query-prefix and --document-prefix are for a bi-encoder")
    if kind == "run":
        return run_candidates(read_run(Path(source)))
    # Relevant documents have no rank, so the list has to be longer by as many as there are.
    most = max(sum(grade > 0 for grade in grades.values()) for grades in labelled.qrels.values())
    given: dict[str, Any] = {"depth": last + most, "qrels": labelled.qrels}
    if kind == BM25:
        return bm25_candidates(labelled.queries, labelled.corpus, **given)
    from secondpass.training.negatives.biencoder import BiEncoder

    encode = BiEncoder(source, device=device)
    return encoder_candidates(
        labelled.queries, labelled.corpus, encode, query_prefix=prefixes[0], document_prefix=prefixes[1], **given
    )
