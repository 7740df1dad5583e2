"""What an explanation costs, beside one ranking of a hundred documents of the same length.

    python -m benchmarks.explanations
    python -m benchmarks.explanations --model MODEL --rounds 9

Documents are the demo's texts, joined and cut to so many words. An explanation and a ranking are made in turns; figures
are medians, the ratio that of processor times, which other programs disturb less. A ranking is the unit, as it is what
a search pays anyway.
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


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """Wall clock and processor time of one call in seconds."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def row(encoder: CrossEncoder, asked: list[str], words: int, max_passes: int, rounds: int) -> list[str]:
    """Of one length: passes, finest parts, milliseconds and the ratio of processor times."""
    texts = documents(words)
    explained, ranked, made = [], [], []
    for turn in range(rounds + 1):
        query, given = asked[turn % len(asked)], list(islice(texts, DOCUMENTS))
        explained.append(spent(lambda: made.append(explain(encoder, query, given[0], max_passes=max_passes))))  # noqa: B023
        ranked.append(spent(lambda: encoder.rank(query, given, show_progress_bar=False)))  # noqa: B023
    # the first turn warms up
    pairs = list(zip(explained, ranked, strict=True))[1:]
    return [
        f"{words}",
        number(statistics.median(found.passes for found in made[1:])),
        number(statistics.median(len(found.parts) for found in made[1:])),
        number(1000 * statistics.median(own for (own, _), _ in pairs), 1),
        number(1000 * statistics.median(whole for _, (whole, _) in pairs), 1),
        number(statistics.median(own / whole for (_, own), (_, whole) in pairs), 2, "x"),
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
    columns = ("words", "passes", "parts", "ms", f"ms of ranking {DOCUMENTS}", "processor time")
    sys.stdout.write(f"{machine.in_words(machine.facts(os.cpu_count() or 1, 'cpu'))}\n\n{table(columns, lines)}\n")


if __name__ == "__main__":
    typer.run(main)
