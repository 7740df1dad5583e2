"""The embedded models, step by step: `python -m recipes.pocket train|compare|evaluate`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
from recipes.pocket.groups import TEACHER_WEIGHTS
from recipes.pocket.stages import LOG, PACKAGE, Recipe
from recipes.pocket.teachers import TEACHERS, Teacher, TeacherSpec
from secondpass.models.folders import PACKAGED
from secondpass.training.distillation.teachers import standardised

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
WORK = Path("build/pocket")

DataOption = Annotated[Path, typer.Option(help="Folder of BEIR collections.")]
WorkOption = Annotated[Path, typer.Option(help="Vectors, groups, checkpoints and scores; kept between calls.")]
ModelsOption = Annotated[str, typer.Option(help="Names or folders, comma-separated.")]
TeachersOption = Annotated[str, typer.Option(help="Names, comma-separated; none for models alone.")]
WindowOption = Annotated[int | None, typer.Option(help="Tokens read of a pair; all that the model can by default.")]
MODELS = ",".join(PACKAGED)
TAUGHT_BY = ",".join(TEACHER_WEIGHTS)


@app.command(name="train")
def train_command(
    data: DataOption,
    work: WorkOption = WORK,
    output: Annotated[Path, typer.Option(help="Gets the folders of both models.")] = PACKAGE,
    log: Annotated[Path, typer.Option(help="Gets what each stage was given and made.")] = LOG,
    seed: Annotated[int, typer.Option(help="Of queries, groups and trainings.")] = Recipe.seed,
    share: Annotated[float, typer.Option(help="Of queries and steps; less than 1 for a trial.")] = 1.0,
    companion: Annotated[bool, typer.Option("--companion", help="Only the smaller, from the larger there is.")] = False,
) -> None:
    """Make both models, calibrated, with their log; the same call goes on where a stopped one was."""
    if not 0 < share <= 1:
        raise typer.BadParameter(f"share={share} is not above 0, at most 1")
    if share < 1 and (output.resolve() == PACKAGE.resolve() or log.resolve() == LOG.resolve()):
        raise typer.BadParameter(f"share={share} is a trial, not to be published: give --output and --log")
    recipe = Recipe(data, work, seed, share, output, log)
    if companion:
        stages.make_companion(recipe)
    else:
        stages.make_all(recipe)


@app.command(name="compare")
def compare_command(
    data: DataOption,
    work: WorkOption = WORK,
    models: ModelsOption = MODELS,
    teachers: TeachersOption = TAUGHT_BY,
    limit: Annotated[int, typer.Option(help="At most so many queries a collection.")] = judged.DEVELOPMENT_QUERIES,
    window: WindowOption = None,
) -> None:
    """The development collections: BM25, each teacher, their sum, and models, with paired intervals."""
    _show(_rankers(judged.development(data, limit), models, teachers, work, window), models)


@app.command(name="evaluate")
def evaluate_command(
    data: DataOption,
    work: WorkOption = WORK,
    models: ModelsOption = MODELS,
    teachers: TeachersOption = TAUGHT_BY,
    sets: Annotated[str, typer.Option(help="Names, comma-separated.")] = ",".join(TEST_SETS),
    limit: Annotated[
        int | None, typer.Option(help="At most so many queries a set, evenly spaced; by default as in the model card.")
    ] = None,
    window: WindowOption = None,
) -> None:
    """The same of the test sets, which are measured once, at the end; goes on where a stopped call was."""
    _show(_rankers(judged.tests(data, tuple(sets.split(",")), limit), models, teachers, work, window), models)


def _rankers(
    exams: Sequence[Exam], models: str, teachers: str, work: Path, window: int | None = None
) -> dict[str, Values]:
    """nDCG@10 of everything that orders the same candidates, by its name; BM25 first."""
    made: dict[str, Values] = {"BM25": judged.collected(exams, lambda own: own.bm25)}
    cosines = {name: _cosines(Teacher(_spec(name), work), exams) for name in teachers.split(",") if name}
    for names in dict.fromkeys([*((name,) for name in cosines), tuple(cosines)] if cosines else []):
        made[" + ".join(names)] = {
            own.name: own.values(_sum([cosines[name][own.name] for name in names])) for own in exams
        }
    return made | {model: judged.collected(exams, judged.scorer(model, work, window)) for model in models.split(",")}


def _spec(name: str) -> TeacherSpec:
    for spec in TEACHERS:
        if spec.name == name:
            return spec
    raise typer.BadParameter(f"{name} is not one of {', '.join(spec.name for spec in TEACHERS)}")


def _show(rankers: Mapping[str, Values], models: str) -> None:
    """Means beside the first model's, then every model's change of BM25's order, collection by collection."""
    named, bm25 = models.split(","), rankers["BM25"]
    first = rankers[named[0]]
    table = Table("ranker", "mean", f"{named[0]} is better by", *bm25)
    for name, values in rankers.items():
        gap = "" if values is first else str(judged.difference(first, values))
        table.add_row(name, f"{judged.mean(values):.3f}", gap, *(f"{v:.3f}" for v in judged.means(values).values()))
    console = Console(width=200)
    console.print(table)
    changes = Table("set", "queries", *(f"{model}, change" for model in named))
    for name, found in bm25.items():
        gaps = [str(judged.difference(judged.only(rankers[model], name), bm25)) for model in named]
        changes.add_row(name, str(len(found)), *gaps)
    changes.add_row("mean", "", *(str(judged.difference(rankers[model], bm25)) for model in named))
    console.print(changes)


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
