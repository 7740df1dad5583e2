"""`secondpass train`: one documented file to a trained model, with what training changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass.cli.failures import INTERRUPTED
from secondpass.cli.printing import print_table
from secondpass.errors import InvalidInput

if TYPE_CHECKING:
    from secondpass.evaluation.findings import Analysis
    from secondpass.training.configured import Finished, Prepared
    from secondpass.training.measuring.before_after import BeforeAfter

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
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train a reranker as a YAML file says.

    The folder gets the model, the configuration, checkpoints, a log and a model card. The same command again goes on
    where a broken run stopped. With data.dev or data.test, the model is measured before and after.

    [bold]Examples[/bold]

    secondpass train --example > train.yaml

    secondpass train train.yaml --dry-run

    secondpass train train.yaml --set settings.epochs=3 --set data.dev_share=0.1 -o my-reranker
    """
    from secondpass.training.configuration.reading import example_text, read_config

    if example:
        sys.stdout.write(example_text())
        return
    if config is None:
        raise InvalidInput("CONFIG is missing: a YAML file, such as `secondpass train --example` prints")
    overrides = list(set_values or ())
    if output is not None:
        overrides.append(f"output.folder={_quoted(str(output.absolute()))}")
    chosen = read_config(config, overrides)
    from secondpass.training.configured import prepare

    prepared = prepare(chosen)
    if _is_first():
        _introduce(prepared)
    if dry_run:
        _dry(prepared)
        return
    _run(prepared, resume, config, quiet)


def _run(prepared: Prepared, resume: bool, config: Path, quiet: bool) -> None:
    from secondpass.training.configured import run

    folder = Path(prepared.config.output.folder)
    try:
        done = run(prepared, resume=resume, watch=_tell, show_progress_bar=not quiet)
    except KeyboardInterrupt:
        if _is_first():
            print(f"secondpass: {_where_it_stands(folder, config)}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(INTERRUPTED) from None
    if _is_first():
        _conclude(done, folder)


def _quoted(text: str) -> str:
    """A text in YAML, whatever is in it."""
    import json

    return json.dumps(text)


def _is_first() -> bool:
    """Whether this is the process that talks, of those that torchrun started."""
    import os

    return int(os.environ.get("RANK", "0")) == 0


def _introduce(prepared: Prepared) -> None:
    typer.echo("training data:")
    for line in prepared.checked.counts.lines():
        typer.echo(f"  {line}")
    for held in prepared.measured:
        candidates = sum(len(group) for group in held.ranking.groups)
        first = "" if held.first is None else f", first pass {held.first.name}"
        typer.echo(f"{held.name}: {len(held.queries):,} queries, {candidates:,} candidates{first}")
    for note in prepared.notes:
        typer.echo(f"note: {note}")


def _dry(prepared: Prepared) -> None:
    plan = prepared.plan()
    tokens = int(plan.lengths.tokens.sum())
    settings = prepared.config.settings
    typer.echo(f"steps: {plan.total:,} in {plan.epochs:,} epochs ({tokens:,} tokens an epoch), loss {settings.loss}")
    if plan.cut:
        typer.echo(f"cut: {plan.cut:,} of {len(plan.lengths.tokens):,} pairs are too long and lose tokens")
    typer.echo(f"output: {prepared.config.output.folder} (nothing was written: --dry-run)")


def _tell(entry: Mapping[str, Any]) -> None:
    """Say the score of each evaluation as it comes."""
    if entry["kind"] == "evaluation":
        best = ", the best so far" if entry.get("best") else ""
        typer.echo(f"step {entry['step']:,}: dev nDCG@10 {entry['score']:.4f}{best}")


def _where_it_stands(folder: Path, config: Path) -> str:
    checkpoints = sorted(path.name for path in (folder / "checkpoints").glob("step-*") if path.is_dir())
    if not checkpoints:
        return f"interrupted before the first checkpoint; {folder} has none to go on from"
    again = f"secondpass train {config}" if config.absolute().parent == folder.absolute() else None
    command = again or f"secondpass train {folder / 'train.yaml'}"
    return (
        f"interrupted; the last checkpoint is {folder / 'checkpoints' / checkpoints[-1]}: `{command}` goes on from it"
    )


def _conclude(done: Finished, folder: Path) -> None:
    report = done.report
    went_on = "" if report.resumed_from is None else f", gone on from step {report.resumed_from:,}"
    early = ", stopped early: no better score" if report.stopped_early else ""
    typer.echo(f"{report.steps:,} steps, {report.pairs:,} pairs in {report.seconds:,.0f} s{went_on}{early}")
    rows = [row for held in done.measured for row in _rows(held)]
    if rows:
        typer.echo("")
        print_table(("data", "measure", "first pass", "before", "after", "change", "95 % interval of it", "p"), rows)
        typer.echo("")
    if report.best_step is not None:
        typer.echo(f"weights: those of step {report.best_step:,}, the best on dev")
    typer.echo(f"model: {folder}")
    if done.card is not None:
        typer.echo(f"card: {done.card}")


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
