"""The pocket model, step by step: `python -m recipes.pocket train|finish|evaluate`."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from recipes.pocket import stages
from recipes.pocket.corpora import TEST_SETS
from recipes.pocket.evaluate import Scorer, evaluate, runs_folder
from recipes.pocket.stages import POCKET, Recipe
from recipes.pocket.teachers import TEACHERS, minilm_folder
from secondpass.models.folders import folder_of

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
WORK = Path("build/pocket")

DataOption = Annotated[Path, typer.Option(help="Folder of BEIR collections.")]
WorkOption = Annotated[Path, typer.Option(help="Vectors, groups, checkpoints and runs; kept between calls.")]
OutputOption = Annotated[Path, typer.Option(help="Folder of the finished model; by default the package's.")]


@app.command(name="train")
def train_command(
    data: DataOption,
    work: WorkOption = WORK,
    minutes: Annotated[float, typer.Option(help="Time of the first training; a stopped one goes on.")] = 55,
    share: Annotated[float, typer.Option(help="Of all queries, steps and minutes; less than 1 for a trial.")] = 1.0,
    base: Annotated[Path | None, typer.Option(help="Bi-encoder to start from, instead of all-MiniLM-L6-v2.")] = None,
    teachers: Annotated[str, typer.Option(help="Names, comma-separated.")] = ",".join(s.name for s in TEACHERS),
    output: OutputOption = POCKET,
) -> None:
    """Train all stages, calibrate and write the model folder; the same call goes on where a stopped one was."""
    names = tuple(teachers.split(","))
    unknown = set(names) - {spec.name for spec in TEACHERS}
    if unknown or not 0 < share <= 1:
        raise typer.BadParameter(
            f"no teacher {min(unknown)}" if unknown else f"share={share} is not above 0, at most 1"
        )
    work.mkdir(parents=True, exist_ok=True)
    stages.make_all(Recipe(data, work, base or minilm_folder(), names, share, minutes, output))


@app.command(name="finish")
def finish_command(data: DataOption, work: WorkOption = WORK, output: OutputOption = POCKET) -> None:
    """Calibrate the trained student and write the model folder."""
    stages.finish(Recipe(data, work, work / "start", output=output))


@app.command(name="evaluate")
def evaluate_command(
    data: DataOption,
    work: WorkOption = WORK,
    model: Annotated[str, typer.Option(help="What to measure.")] = "secondpass/pocket",
    sets: Annotated[str, typer.Option(help="Names, comma-separated.")] = ",".join(TEST_SETS),
    limit: Annotated[int | None, typer.Option(help="At most so many queries a set, evenly spaced.")] = None,
    fast: Annotated[bool, typer.Option(help="bfloat16 forward where the processor has a matrix unit.")] = True,
    workers: Annotated[int, typer.Option(help="Processes of one thread each.")] = os.cpu_count() or 1,
) -> None:
    """Measure nDCG@10 and MRR@10 of BM25's top 100 before and after the model; continues a stopped run."""
    table = Table("set", "queries", "BM25 nDCG@10", "nDCG@10", "change", "BM25 MRR@10", "MRR@10")
    gains = []
    fast = fast and stages.fast_precision() == "bf16"
    folder = runs_folder(work, folder_of(model), fast)
    with Scorer(model, fast, workers) as scorer:
        for row in evaluate(scorer, data, folder, tuple(sets.split(",")), limit):
            first, second = row.first, row.second
            gains.append(second["nDCG@10"] - first["nDCG@10"])
            cells = (first["nDCG@10"], second["nDCG@10"], gains[-1], first["RR@10"], second["RR@10"])
            table.add_row(row.name, str(row.queries), *(f"{value:.3f}" for value in cells))
            logging.info("%s", json.dumps({"set": row.name, "queries": row.queries, "bm25": first, **second}))
    table.add_row("mean", "", "", "", f"{sum(gains) / len(gains):+.3f}", "", "")
    Console().print(table)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("secondpass").setLevel(logging.WARNING)
    app()
