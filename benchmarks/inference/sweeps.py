"""How speed goes with the length of texts, their number, threads, the batch budget and the size of the model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.inference import machine
from benchmarks.inference.compare import DEFAULT, OURS
from benchmarks.inference.loads import Asked, Loads, Source
from benchmarks.inference.models import SHAPES, write_model
from benchmarks.inference.report import number, table
from benchmarks.inference.turns import Lineup, scratch, take_turns
from benchmarks.inference.worker import Contender, Place, Unavailable

PASSAGE = 110  # tokens of a pair where the length is not what changes
LENGTHS = (32, 64, 128, 256, 512)
DOCUMENTS = (1, 10, 100, 1000)
BUDGETS = (512, 2048, 8192, 32768)
USUAL = 100  # documents
FEWER = 50  # where pairs or models are large
MANY = 1000  # from here one query is enough
ENTERED = (DEFAULT, *OURS[:-1])


@dataclass(frozen=True, slots=True)
class Settings:
    """What `scaling` was asked for."""

    model: str
    rounds: int
    smaller: int
    device: str
    threads: int
    work: Path

    def place(self, model: str, threads: int) -> Place:
        """Where a model, written when first asked for, is measured."""
        folder = self.work / model
        if not folder.exists():
            write_model(model, folder)
        return Place(str(folder), self.device, threads, scratch(self.work), "")

    def documents(self, count: int) -> int:
        """How many of `count` are ranked."""
        return max(1, count // self.smaller)


Point = dict[str, Any]
Say = Callable[[str], object]


def sweep(settings: Settings, text: Source, say: Say) -> list[Point]:
    """-> {"sweep", "value", "name", "pairs_per_second"} of every point."""
    points: list[Point] = []
    place = settings.place(settings.model, settings.threads)
    loads = Loads(text, Path(place.folder))

    def few(count: int) -> int:
        return 1 if count >= MANY else settings.rounds

    def run(lineup: Lineup, name: str, value: object, asked: list[Asked], entered: Sequence[Contender]) -> None:
        for found in take_turns(lineup, entered, asked):
            speed = len(asked[0].documents) / statistics.median(found.seconds)
            points.append({"sweep": name, "value": value, "name": found.contender.name, "pairs_per_second": speed})
        say(f"{name} {value}")

    with Lineup(place, None, settings.work / "log") as lineup:
        entered = available(lineup, ENTERED)
        run(lineup, "warming up", 0, loads.make("passage", 1, settings.documents(USUAL)), entered)
        points.clear()
        for tokens in LENGTHS:
            asked = loads.of_length(tokens, settings.rounds, settings.documents(FEWER))
            run(lineup, "tokens of a pair", tokens, asked, entered)
        for count in DOCUMENTS:
            asked = loads.of_length(PASSAGE, few(count), settings.documents(count))
            run(lineup, "documents", len(asked[0].documents), asked, entered)
        for budget in BUDGETS:
            # a budget belongs to a model, so the contenders have the same names at all budgets
            ours = [replace(one, way="secondpass in budget", name=one.name, batch=budget) for one in entered[1:]]
            with Lineup(place, None, settings.work / "log") as own:
                at_budget = available(own, ours)
                asked = loads.make("passage", settings.rounds, settings.documents(USUAL))
                run(own, "tokens of a batch", budget, asked, at_budget)
    for threads in thread_counts(settings.threads):
        with Lineup(settings.place(settings.model, threads), None, settings.work / "log") as lineup:
            asked = loads.make("passage", settings.rounds, settings.documents(USUAL))
            run(lineup, "threads", threads, asked, available(lineup, ENTERED))
    for model in SHAPES:
        shaped = settings.place(model, settings.threads)
        with Lineup(shaped, None, settings.work / "log") as lineup:
            asked = Loads(text, Path(shaped.folder)).make("passage", settings.rounds, settings.documents(FEWER))
            run(lineup, "model", model, asked, available(lineup, ENTERED))
    return points


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 and so on, and the most."""
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return counts if most == 1 else [*counts, most]


def available(lineup: Lineup, wanted: Sequence[Contender]) -> list[Contender]:
    """Load those that can be had here."""
    loaded = []
    for contender in wanted:
        try:
            lineup.load(contender)
        except Unavailable:
            continue
        loaded.append(contender)
    return loaded


def by_sweep(points: Sequence[Point]) -> dict[str, dict[str, dict[Any, float]]]:
    """-> sweep -> contender -> value -> pairs per second."""
    found: dict[str, dict[str, dict[Any, float]]] = {}
    for point in points:
        series = found.setdefault(point["sweep"], {}).setdefault(point["name"], {})
        series[point["value"]] = point["pairs_per_second"]
    return found


def markdown(found: dict[str, Any]) -> str:
    """A table of pairs per second for each sweep."""
    parts = list(_parts(found))
    return "\n\n".join(parts) + "\n"


def _parts(found: dict[str, Any]) -> Iterator[str]:
    if found["warning"]:
        yield found["warning"]
    yield f"{machine.in_words(found['machine'])}. Pairs per second."
    for name, series in by_sweep(found["points"]).items():
        values = list(next(iter(series.values())))
        lines = [
            [one, *(number(speeds[value], 0 if speeds[value] >= 100 else 1) for value in values)]
            for one, speeds in series.items()
        ]
        yield table([name, *map(str, values)], lines)


def plot(points: Sequence[Point], path: Path) -> None:
    """A panel for each sweep, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    sweeps = by_sweep(points)
    figure = Figure(figsize=(7, 3 * len(sweeps)), layout="constrained")
    axes = figure.subplots(len(sweeps), 1, squeeze=False)[:, 0]
    for axis, (name, series) in zip(axes, sweeps.items(), strict=True):
        for one, speeds in series.items():
            values = list(speeds)
            colour = f"C{[like.name for like in ENTERED].index(one)}"
            axis.plot(range(len(values)), list(speeds.values()), marker="o", color=colour, label=one)
            axis.set_xticks(range(len(values)), [str(value) for value in values])
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(name)
        axis.set_ylabel("pairs per second")
        axis.grid(visible=True, which="both", axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", frameon=False, ncols=2)
    figure.savefig(path)
