"""`secondpass rescore`: candidates of any number to a run, by this process or by a pool of Ray workers."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from tqdm import tqdm

from secondpass.candidates import CandidateFiles
from secondpass.cli import arguments
from secondpass.cli.output import note, print_json
from secondpass.cli.rank import RelevanceRule, TopK, relevance_of
from secondpass.errors import InvalidInput
from secondpass.rescoring import PAIRS, Engine, PartDone, RunParts, begun, local
from secondpass.tracing import reranking


def rescore(
    candidates: Annotated[
        Path, typer.Argument(help="Parquet, JSON Lines (a file or a folder of them), or a run.", show_default=False)
    ],
    output: Annotated[Path, typer.Argument(help="Folder of the run; made if needed.", show_default=False)],
    *,
    on: Annotated[Literal["local", "ray"], typer.Option(help="This process, or a pool of Ray workers.")] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --on ray: how many; by default one for each GPU, else each core.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="With --on ray: cores, and threads, of each worker.")] = 1,
    dataset: Annotated[
        Path | None, typer.Option("--dataset", "-d", help="BEIR folder with the texts, where rows have ids only.")
    ] = None,
    part_pairs: Annotated[int, typer.Option(min=1, help="Pairs that are scored and written together.")] = PAIRS,
    top_k: TopK = None,
    relevance: RelevanceRule = None,
    model: arguments.Models = None,
    keep: arguments.Keep = None,
    max_length: arguments.MaxLength = None,
    batch_size: arguments.BatchSize = 32,
    device: arguments.Device = None,
    precision: arguments.Precision = None,
    instruction: arguments.Instruction = None,
    template: arguments.Template = None,
    true_token: arguments.TrueToken = None,
    false_token: arguments.FalseToken = None,
    long: arguments.Long = None,
    window_tokens: arguments.WindowTokens = None,
    window_overlap: arguments.WindowOverlap = None,
    max_windows: arguments.MaxWindows = None,
    select: arguments.SelectWindows = None,
    score_cache: arguments.ScoreCacheFile = None,
    calibration: arguments.CalibrationFile = None,
    as_json: arguments.JsonObject = False,
) -> None:
    """Score the candidates of many queries and write a run: Parquet, the best first.

    Rows have query_id, document_id, query and document; those of one query stand side by side. A run (TREC, MS MARCO,
    JSON Lines) or rows without texts take them from --dataset. What is done stays: after a kill the same command goes
    on. With RAY_ADDRESS the pool is on that cluster, whose nodes all see these files; else Ray is started here. Needs
    the extra ray.

    [bold]Examples[/bold]

    secondpass rescore pairs.parquet run/

    secondpass rescore bm25.trec run/ --dataset beir/scifact --on ray

    RAY_ADDRESS=10.0.0.1:6379 secondpass rescore /shared/pairs /shared/run --on ray --device cuda
    """
    if on == "local" and (workers is not None or threads != 1):
        raise InvalidInput("--workers and --threads go with --on ray")
    arguments.check_models(model, keep, max_length)
    how = arguments.truncation_of(long, window_tokens, window_overlap, max_windows, select)
    options: dict[str, Any] = dict(
        model=model or [arguments.POCKET], keep=keep, max_length=max_length, batch_size=batch_size, device=device,
        precision=precision, instruction=instruction, template=template, true_token=true_token, truncation=how,
        false_token=false_token, relevance=relevance_of(relevance),
        score_cache=score_cache, calibration=calibration,
    )  # fmt: skip
    with (
        begun(output, CandidateFiles.of(candidates, dataset), options, top_k, part_pairs) as work,
        ExitStack() as stack,
    ):
        engine: Engine = local
        if on == "ray" and work.todo:
            from secondpass.ray import Pool, started

            engine = Pool(stack.enter_context(started()), workers, threads, device)
        counts = _run(engine, work)
    if as_json:
        print_json({"run": str(output), **counts})


def _run(engine: Engine, work: RunParts) -> dict[str, float]:
    """Let an engine write what is to be done, with a bar that has the time left, say what was done, and return it."""
    before = sum(part.pairs for part in work.done)
    total = before + sum(part.pairs for part in work.todo)
    began = time.perf_counter()
    every = 0.5 if sys.stderr.isatty() else 10.0
    made: list[PartDone] = []
    show = tqdm(total=total, initial=before, unit="pairs", mininterval=every, smoothing=0.1)
    with reranking("rescore"), show as bar:
        for done in engine(work) if work.todo else ():
            made.append(done)
            bar.update(done.pairs)
    seconds = time.perf_counter() - began
    pairs, queries, cut, cached = (
        sum(getattr(done, name) for done in made) for name in ("pairs", "queries", "cut", "cached")
    )
    told = [f"{pairs:,} pairs of {queries:,} queries in {len(made)} parts, {pairs / seconds:,.0f} a second"]
    told += [f"{cut:,} cut to fit the model"] if cut else []
    told += [f"{cached:,} known from the cache"] if cached else []
    told += [f"{before:,} in {len(work.done)} parts were done before"] if before else []
    note("; ".join(told))
    counts = {"pairs": pairs, "queries": queries, "parts": len(made), "seconds": seconds, "cut": cut, "cached": cached}
    return {**counts, "pairs_before": before, "parts_before": len(work.done)}
