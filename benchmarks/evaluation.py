"""Evaluating a large run: secondpass beside ir_measures alone, from files to means.

    python -m benchmarks.evaluation compare --lines 1000000

Each contender reads the same TREC files and computes nDCG@10, RR@10, AP and R@100, in a process of its own, in turns.
Printed are medians of seconds and of peak memory, and the ratio to ir_measures.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

MEASURES = ("nDCG@10", "RR@10", "AP", "R@100")
DEPTH = 100
JUDGED = 20

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def by_secondpass(run: Path, qrels: Path) -> dict[str, float]:
    """Read, check and order with secondpass; the values come from ir_measures."""
    from secondpass.evaluation.measures import evaluate
    from secondpass.evaluation.qrels import read_qrels
    from secondpass.evaluation.runs import read_run

    return dict(evaluate(read_qrels(qrels), read_run(run), MEASURES).means)


def by_ir_measures(run: Path, qrels: Path) -> dict[str, float]:
    """The library's own readers and evaluator."""
    import ir_measures

    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    found = ir_measures.calc_aggregate(
        measures,
        ir_measures.read_trec_qrels(str(qrels)),  # type: ignore[no-untyped-call]
        ir_measures.read_trec_run(str(run)),  # type: ignore[no-untyped-call]
    )
    return {str(measure): float(value) for measure, value in found.items()}


CONTENDERS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "ir_measures": by_ir_measures,
    "secondpass": by_secondpass,
}


def write_files(folder: Path, lines: int) -> tuple[Path, Path]:
    """Write a random run of `lines` lines, a hundred documents a query, and judgements of a fifth of them."""
    rng = random.Random(1)
    run, qrels = folder / "run.trec", folder / "qrels.trec"
    with run.open("w") as ranked, qrels.open("w") as judged:
        for number in range(lines // DEPTH):
            documents = [f"doc{rng.randrange(10**7)}-{place}" for place in range(DEPTH)]
            scores = sorted((rng.random() for _ in documents), reverse=True)
            for rank, (document, score) in enumerate(zip(documents, scores, strict=True), start=1):
                ranked.write(f"q{number} Q0 {document} {rank} {score!r} random\n")
            for document in rng.sample(documents, JUDGED):
                judged.write(f"q{number} 0 {document} {rng.randrange(3)}\n")
    return run, qrels


@app.command(hidden=True)
def one(name: str, run: Path, qrels: Path) -> None:
    """Measure one contender in this process and print JSON."""
    began = time.perf_counter()
    means = CONTENDERS[name](run, qrels)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"means": means, "seconds": seconds, "megabytes": peak}) + "\n")


@app.command()
def compare(
    lines: Annotated[int, typer.Option(help="Lines of the run.")] = 1_000_000,
    repeats: Annotated[int, typer.Option(help="Turns; medians are printed.")] = 3,
) -> None:
    """Compare the contenders."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        run, qrels = write_files(Path(folder), lines)
        for _ in range(repeats):
            for name, results in found.items():
                command = [sys.executable, "-m", "benchmarks.evaluation", "one", name, str(run), str(qrels)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                results.append(json.loads(done.stdout))
    seconds = {name: statistics.median(result["seconds"] for result in results) for name, results in found.items()}
    table = Table("", "seconds", "ratio", "peak MB", *MEASURES, title=f"{lines:,} lines")
    for name, results in found.items():
        peak = statistics.median(result["megabytes"] for result in results)
        means = results[0]["means"]
        ratio = seconds["ir_measures"] / seconds[name]
        table.add_row(
            name,
            f"{seconds[name]:.2f}",
            f"{ratio:.2f}x",
            f"{peak:.0f}",
            *(f"{means[measure]:.4f}" for measure in MEASURES),
        )
    Console().print(table)


if __name__ == "__main__":
    app()
