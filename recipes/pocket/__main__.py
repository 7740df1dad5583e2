"""The pocket model, step by step: `python -m recipes.pocket train|finish|evaluate`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipes.pocket.answers import MIXES, Draft, Mix, averaged, round_drafts, with_targets
from recipes.pocket.build import Encoder, examples, new_student, read_all, student_tokenizer, training_groups
from recipes.pocket.corpora import TEST_SETS
from recipes.pocket.distill import Settings, train
from recipes.pocket.evaluate import Scorer, evaluate, runs_folder
from recipes.pocket.finish import calibrate, write_folder, write_stage
from recipes.pocket.lower_half import (
    JUDGED_SHARE,
    MASKED,
    MASKED_SHARE,
    VOTED,
    VOTED_SHARE,
    Change,
    judged_groups,
    trained_on_judgements,
    with_lower_changes,
)
from recipes.pocket.queries import all_queries
from secondpass import CrossEncoder
from secondpass.forwards import ModelForward
from secondpass.padded import padding_of
from secondpass.persistence.sources import folder_of
from secondpass.precision import Precision
from secondpass.training.cpu.forward import has_amx_bf16

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
POCKET = Path(__file__).parents[2] / "src" / "secondpass" / "pocket"
WORK = Path("build/pocket")
# Never reached: the time ends the schedule.
LAST_STEP = 100_000

DataOption = Annotated[Path, typer.Option(help="Folder of BEIR collections.")]
WorkOption = Annotated[Path, typer.Option(help="Vectors, checkpoints and runs; kept between calls.")]


def _dtype() -> torch.dtype:
    """bfloat16 where the processor has a matrix unit for it, else float32."""
    return torch.bfloat16 if has_amx_bf16() else torch.float32


@app.command(name="train")
def train_command(
    data: DataOption,
    work: WorkOption = WORK,
    minutes: Annotated[float, typer.Option(help="Time for the schedule; a stopped run continues.")] = 55,
) -> None:
    """Build the examples, distil, calibrate and write the package's model folder."""
    corpora, claims = read_all(data)
    tokenizer, tokens = student_tokenizer(corpora, work)
    made = examples(training_groups(corpora, claims, data, work), Encoder(corpora, tokenizer))
    model = new_student(tokens)
    train(model, made, Settings(steps=LAST_STEP, dtype=_dtype(), seconds=60 * minutes), work / "checkpoint")
    write_stage(model, work / "tokenizer.json", work / "first")
    answers_command(data, work)


def train_round(model: Any, drafts: Sequence[Draft], mix: Mix, folder: Path) -> None:
    """Train `model` in place on a round's drafts, its own opinion of them before the round being the target."""
    made = with_targets(model, drafts, _dtype())
    settings = Settings(steps=LAST_STEP, learning_rate=mix.learning_rate, dtype=_dtype(), seconds=60 * mix.minutes)
    train(model, made, settings, folder)


def weights_of(model: Any) -> dict[str, Tensor]:
    """A copy that later training leaves alone."""
    return {name: weight.clone() for name, weight in model.state_dict().items()}


@app.command(name="answers")
def answers_command(
    data: DataOption,
    work: WorkOption = WORK,
    start: Annotated[str | None, typer.Option(help="Model to start from, instead of the first stage's.")] = None,
    first_round: Annotated[int, typer.Option(help="Leave out the rounds before this one.")] = 1,
) -> None:
    """Teach the first stage's student which sentence answers, calibrate and write the package's model folder."""
    corpora, claims = read_all(data)
    tokenizer, _ = student_tokenizer(corpora, work)
    model = CrossEncoder(start or str(work / "first"), device="cpu").model
    queries, encoder = all_queries(data, corpora, claims), Encoder(corpora, tokenizer)
    states = []
    for number, mix in enumerate(MIXES[first_round - 1 :], start=first_round):
        train_round(model, round_drafts(data, corpora, queries, encoder, mix), mix, work / f"round-{number}")
        states.append(weights_of(model))
    model.load_state_dict(averaged(states))
    write_stage(model, work / "tokenizer.json", work / "second")
    lower_command(data, work)


@app.command(name="lower")
def lower_command(data: DataOption, work: WorkOption = WORK) -> None:
    """Add what three more trainings change in the lower half, calibrate and write the package's model folder."""
    corpora, claims = read_all(data)
    tokenizer, _ = student_tokenizer(corpora, work)
    queries, encoder = all_queries(data, corpora, claims), Encoder(corpora, tokenizer)
    model = AutoModelForSequenceClassification.from_pretrained(work / "second").eval()
    start = weights_of(model)
    judged = judged_groups(data, next(corpus for corpus in corpora if corpus.name == "trecqa"))
    changes = [Change(trained_on_judgements(work / "second", judged), JUDGED_SHARE)]
    for name, mix, share in (("masked", MASKED, MASKED_SHARE), ("voted", VOTED, VOTED_SHARE)):
        model.load_state_dict(start)
        train_round(model, round_drafts(data, corpora, queries, encoder, mix), mix, work / name)
        changes.append(Change(weights_of(model), share))
    model.load_state_dict(with_lower_changes(start, *changes))
    write_stage(model, work / "tokenizer.json", work / "student")
    finish_command(data, work)


@app.command(name="finish")
def finish_command(data: DataOption, work: WorkOption = WORK) -> None:
    """Calibrate the trained student and write the package's model folder."""
    model = AutoModelForSequenceClassification.from_pretrained(work / "student").eval()
    write_folder(model, work / "tokenizer.json", POCKET)
    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    precision: Precision = "bf16" if has_amx_bf16() else "fp32"
    forward = ModelForward(model, tokenizer.model_input_names, padding_of(tokenizer), precision)
    calibrate(model, tokenizer, forward, data)
    write_folder(model, work / "tokenizer.json", POCKET)


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
    fast = fast and has_amx_bf16()
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
