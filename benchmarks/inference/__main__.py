"""Speed of ranking: secondpass beside sentence-transformers, its backends, FlashRank's and fastembed's way, Haystack.

    python -m benchmarks.inference compare --backends-python backends/bin/python --output-dir figures
    python -m benchmarks.inference scaling --output-dir figures
    python -m benchmarks.inference --model ettin --model modernbert --model qwen3
    python -m benchmarks.inference profile
    python -m benchmarks.inference routines

Contenders rank the same queries in turns, in one process (the backends, which need older libraries, in one of their
own: see `backends.py`); printed are medians, and medians of the ratios within a turn. Needs the extra test.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

CORES = os.cpu_count() or 1

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Data = Annotated[Path, typer.Option(help="Folder of judged collections; without cranfield the demo's texts serve.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
Threads = Annotated[int, typer.Option(min=1, help="Of each contender.")]
Output = Annotated[Path | None, typer.Option(help="Gets the figures as JSON, Markdown and SVG.")]


def say(line: str) -> None:
    """Tell on stderr how far it is."""
    typer.echo(line, err=True)


def quiet() -> None:
    """No network, no telemetry, no progress bars."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def write(found: dict[str, Any], text: str, name: str, folder: Path | None) -> None:
    """Print Markdown; write it and the figures."""
    sys.stdout.write(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


@app.command()
def compare(
    model: Annotated[
        list[str] | None,
        typer.Option(help="pocket, minilm, l2, l6, l12, base, deberta, ettin, modernbert, qwen3; may be repeated."),
    ] = None,
    backends_python: Annotated[str | None, typer.Option(help="Interpreter with ONNX and OpenVINO.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Queries with passages.")] = 8,
    documents: Annotated[int, typer.Option(min=1, help="Passages of a query.")] = 100,
    long_rounds: Annotated[int, typer.Option(min=0, help="Queries with long documents.")] = 3,
    long_documents: Annotated[int, typer.Option(min=1, help="Long documents of a query.")] = 25,
    mixed_rounds: Annotated[int, typer.Option(min=0, help="Queries with documents of all lengths.")] = 0,
    without: Annotated[
        list[str] | None,
        typer.Option(help="A precision that nobody shall compute in: bf16, where a processor has no product of it."),
    ] = None,
    fallback: Annotated[bool, typer.Option(help="secondpass without its compiled kernel too.")] = True,
    haystack: Annotated[bool, typer.Option(help="Haystack's rankers too.")] = True,
    fresh: Annotated[int, typer.Option(min=0, help="Processes for cold start and memory.")] = 1,
    judged: Annotated[int, typer.Option(min=0, help="Judged queries of each set, for nDCG@10.")] = 12,
    callers: Annotated[int, typer.Option(min=0, help="Threads that share one model.")] = 8,
    device: Device = "cpu",
    threads: Threads = CORES,
    data: Data = Path("../shared/data"),
    output_dir: Output = None,
) -> None:
    """Compare the contenders."""
    quiet()
    from benchmarks.inference import machine, report
    from benchmarks.inference.compare import Settings, measure, verdict
    from benchmarks.inference.loads import source

    before = machine.cores_given(threads)
    say(f"{threads} threads get the work of {before['cores']} cores done")
    counts = {"passage": rounds, "long": long_rounds, "mixed": mixed_rounds}
    sizes = {"passage": documents, "long": long_documents, "mixed": documents}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        settings = Settings(
            rounds={kind: count for kind, count in counts.items() if count},
            documents=sizes,
            device=device,
            threads=threads,
            backends_python=backends_python,
            fallback=fallback,
            haystack=haystack,
            fresh=fresh,
            judged=judged,
            callers=callers,
            data=data,
            log=(output_dir or work) / "inference.log",
            without=tuple(without or ()),
        )
        settings.log.parent.mkdir(parents=True, exist_ok=True)
        models = {name: measure(name, work, source(data), settings, say) for name in model or ["pocket"]}
    found = {
        **machine.seen(before, threads, device),
        "models": models,
        "verdict": [line for name, figures in models.items() for line in verdict(name, figures, device)],
    }
    write(found, report.markdown(found), "inference", output_dir)
    if output_dir is not None:
        report.plot(found, output_dir / "inference.svg")


@app.command()
def scaling(
    model: Annotated[str, typer.Option(help="Of all sweeps but that over models.")] = "pocket",
    rounds: Annotated[int, typer.Option(min=1, help="Queries of each point.")] = 3,
    smaller: Annotated[int, typer.Option(min=1, help="Divide all numbers of documents, to try it out.")] = 1,
    device: Device = "cpu",
    threads: Threads = CORES,
    data: Data = Path("../shared/data"),
    output_dir: Output = None,
) -> None:
    """Sweep lengths, documents, threads, batch budgets and model sizes."""
    quiet()
    from benchmarks.inference import machine, sweeps
    from benchmarks.inference.loads import source

    before = machine.cores_given(threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        asked = sweeps.Settings(model, rounds, smaller, device, threads, work)
        points = sweeps.sweep(asked, source(data), say)
    found = {
        **machine.seen(before, threads, device),
        "points": points,
    }
    write(found, sweeps.markdown(found), "scaling", output_dir)
    if output_dir is not None:
        sweeps.plot(points, output_dir / "scaling.svg")


@app.command()
def profile(
    model: Annotated[list[str] | None, typer.Option(help="ettin, modernbert, qwen3; may be repeated; all.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="fp32, bf16, int16, int8; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Queries.")] = 5,
    documents: Annotated[int, typer.Option(min=1, help="Passages of a query.")] = 100,
    threads: Threads = CORES,
    data: Data = Path("../shared/data"),
    output_dir: Output = None,
) -> None:
    """Where the time goes on the CPU, and its share of the machine's limit of float32 multiply-adds."""
    quiet()
    from benchmarks.inference import machine, profiles
    from benchmarks.inference.loads import source
    from benchmarks.inference.models import RERANKERS

    before = machine.cores_given(threads)
    with tempfile.TemporaryDirectory() as folder:
        asked = profiles.Settings(
            tuple(precision or ("fp32", "bf16", "int16", "int8")), rounds, documents, threads, Path(folder)
        )
        text = source(data)
        rows = [row for name in model or RERANKERS for row in profiles.profiled(name, text, asked, say)]
    found = {
        "limit": machine.multiply_add_limit(threads),
        **machine.seen(before, threads, "cpu"),
        "rows": rows,
    }
    write(found, profiles.markdown(found), "profile", output_dir)


@app.command()
def routines(
    rounds: Annotated[int, typer.Option(min=1, help="Of each routine.")] = 12,
    documents: Annotated[int, typer.Option(min=1, help="Passages of the query.")] = 24,
    data: Data = Path("../shared/data"),
    output_dir: Output = None,
) -> None:
    """Each routine of the kernel beside the limit of its units, on one thread with the embedded model."""
    quiet()
    from benchmarks.inference import machine, routines
    from benchmarks.inference.loads import source

    with tempfile.TemporaryDirectory() as folder:
        rows = list(routines.measured(source(data), routines.Settings(rounds, documents, Path(folder)), say))
    found = {"machine": machine.facts(1, "cpu"), "rows": rows}
    write(found, routines.markdown(found), "routines", output_dir)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] != "--help" and sys.argv[1].startswith("-"):
        sys.argv.insert(1, "compare")  # without a command it compares
    app()
