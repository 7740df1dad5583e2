"""What an explanation costs, beside one ranking of a hundred documents of the same length.

    python -m benchmarks.explanations
    python -m benchmarks.explanations --model MODEL --rounds 9

Documents are the demo's texts, joined and cut to so many words. An explanation and a ranking are made in turns; times
are medians. A ranking is the unit, as it is what a search pays anyway.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.inference import machine
from benchmarks.inference.report import number, table
from secondpass import CrossEncoder
from secondpass.corpora import packaged, read_corpus, read_queries
from secondpass.explanation import explain

DEMO = Path("secondpass/demo")
LENGTHS = (20, 50, 100, 200, 400)
DOCUMENTS = 100


def documents(words: int) -> Iterator[str]:
    """Texts of so many words without end, each from another one of the corpus on."""
    texts = [document.text.split() for document in read_corpus(DEMO)]
    for start in cycle(range(len(texts))):
        running = (word for text in cycle([*texts[start:], *texts[:start]]) for word in text)
        yield " ".join(islice(running, words))


def seconds(work: Callable[[], object]) -> float:
    """Wall clock of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def row(encoder: CrossEncoder, asked: list[str], words: int, max_passes: int, rounds: int) -> list[str]:
    """Of one length: passes, finest parts, milliseconds and the ratio."""
    made, explained, ranked, passes, parts = documents(words), [], [], [], []
    for turn in range(rounds + 1):
        query, texts = asked[turn % len(asked)], list(islice(made, DOCUMENTS))
        found = explain(encoder, query, texts[0], max_passes=max_passes)
        own = seconds(lambda: explain(encoder, query, texts[0], max_passes=max_passes))  # noqa: B023
        theirs = seconds(lambda: encoder.rank(query, texts, show_progress_bar=False))  # noqa: B023
        if turn:  # the first one warms up
            explained.append(own)
            ranked.append(theirs)
            passes.append(found.passes)
            parts.append(len(found.parts))
    ratios = [own / whole for own, whole in zip(explained, ranked, strict=True)]
    return [
        f"{words}",
        number(statistics.median(passes)),
        number(statistics.median(parts)),
        number(1000 * statistics.median(explained), 1),
        number(1000 * statistics.median(ranked), 1),
        number(statistics.median(ratios), 2, "x"),
    ]


def main(
    model: Annotated[str, typer.Option(help="Folder or name of a cross-encoder.")] = "secondpass/pocket",
    max_passes: Annotated[int, typer.Option(min=4, help="Pairs of an explanation at most.")] = 60,
    rounds: Annotated[int, typer.Option(min=1, help="Explanations and rankings of each length.")] = 9,
) -> None:
    """Explain and rank in turns."""
    encoder = CrossEncoder(model, device="cpu")
    asked = list(read_queries(packaged(DEMO) / "queries.jsonl").values())
    lines = [row(encoder, asked, words, max_passes, rounds) for words in LENGTHS]
    columns = ("words", "passes", "parts", "ms", f"ms of ranking {DOCUMENTS}", "ratio")
    sys.stdout.write(f"{machine.in_words(machine.facts(os.cpu_count() or 1, 'cpu'))}\n\n{table(columns, lines)}\n")


if __name__ == "__main__":
    typer.run(main)
