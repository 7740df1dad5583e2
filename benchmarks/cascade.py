"""A cascade beside its large model alone, on judged collections, and whether the promise of its stopping rule holds.

    python -m benchmarks.cascade distil --data ../shared/data --output small
    python -m benchmarks.cascade compare --data ../shared/data --small small
    python -m benchmarks.cascade score --data ../shared/data --small small --work scores --set squad
    python -m benchmarks.cascade promise --work scores

`distil` makes a small model of the embedded one: two of its layers, learning its logits on the collections of
`data/open`, which nothing is measured on. `compare` ranks BM25's 1,000 best of each test query with the large model
alone and with the cascade, a few queries at a time in turns. `score` keeps both models' logits of as many candidates in
files for each set, and `promise` calibrates the rule on 100 random halves of all their queries: how often does the
other half keep the promise? Needs the extra train.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

POCKET = "secondpass/pocket"
SETS = ("squad", "medquad", "stackfaq")
DEPTH = 1000
# What the small model learns on: so many queries of these sets.
TAUGHT = {"boolq": 4000, "stackexchange": 2500, "help-usgov": 600, "help-arduino": 400, "help-gnome": 300}
TURN = 4  # queries of one turn

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Data = Annotated[Path, typer.Option(exists=True, file_okay=False)]
Small = Annotated[str, typer.Option(help="Folder or name of the small model.")]
Length = Annotated[int, typer.Option(min=8, help="Tokens that the small model reads.")]
# The order of a thousand candidates survives int8, and "auto" would not choose it.
FAST: dict[str, Any] = {"device": "cpu", "precision": "int8"}


@dataclass(frozen=True, slots=True)
class Task:
    """A judged query with BM25's best, best first, and the grades of them."""

    query_id: str
    query: str
    ids: list[str]
    documents: list[str]


def tasks(data: Path, name: str, split: str, limit: int, depth: int = DEPTH) -> tuple[list[Task], Any]:
    """Queries with a relevant document, evenly over the set, in an order of chance; and the judgements of them."""
    from recipes.pocket.candidates import FirstPass
    from recipes.pocket.corpora import evenly_spaced, read_corpus, read_qrels, read_queries

    qrels = read_qrels(data, name, split)
    names = evenly_spaced(sorted(qrels.with_relevant), limit)
    random.Random(7).shuffle(names)
    corpus, texts = read_corpus(data, name), read_queries(data, name)
    found, _ = FirstPass(corpus.texts).search([texts[query] for query in names], depth)
    made = [
        Task(query, texts[query], [corpus.ids[row] for row in rows], [corpus.texts[row] for row in rows])
        for query, rows in zip(names, found, strict=True)
    ]
    return made, qrels.only(set(names))


def groups_of(data: Path, name: str, count: int, size: int) -> Iterator[Any]:
    """Queries with documents from BM25's first thousand, the first ones likelier, without labels."""
    from recipes.pocket.candidates import FirstPass
    from recipes.pocket.corpora import read_corpus, read_queries
    from secondpass.training import Group

    rng = random.Random(name)
    corpus = read_corpus(data / "open", name)
    texts = list(read_queries(data / "open", name).values())
    texts = rng.sample(texts, min(count, len(texts)))
    found, _ = FirstPass(corpus.texts).search(texts, DEPTH)
    for number, (text, rows) in enumerate(zip(texts, found, strict=True)):
        # places 1, 2, ... 1,000 evenly on a scale of factors
        places = {min(len(rows), int(len(rows) ** rng.random())) - 1 for _ in range(4 * size)}
        chosen = rng.sample(sorted(places), min(len(places), size))
        documents = tuple(corpus.texts[rows[place]] for place in chosen)
        yield Group(text, documents, (0.0,) * len(documents), f"{name}:{number}")


@app.command()
def distil(
    data: Data,
    output: Annotated[Path, typer.Option(help="Folder that gets the model.")],
    layers: Annotated[str, typer.Option(help="Numbers of the layers that stay.")] = "0,5",
    length: Length = 64,
    steps: Annotated[int, typer.Option(min=1, help="Of 8,192 tokens.")] = 450,
    share: Annotated[float, typer.Option(help="Of the queries.")] = 0.35,
    documents: Annotated[int, typer.Option(min=2, help="Of a query.")] = 12,
    learning_rate: float = 3e-4,
) -> None:
    """Make the small model."""
    from secondpass import CrossEncoder
    from secondpass.training import TrainingSettings, drop_layers, taught, train

    began = time.perf_counter()
    untaught = [
        group for name, count in TAUGHT.items() for group in groups_of(data, name, int(share * count), documents)
    ]
    random.Random(3).shuffle(untaught)
    print(f"{len(untaught)} queries, {time.perf_counter() - began:.0f} s", flush=True)
    teacher = CrossEncoder(POCKET, device="cpu", max_length=2 * length)
    groups = list(taught(untaught, teacher, progress=True))
    print(f"taught after {time.perf_counter() - began:.0f} s", flush=True)
    student = CrossEncoder(POCKET, device="cpu", max_length=length)
    drop_layers(student, [int(number) for number in layers.split(",")])
    settings = TrainingSettings(loss="margin_mse", max_steps=steps, learning_rate=learning_rate, tokens_per_step=8192)
    report = train(student, groups, settings, show_progress_bar=False)
    student.save(str(output))
    print(f"{report}\n{output}, {time.perf_counter() - began:.0f} s in all")


def ndcg(qrels: Any, run: dict[str, list[tuple[str, float | None]]]) -> float:
    """Mean nDCG@10."""
    from secondpass.evaluation.measures import evaluate
    from secondpass.evaluation.runs import Run

    return float(evaluate(qrels, Run("cascade", run), ["nDCG@10"]).means["nDCG@10"])


@app.command()
def compare(
    data: Data,
    small: Small,
    large: Annotated[str, typer.Option(help="Folder or name of the large model.")] = POCKET,
    length: Length = 64,
    keep: Annotated[int, typer.Option(min=1, help="Documents that the large model scores.")] = 100,
    limit: Annotated[int, typer.Option(min=TURN, help="Queries of a set.")] = 24,
    sets: str = ",".join(SETS),
    split: str = "test",
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Rank with both in turns, and print ratios of time and nDCG@10."""
    from benchmarks.service import processor
    from secondpass import Cascade, CrossEncoder

    alone = CrossEncoder(large, device="cpu")
    cascade = Cascade([CrossEncoder(small, max_length=length, **FAST), alone], keep=keep)
    figures: dict[str, Any] = {"cpu": processor(), "large": large, "length": length, "keep": keep, "sets": {}}
    for name in sets.split(","):
        asked, qrels = tasks(data, name, split, limit)
        figures["sets"][name] = beside(alone, cascade, asked, qrels)
        print(json.dumps({name: figures["sets"][name]}), flush=True)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    table = Table(
        "set", "queries", "candidates", "alone s", "cascade s", "ratio", "of CPU", "nDCG@10 alone", "cascade", "change"
    )
    for name, row in figures["sets"].items():
        table.add_row(name, *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)


def beside(alone: Any, cascade: Any, asked: Sequence[Task], qrels: Any) -> dict[str, Any]:
    """Both on the same queries, in turns; medians of a query's wall clock and processor time and of their ratios."""
    seconds: dict[str, list[float]] = {"alone": [], "cascade": []}
    used: dict[str, list[float]] = {"alone": [], "cascade": []}
    runs: dict[str, dict[str, list[tuple[str, float | None]]]] = {"alone": {}, "cascade": {}}
    for start in range(0, len(asked), TURN):
        part = asked[start : start + TURN]
        for which, ranker in (("alone", alone), ("cascade", cascade)):
            began, cpu = time.perf_counter(), time.process_time()
            rankings = ranker.rank_many([t.query for t in part], [t.documents for t in part], show_progress_bar=False)
            seconds[which].append((time.perf_counter() - began) / len(part))
            used[which].append((time.process_time() - cpu) / len(part))
            for task, ranking in zip(part, rankings, strict=True):
                runs[which][task.query_id] = [(task.ids[one.index], None) for one in ranking.documents]
    ratios, cpu_ratios = (
        [before / now for before, now in zip(taken["alone"], taken["cascade"], strict=True)]
        for taken in (seconds, used)
    )
    before, after = ndcg(qrels, runs["alone"]), ndcg(qrels, runs["cascade"])
    return {
        "queries": len(asked),
        "candidates": round(statistics.mean(len(task.ids) for task in asked)),
        "alone_s": statistics.median(seconds["alone"]),
        "cascade_s": statistics.median(seconds["cascade"]),
        "ratio": statistics.median(ratios),
        "cpu_ratio": statistics.median(cpu_ratios),
        "ndcg_alone": before,
        "ndcg_cascade": after,
        "change": after - before,
    }


@app.command()
def score(
    data: Data,
    small: Small,
    work: Annotated[Path, typer.Option(help="Folder for the logits.")],
    name: Annotated[str, typer.Option("--set")],
    large: Annotated[str, typer.Option(help="Folder or name of the large model.")] = POCKET,
    length: Length = 64,
    limit: Annotated[int, typer.Option(min=TURN, help="Queries.")] = 50,
    depth: Annotated[int, typer.Option(min=20, help="Candidates.")] = DEPTH,
    split: str = "test",
) -> None:
    """Write the logits of both models and the grades [queries, candidates]; logits of the same that are there stay."""
    from secondpass import CrossEncoder

    asked, qrels = tasks(data, name, split, limit, depth)
    work.mkdir(parents=True, exist_ok=True)
    _check_same(
        work, name, {"large": large, "small": small, "length": length, "asked": [[t.query_id, *t.ids] for t in asked]}
    )
    grades = [[max(0, qrels[task.query_id].get(one, 0)) for one in task.ids] for task in asked]
    np.save(work / f"{name}.grades.npy", np.array(grades, np.int16), allow_pickle=False)
    loaders: dict[str, Callable[[], Any]] = {
        "large": lambda: CrossEncoder(large, device="cpu"),
        "small": lambda: CrossEncoder(small, max_length=length, **FAST),
    }
    for which, load in loaders.items():
        file = work / f"{name}.{which}.npy"
        if not file.exists():
            model = load()
            rows = [logits for start in range(0, len(asked), TURN) for logits in _logits(model, asked[start:][:TURN])]
            np.save(file, np.array(rows, np.float32), allow_pickle=False)


def _check_same(work: Path, name: str, asked: dict[str, Any]) -> None:
    """Refuse logits of other models, queries or candidates than those that are asked for."""
    file, given = work / f"{name}.json", json.loads(json.dumps(asked))
    if any(work.glob(f"{name}.*.npy")) and not (file.exists() and json.loads(file.read_text()) == given):
        raise typer.BadParameter(f"{work} has logits of {name} for another call; delete them", param_hint="--work")
    file.write_text(json.dumps(given))


def _logits(model: Any, part: Sequence[Task]) -> list[list[float]]:
    rankings = model.rank_many([t.query for t in part], [t.documents for t in part], show_progress_bar=False)
    return [[one.logit for one in sorted(ranking.documents, key=lambda one: one.index)] for ranking in rankings]


def traces_of(work: Path, name: str, rule: Any, by_labels: bool) -> list[Any]:
    """The queries of a set that `score` has scored, as `calibrated` takes them."""
    from secondpass.ranking import Ranked
    from secondpass.stopping import Trace

    def ranked(logits: Any) -> list[Ranked]:
        return [Ranked(int(place), 0.0, float(logits[place])) for place in np.argsort(-logits, kind="stable")]

    small, large, grades = (np.load(work / f"{name}.{which}.npy") for which in ("small", "large", "grades"))
    return [
        Trace(rule, ranked(one), ranked(other), own.tolist() if by_labels else None)
        for one, other, own in zip(small, large, grades, strict=True)
    ]


@app.command()
def promise(
    work: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of `score`.")],
    sets: Annotated[str, typer.Option(help="Their queries are taken together.")] = ",".join(SETS),
    top_k: int = 10,
    risk: float = 0.1,
    confidence: float = 0.99,
    splits: int = 100,
    piece: int = 32,
    by_labels: bool = False,
) -> None:
    """Calibrate on random halves, and say how often the other half misses no more than `risk`."""
    from secondpass import StoppingRule
    from secondpass.stopping import calibrated

    bare = StoppingRule(top_k, 0.0, piece=piece, by_labels=by_labels)
    traces = [trace for name in sets.split(",") for trace in traces_of(work, name, bare, by_labels)]
    rng = random.Random(11)
    missed, read, margins = [], [], []
    for _ in range(splits):
        rng.shuffle(traces)
        half = len(traces) // 2
        rule = calibrated(bare, traces[:half], risk, confidence)
        stops = [(trace, trace.stop(rule.slope, rule.margin)) for trace in traces[half : 2 * half]]
        missed.append(statistics.mean(float(trace.missed[at]) for trace, at in stops))
        read.append(statistics.mean(float(trace.read[at]) for trace, at in stops))
        margins.append(rule.margin)
    print(
        json.dumps(
            {
                "queries": len(traces),
                "risk": risk,
                "confidence": confidence,
                "kept": sum(share <= risk for share in missed),
                "splits": splits,
                "missed": round(statistics.mean(missed), 4),
                "missed_most": round(max(missed), 4),
                "read": round(statistics.mean(read), 4),
                "margin": round(statistics.median(margins), 3),
            }
        )
    )


if __name__ == "__main__":
    app()
