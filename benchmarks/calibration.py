"""What probabilities, promised thresholds and the rule for "nothing relevant" are worth on queries they have not seen.

    python -m benchmarks.tuning score --data ../shared/data --work runs
    python -m benchmarks.calibration --work runs

Over 100 random halves of each collection's queries everything is fitted on one half and counted on the other, unjudged
documents as not relevant. Columns:

- shapes: in how many halves each shape was the likeliest.
- ECE: expected calibration error over ten bins of equal count of all candidates, mean and 95th percentile; and the same
  of the 2 % with the highest logits, which is where thresholds lie.
- P 0.8, P 0.9 (`--precisions`): the share of halves in which the documents above `threshold_for` are relevant to that
  share on the other half, or nothing was promised; in brackets the share without a promise. A promise that keeps none
  there is broken.
- by rows: the same, if documents counted as independent trials.
- cover: the share of the ten bins whose share of relevant documents, within its own 95 % interval, lies in their mean
  Venn-Abers interval. That interval (Korn and Graubard 1998) knows that documents of one query are alike; "top" is the
  bin of the highest logits alone, "plain" all ten by plain binomial intervals.
- answered, refused: other half's queries with and without their relevant documents that the rule calls so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from scipy.stats import beta

from secondpass.calibration import Calibration
from secondpass.evaluation.scores import calibration_error
from secondpass.tuning.probabilities import (
    LabelledScores,
    best_scores,
    fit_rows,
    halved,
    labelled_run,
)

BINS = 10


def main(
    work: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder with what `tuning score` wrote.")],
    sets: Annotated[str, typer.Option(help="Names of files, by commas; all by default.")] = "",
    splits: Annotated[int, typer.Option(min=2)] = 100,
    precisions: Annotated[str, typer.Option(help="Promised, by commas.")] = "0.8,0.9",
    seed: int = 0,
) -> None:
    """Print a Markdown table, a line for each collection."""
    promised = [float(one) for one in precisions.split(",")]
    columns = ("set", "queries", "rows", "relevant", "judged", "shapes", "ECE", "95 %", "ECE of top 2 %",
               *(f"P {one}{how}" for one in promised for how in ("", " by rows")),
               "cover", "top", "plain", "answered", "refused")  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    files = [work / f"{name}.json" for name in sets.split(",") if name] or sorted(work.glob("*.json"))
    for file in files:
        print(f"| {' | '.join(line(file, splits, seed, promised))} |", flush=True)


def line(file: Path, splits: int, seed: int, promised: list[float]) -> Iterator[str]:
    """One collection's cells."""
    queries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["queries"]
    grades = {name: one["grades"] for name, one in queries.items()}
    rows = labelled_run(grades, {name: one["logits"] for name, one in queries.items()})
    found = [counted(fit_rows(own), other, promised) for own, other in halved(rows, splits, seed)]
    yield from (file.stem, f"{rows.asked:,}", f"{len(rows.scores):,}", f"{rows.relevant.mean():.2%}")
    yield f"{rows.judged.mean():.0%}"
    shapes = [one["shape"] for one in found]
    yield ", ".join(f"{name} {shapes.count(name)}" for name in dict.fromkeys(sorted(shapes)))
    errors = [one["error"] for one in found]
    yield from (f"{np.mean(errors):.4f}", f"{np.quantile(errors, 0.95):.4f}", f"{mean(found, 'top error'):.3f}")
    for wanted in promised:
        for how in ("", " by rows"):
            kept = [one[f"{wanted}{how}"] for one in found]
            yield f"{1 - kept.count(False) / len(kept):.2f} ({kept.count(None) / len(kept):.2f})"
    yield from (f"{mean(found, name):.2f}" for name in ("cover", "top", "plain", "answered", "refused"))


def mean(found: list[dict[str, Any]], name: str) -> float:
    """Over all halves that have such a number."""
    return float(np.nanmean([one[name] for one in found]))


def counted(made: Calibration, other: LabelledScores, promised: list[float]) -> dict[str, Any]:
    """What a calibration is worth on rows that it was not fitted on."""
    values = made.probabilities(other.scores)
    top = slice(0, max(1, len(values) // 50))
    told: dict[str, Any] = {"shape": made.method, "error": calibration_error(values, other.relevant, BINS)}
    told["top error"] = calibration_error(values[top], other.relevant[top], BINS)
    by_rows = replace(made, sequence=tuple(replace(step, trials=float(step.kept)) for step in made.sequence))
    for wanted in promised:
        for how, one in (("", made), (" by rows", by_rows)):
            threshold = one.threshold_for(wanted).threshold
            kept = other.relevant[values >= threshold] if threshold is not None else None
            told[f"{wanted}{how}"] = None if kept is None else bool(len(kept) and kept.mean() >= wanted)
    told |= covered(made, other)
    whole, without = best_scores(other)
    rule = made.answers
    told["answered"] = math.nan if rule is None else float((whole >= rule.logit).mean())
    told["refused"] = math.nan if rule is None else float((without < rule.logit).mean())
    return told


def covered(made: Calibration, other: LabelledScores) -> dict[str, float]:
    """Of bins of equal count, those in whose mean interval the share of relevant documents may lie."""
    alike: list[bool] = []
    plain: list[bool] = []
    for part in np.array_split(np.arange(len(other.scores)), BINS):
        bin_ = other.only(np.isin(np.arange(len(other.scores)), part))
        low, high = (float(ends.mean()) for ends in made.intervals(bin_.scores))
        for found, trials in ((alike, trials_of(bin_)), (plain, float(len(part)))):
            least, most = interval(float(bin_.relevant.mean()), trials)
            found.append(least <= high and low <= most)
    return {"cover": float(np.mean(alike)), "top": float(alike[0]), "plain": float(np.mean(plain))}


def trials_of(rows: LabelledScores) -> float:
    """How many independent documents these are worth, by how far their queries' shares are apart."""
    share, count = float(rows.relevant.mean()), len(rows.relevant)
    names, places = np.unique(rows.queries, return_inverse=True)
    gaps = np.bincount(places, weights=rows.relevant - share)
    if not 0 < share < 1 or len(names) < 2:
        return float(count)
    variance = len(names) / (len(names) - 1) * float((gaps**2).sum()) / count**2
    return count / max(1.0, variance / (share * (1 - share) / count))


def interval(share: float, trials: float) -> tuple[float, float]:
    """Clopper and Pearson's of 95 %."""
    kept = share * trials
    low = float(beta.ppf(0.025, kept, trials - kept + 1)) if kept > 0 else 0.0
    return low, float(beta.ppf(0.975, kept + 1, trials - kept)) if kept < trials else 1.0


if __name__ == "__main__":
    typer.run(main)
