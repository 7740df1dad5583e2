"""Long documents read in windows: is the answer found wherever it stands, at what cost, and what does ranking gain.

    python -m benchmarks.windows needles --output-dir figures
    python -m benchmarks.windows quality --data ../shared/data --output-dir figures

`needles` makes texts of 500 to 50,000 words of sentences of our own and puts one sentence with the answer at every
tenth of each. It is found where the best passage holds it, whole, at the places that the passage names; where a text is
cut, where the model was shown it. Each text is ranked by itself, by turns in all ways; seconds are the processor's (of
all cores together), medians over the eleven places. Ends with 1 unless windows find every one.

`quality` ranks BM25's best documents of labelled collections, cut to the first window and read in windows, and tells
nDCG@10 with a 95 % interval of the difference over queries. Two collections are as they are; of two others so many
documents at a time, drawn once, are joined into one, which is relevant as far as one of them is. A set that is not in
the folder of data is skipped.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from secondpass import CrossEncoder
from secondpass.windows import Windows

MODEL = "secondpass/pocket"
LENGTHS = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
PLACES = 11
Way = str | Windows
WAYS: dict[str, Way] = {
    "windows": Windows(),
    "8 windows by BM25": Windows(most=8, select="bm25"),
    "truncation": "only_document",
}
# A question, and the one sentence that answers it; none of it is in the other sentences.
NEEDLES = (
    ("how much does a new library card cost", "A replacement library card costs nine euros."),
    ("when was the lighthouse of Norvik built", "The lighthouse of Norvik was built in 1874."),
    ("which vitamin helps against scurvy", "Scurvy is cured by vitamin C from fresh lemons."),
    ("how do I reset the thermostat", "To reset the thermostat, hold both buttons for ten seconds."),
    ("who composed the opera Silver Lake", "The opera Silver Lake was composed by Anna Holm."),
    ("what is the boiling point of acetone", "Acetone boils at 56 degrees Celsius."),
    ("how long is a passport valid", "A passport is valid for ten years after it is issued."),
    ("what do pandas eat", "Pandas eat almost nothing but bamboo shoots and leaves."),
    ("which port does the database listen on", "The database listens on port 5432 unless it is told otherwise."),
    (
        "who may vote in the parish election",
        "Every resident above the age of eighteen may vote in the parish election.",
    ),
    ("how is the saffron harvest dried", "The saffron harvest is dried over charcoal for half an hour."),
)
WHO = (
    "mayor farmer teacher merchant painter captain widow baker clerk shepherd judge doctor carpenter pilot nun".split()
)
DID = "visited described remembered praised crossed painted sold measured repaired watched left admired guarded".split()
HOW = "old quiet wooden northern narrow famous empty crowded muddy distant yellow broken ancient wide lonely".split()
WHAT = "bridge market chapel orchard mill harbour valley cottage road meadow tower stable garden river barn".split()
WHEN = (
    "before the winter",
    "after the long war",
    "in the following spring",
    "on a rainy morning",
    "without a word",
    "with two of the neighbours",
    "as everybody had expected",
    "for the third time",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def story(words: int, seed: int) -> list[str]:
    """Sentences of so many words together, or a few more."""
    rng = random.Random(seed)
    made: list[str] = []
    count = 0
    while count < words:
        who, other = rng.sample(WHO, 2)
        things = f"the {rng.choice(HOW)} {rng.choice(WHAT)}"
        if rng.random() < 0.4:
            things += f" and the {rng.choice(HOW)} {rng.choice(WHAT)} of the {other}"
        made.append(f"The {who} {rng.choice(DID)} {things} {rng.choice(WHEN)}.")
        count += len(made[-1].split())
    return made


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, a text that answers it once, and where."""

    query: str
    text: str
    start: int
    end: int


def hidden(words: int, place: int) -> Asked:
    """A text of so many words with the answer behind `place` tenths of its sentences."""
    query, answer = NEEDLES[place % len(NEEDLES)]
    sentences = story(words, seed=1000 * words + place)
    before = " ".join(sentences[: len(sentences) * place // (PLACES - 1)])
    behind = " ".join(sentences[len(sentences) * place // (PLACES - 1) :])
    text = " ".join(part for part in (before, answer, behind) if part)
    start = text.index(answer)
    return Asked(query, text, start, start + len(answer))


def ranked(encoder: CrossEncoder, asked: Asked, way: Way) -> tuple[bool, float, int]:
    """Whether the answer was in what the model was shown best, seconds, and how many windows it read."""
    began = time.process_time()
    (hit,) = encoder.rank(asked.query, [asked.text], truncation=way)  # type: ignore[arg-type]
    seconds = time.process_time() - began
    if "passage" not in hit:
        (hit,) = encoder.rank(asked.query, [asked.text], truncation=Windows(most=1))
    place = hit["passage"]
    return place["start"] <= asked.start and asked.end <= place["end"], seconds, place["windows"]


@app.command()
def needles(
    output_dir: Annotated[Path | None, typer.Option(help="Folder for windows.json and windows.svg.")] = None,
    longest: Annotated[int, typer.Option(help="Words of the longest texts.")] = LENGTHS[-1],
    model: Annotated[str, typer.Option(help="The reranker.")] = MODEL,
) -> None:
    """Find one sentence in texts of growing length."""
    encoder = CrossEncoder(model, device="cpu")
    for way in WAYS.values():
        ranked(encoder, hidden(LENGTHS[0], 0), way)
    rows: list[dict[str, Any]] = []
    for words in (length for length in LENGTHS if length <= longest):
        texts = [hidden(words, place) for place in range(PLACES)]
        found: dict[str, list[tuple[bool, float, int]]] = {name: [] for name in WAYS}
        for asked in texts:
            for name, way in WAYS.items():
                found[name].append(ranked(encoder, asked, way))
        for name, turns in found.items():
            hits, seconds, windows = zip(*turns, strict=True)
            row = {"words": words, "way": name, "found": sum(hits), "of": len(hits), "windows": max(windows)}
            rows.append({**row, "seconds": statistics.median(seconds)})
    _show_needles(rows)
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "windows.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        plot(rows, output_dir / "windows.svg")
    if any(row["found"] < row["of"] for row in rows if row["way"] == "windows"):
        raise typer.Exit(1)


def _show_needles(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(
        "words", "way", "found", "windows", "processor seconds", "per 1,000 words", title="One answer in a long text"
    )
    for row in rows:
        share = f"{1000 * row['seconds'] / row['words']:.4f}"
        counts = (f"{row['found']} of {row['of']}", str(row["windows"]), f"{row['seconds']:.3f}", share)
        table.add_row(f"{row['words']:,}", row["way"], *counts)
    Console(width=120).print(table)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Seconds against words, a line for each way; SVG, PNG or PDF by the path's ending."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "windows", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axis = figure.subplots()
        for name in WAYS:
            mine = [row for row in rows if row["way"] == name]
            axis.plot([row["words"] for row in mine], [row["seconds"] for row in mine], marker="o", label=name)
        axis.set_xlabel("words of the document")
        axis.set_ylabel("processor seconds, median of eleven")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


# ---- What ranking gains


@dataclass(frozen=True, slots=True)
class Collection:
    """A labelled set: so many documents are joined to one where `joined` is not 1; queries spread over the set."""

    name: str
    joined: int
    queries: int
    depth: int


COLLECTIONS = (
    Collection("time", 1, 1000, 20),
    Collection("lisa", 1, 1000, 30),
    Collection("squad", 6, 50, 10),
    Collection("medquad", 6, 50, 10),
)
LOOK_ALIKE = 7
"""Seed of what is joined with what."""


@dataclass(frozen=True, slots=True)
class Task:
    """A query with its candidates by id, and their grades."""

    query: str
    documents: dict[str, str]
    grades: Mapping[str, int]


def tasks(data: Path, wanted: Collection) -> list[Task]:
    """Test queries with a relevant document, and BM25's best."""
    from recipes.pocket.candidates import FirstPass
    from recipes.pocket.corpora import evenly_spaced, read_corpus, read_qrels, read_queries

    corpus, queries, qrels = read_corpus(data, wanted.name), read_queries(data, wanted.name), {}
    order = (
        np.random.default_rng(LOOK_ALIKE).permutation(len(corpus.ids)) if wanted.joined > 1 else range(len(corpus.ids))
    )
    parts = [order[start : start + wanted.joined] for start in range(0, len(order), wanted.joined)]
    texts = ["\n\n".join(corpus.texts[row] for row in part) for part in parts]
    where = {corpus.ids[row]: str(number) for number, part in enumerate(parts) for row in part}
    for query, judged in read_qrels(data, wanted.name, "test").items():
        grades: dict[str, int] = {}
        for document, grade in judged.items():
            if document in where:
                grades[where[document]] = max(grade, grades.get(where[document], 0))
        if max(grades.values(), default=0) > 0:
            qrels[query] = grades
    names = evenly_spaced(sorted(qrels), wanted.queries)
    found, scores = FirstPass(texts).search([queries[name] for name in names], wanted.depth)
    return [
        Task(queries[name], {str(row): texts[row] for row, score in zip(*best, strict=True) if score > 0}, qrels[name])
        for name, best in zip(names, zip(found, scores, strict=True), strict=True)
    ]


def ndcg(task: Task, order: Sequence[str]) -> float:
    """nDCG@10 with linear gains, as trec_eval has it."""
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = np.array([max(0, task.grades.get(document, 0)) for document in order[:10]], float)
    ideal = np.array(sorted((max(0, grade) for grade in task.grades.values()), reverse=True)[:10], float)
    return float((gains * discounts[: len(gains)]).sum() / (ideal * discounts[: len(ideal)]).sum())


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, of 10,000 draws of queries."""
    values = np.array(differences)
    draws = np.random.default_rng(0).integers(0, len(values), (10_000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def judged(encoder: CrossEncoder, found: Sequence[Task]) -> dict[str, Any]:
    """Figures of one set: nDCG@10 of the first pass and of both ways, and what windows gain.

    A document that fits has one score, which is computed once.
    """
    values: dict[str, list[float]] = {name: [] for name in ("BM25", "truncation", "windows")}
    several: list[bool] = []
    for task in found:
        names, texts = list(task.documents), list(task.documents.values())
        (whole,) = encoder.rank_many([task.query], [texts], truncation=Windows())
        windows = {one.index: one.logit for one in whole.documents}
        long = [one.index for one in whole.documents if one.passage is not None and one.passage.windows > 1]
        (cut,) = encoder.rank_many([task.query], [[texts[row] for row in long]], truncation="only_document")
        beginnings = windows | {long[one.index]: one.logit for one in cut.documents}
        several += [row in long for row in windows]
        values["BM25"].append(ndcg(task, names))
        for name, logits in (("windows", windows), ("truncation", beginnings)):
            best = sorted(range(len(names)), key=lambda row, given=logits: -given[row])  # type: ignore[misc]
            values[name].append(ndcg(task, [names[row] for row in best]))
    gains = [read - cut_off for read, cut_off in zip(values["windows"], values["truncation"], strict=True)]
    return {
        "queries": len(found),
        "words": statistics.median(len(text.split()) for task in found for text in task.documents.values()),
        "several": statistics.fmean(several),
        **{name: statistics.fmean(mine) for name, mine in values.items()},
        "gain": statistics.fmean(gains),
        "interval": interval(gains),
    }


@app.command()
def quality(
    data: Annotated[Path, typer.Option(help="Folder of the labelled collections.")] = Path("../shared/data"),
    output_dir: Annotated[Path | None, typer.Option(help="Folder for windows-quality.json.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these sets.")] = None,
    model: Annotated[str, typer.Option(help="The reranker.")] = MODEL,
) -> None:
    """Compare windows with truncation on labelled collections."""
    encoder = CrossEncoder(model, device="cpu")
    rows: dict[str, dict[str, Any]] = {}
    for wanted in COLLECTIONS:
        name = wanted.name if wanted.joined == 1 else f"{wanted.name}, {wanted.joined} joined"
        if only and wanted.name not in only:
            continue
        if not (data / wanted.name).is_dir():
            Console().print(f"{name}: skipped, there is no {data / wanted.name}")
            continue
        rows[name] = judged(encoder, tasks(data, wanted))
    columns = ("BM25", "truncation", "windows")
    table = Table("set", "queries", "words", "in several", *columns, "gain", "95 % interval", title="nDCG@10")
    for name, row in rows.items():
        low, high = row["interval"]
        counts = (str(row["queries"]), f"{row['words']:.0f}", f"{row['several']:.0%}")
        figures = (*(f"{row[column]:.3f}" for column in columns), f"{row['gain']:+.3f}")
        table.add_row(name, *counts, *figures, f"{low:+.3f} to {high:+.3f}")
    Console(width=120).print(table)
    if output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        (output_dir / "windows-quality.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
