"""The embedded models, step by step: `python -m recipes.pocket train|compare|evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from recipes.pocket import evaluate as judged
from recipes.pocket import stages
from recipes.pocket.corpora import TEST_SETS
from recipes.pocket.evaluate import Exam, Scores, Values
from recipes.pocket.stages import LOG, PACKAGE, Recipe
from recipes.pocket.teachers import TEACHERS, Teacher
from secondpass.training.distillation.teachers import standardised

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
WORK = Path("build/pocket")

DataOption = Annotated[Path, typer.Option(help="Folder of BEIR collections.")]
WorkOption = Annotated[Path, typer.Option(help="Vectors, groups, checkpoints and scores; kept between calls.")]
ModelsOption = Annotated[str, typer.Option(help="Names or folders, comma-separated.")]


@app.command(name="train")
def train_command(
    data: DataOption,
    work: WorkOption = WORK,
    output: Annotated[Path, typer.Option(help="Gets the folders of both models.")] = PACKAGE,
    log: Annotated[Path, typer.Option(help="Gets what each stage was given and made.")] = LOG,
    seed: Annotated[int, typer.Option(help="Of queries, groups and trainings.")] = Recipe.seed,
    share: Annotated[float, typer.Option(help="Of queries and steps; less than 1 for a trial.")] = 1.0,
) -> None:
    """Make both models, calibrated, with their log; the same call goes on where a stopped one was."""
    if not 0 < share <= 1:
        raise typer.BadParameter(f"share={share} is not above 0, at most 1")
    stages.make_all(Recipe(data, work, seed, share, output, log))


@app.command(name="compare")
def compare_command(
    data: DataOption,
    work: WorkOption = WORK,
    models: ModelsOption = "secondpass/pocket",
    limit: Annotated[int, typer.Option(help="At most so many queries a collection.")] = judged.DEVELOPMENT_QUERIES,
) -> None:
    """The development collections: BM25, each teacher, sums of them, and models, with paired intervals."""
    exams = judged.development(data, limit)
    rankers: dict[str, Values] = {"BM25": judged.collected(exams, lambda own: own.bm25)}
    cosines = {spec.name: _cosines(Teacher(spec, work), exams) for spec in TEACHERS}
    for names in (*((name,) for name in cosines), ("minilm", "e5"), tuple(cosines)):
        rankers[" + ".join(names)] = {
            own.name: own.values(_sum([cosines[name][own.name] for name in names])) for own in exams
        }
    for model in models.split(","):
        rankers[model] = judged.collected(exams, judged.scorer(model, work))
    first = rankers[models.partition(",")[0]]
    table = Table("ranker", "mean", f"{models.partition(',')[0]} is better by", *(own.name for own in exams))
    for name, values in rankers.items():
        gap = "" if values is first else str(judged.difference(first, values))
        table.add_row(name, f"{judged.mean(values):.3f}", gap, *(f"{v:.3f}" for v in judged.means(values).values()))
    Console(width=200).print(table)


@app.command(name="evaluate")
def evaluate_command(
    data: DataOption,
    work: WorkOption = WORK,
    models: ModelsOption = "secondpass/pocket",
    sets: Annotated[str, typer.Option(help="Names, comma-separated.")] = ",".join(TEST_SETS),
    limit: Annotated[int | None, typer.Option(help="At most so many queries a set, evenly spaced.")] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens read of a pair; all that the model can by default.")
    ] = None,
) -> None:
    """Measure nDCG@10 of BM25's top 100 before and after models; goes on where a stopped call was."""
    exams = judged.tests(data, tuple(sets.split(",")), limit)
    first = judged.collected(exams, lambda own: own.bm25)
    table = Table("set", "queries", "BM25", *(f"{model}, change" for model in models.split(",")))
    found = {model: judged.collected(exams, judged.scorer(model, work, window)) for model in models.split(",")}
    for own in exams:
        cells = [
            f"{judged.means(v)[own.name]:.3f} {judged.difference(judged.only(v, own.name), first)}"
            for v in found.values()
        ]
        table.add_row(own.name, str(len(own.tasks)), f"{judged.means(first)[own.name]:.3f}", *cells)
    table.add_row("mean", "", f"{judged.mean(first):.3f}", *(str(judged.difference(v, first)) for v in found.values()))
    Console(width=160).print(table)


def _cosines(teacher: Teacher, exams: Sequence[Exam]) -> dict[str, Scores]:
    made: dict[str, Scores] = {}
    for own in exams:
        asked = teacher.queries([task.query for task in own.tasks]).astype(np.float32)
        texts = list(dict.fromkeys(text for task in own.tasks for text in own.documents(task)))
        vectors = teacher.documents(texts).astype(np.float32)
        places = {text: row for row, text in enumerate(texts)}
        made[own.name] = {
            task.query_id: (vectors[[places[text] for text in own.documents(task)]] @ query).tolist()
            for task, query in zip(own.tasks, asked, strict=True)
        }
    return made


def _sum(parts: Sequence[Scores]) -> Scores:
    """Each teacher standardised within the query."""
    return {
        query: np.sum([standardised(part[query]) for part in parts], axis=0).tolist() if own else []
        for query, own in parts[0].items()
    }


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("secondpass").setLevel(logging.WARNING)
    app()
