"""What a cache of scores saves and costs, and that it is right whatever happens to those who use it.

    python -m benchmarks.score_cache compare --output-dir figures

Ranks the same queries without a cache, with one that is empty, and with one that a run before has filled, in turns:
medians of the rounds, in a file and in memory. A second run must cost less than a twentieth of the first, or this ends
with 1. Also what a score takes of the disk, and what finding and keeping one takes by themselves.

    python -m benchmarks.score_cache endure --kills 200 --processes 8

So many processes rank through one small file while another is killed and begun again, each time in the middle of
keeping; now and then another model is put into the model's folder under the same name. Every process compares each
score with those of the model it has loaded, and the disk with its bound. Ends with 1 where one was wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from benchmarks.inference import machine
from benchmarks.inference.__main__ import Output, Threads, say, write
from benchmarks.inference.report import number, table
from benchmarks.service import Asked, questions
from secondpass import CrossEncoder, ScoreCache
from secondpass.score_cache import Kept, score_keys

CORES = os.cpu_count() or 1
POCKET = "secondpass/pocket"
BAR = 0.05
MB = 2**20

Made = TypeVar("Made")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def timed(work: Callable[..., Made], *given: Any) -> tuple[float, Made]:
    """Seconds of wall clock, and what was made."""
    began = time.perf_counter()
    made = work(*given)
    return time.perf_counter() - began, made


def rank(encoder: CrossEncoder, asked: Sequence[Asked], cache: ScoreCache | None) -> list[list[tuple[int, float]]]:
    """One call a query, as a search does; gives order and scores."""
    encoder.use_score_cache(cache)
    rankings = [encoder.rank_many([one.query], [one.documents])[0] for one in asked]
    return [[(found.index, found.score) for found in ranking.documents] for ranking in rankings]


def alone(folder: Path, rows: int = 20_000, each: int = 100) -> dict[str, float]:
    """Microseconds that finding and keeping a score take, and bytes of disk; texts of 500 characters."""
    documents = [f"{number} ".ljust(500, "x") for number in range(each)]
    taken: list[tuple[float, float, float]] = []
    with ScoreCache(folder / "alone.db") as cache:
        for number in range(rows // each):
            key, keys = timed(score_keys, b"alone", [f"query {number}"] * each, documents)
            keep, _ = timed(cache.keep, [(key, Kept((place / 7,))) for place, key in enumerate(keys)])
            find, _ = timed(cache.find, keys)
            taken += [(key, keep, find)]
        cache.close()
        size = cache.bytes_held / len(cache)
    medians = [1e6 * statistics.median(times) / each for times in zip(*taken, strict=True)]
    return dict(zip(("key", "keep", "find"), medians, strict=True)) | {"bytes": size}


@app.command()
def compare(
    model: Annotated[str, typer.Option(help="Folder or name.")] = POCKET,
    queries: Annotated[int, typer.Option(min=1)] = 20,
    documents: Annotated[int, typer.Option(min=1, max=300, help="Of each query.")] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Threads = CORES,
    output_dir: Output = None,
) -> None:
    """Measure runs without, with an empty and with a filled cache in turns."""
    given = machine.cores_given(threads)
    encoder = CrossEncoder(model, device="cpu")
    asked = questions(queries, documents)
    right = rank(encoder, asked, None)
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        costs = alone(Path(folder))
        for turn in range(rounds):
            say(f"round {turn + 1} of {rounds}")
            runs: list[tuple[str, ScoreCache | None]] = [("no cache", None)]
            for name, path in (("file", Path(folder) / f"{turn}.db"), ("memory", None)):
                cache = ScoreCache(path)
                again = cache if path is None else ScoreCache(path)
                runs += [(f"{name}, first run", cache), (f"{name}, second run", again)]
            for name, used in runs:
                spent, found = timed(rank, encoder, asked, used)
                taken.setdefault(name, []).append(spent)
                if found != right:
                    raise RuntimeError(f"{name}: other scores")
    medians = {name: statistics.median(times) for name, times in taken.items()}
    shares = {name: medians[f"{name}, second run"] / medians[f"{name}, first run"] for name in ("file", "memory")}
    figures = {
        **machine.seen(given, threads, "cpu"),
        "model": model, "queries": queries, "documents": documents, "rounds": rounds,
        "seconds": medians, "second_to_first": shares,
        "first_to_none": {name: medians[f"{name}, first run"] / medians["no cache"] for name in ("file", "memory")},
        "alone": costs,
    }  # fmt: skip
    write(figures, markdown(figures), "score-cache", output_dir)
    if max(shares.values()) >= BAR:
        raise typer.Exit(1)


def markdown(figures: dict[str, Any]) -> str:
    """A table and two lines."""
    pairs = figures["queries"] * figures["documents"]
    plain = figures["seconds"]["no cache"]
    rows = [
        [name, number(1000 * taken / figures["queries"], 2), number(pairs / taken), f"{taken / plain:.1%}"]
        for name, taken in figures["seconds"].items()
    ]
    shares, costs = figures["second_to_first"], figures["alone"]
    lines = [
        machine.in_words(figures["machine"]), "",
        f"{figures['queries']} queries of {figures['documents']} documents with {figures['model']}, a call for each "
        f"query; medians of {figures['rounds']} turns.", "",
        table(("", "ms a query", "pairs/s", "time"), rows), "",
        f"A second run costs {shares['file']:.2%} of the first with a file, {shares['memory']:.2%} in memory.", "",
        f"By itself a score costs {costs['key']:.1f} µs for its key (500 characters), {costs['find']:.1f} µs to be "
        f"found and {costs['keep']:.1f} µs to be kept, 100 at a time, and {costs['bytes']:.0f} bytes of disk.", "",
        machine.cores_in_words(figures["cores_before"], figures["cores_after"], figures["machine"]["threads"]),
    ]  # fmt: skip
    return "\n".join([*lines, *([figures["warning"]] if figures["warning"] else [])]) + "\n"


# ---- Kills, many processes, and a model that is replaced

QUERIES, DOCUMENTS = 60, 40
BOUND = MB  # less than what both models say of all pairs


def replaced(folder: Path, version: int) -> None:
    """Put a model into the folder, whole at every moment: the embedded one, with another head in version 1."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    made = folder.with_name(f"{folder.name}.{version}")
    if not made.exists():
        shutil.copytree(Path(__file__).parents[1] / "src" / "secondpass" / "pocket", made)
        weights = made / "model.int8.safetensors"
        tensors = load_file(weights)
        tensors["classifier.bias"] = tensors["classifier.bias"] + np.float16(version)
        save_file(tensors, weights)
    link = folder.with_name(f"{folder.name}.new")
    link.symlink_to(made, target_is_directory=True)
    link.rename(folder)


def scores(encoder: CrossEncoder, one: Asked) -> list[float]:
    """In the order of the documents."""
    ranking = encoder.rank_many([one.query], [one.documents])[0]
    return [found.score for found in sorted(ranking.documents, key=lambda found: found.index)]


class Telling(ScoreCache):
    """Tells when it begins to keep and when it has kept."""

    def keep(self, entries: Sequence[tuple[bytes, Kept]]) -> None:
        """As ever."""
        sys.stdout.write("keeping\n")
        sys.stdout.flush()
        super().keep(entries)
        sys.stdout.write("kept\n")
        sys.stdout.flush()


@app.command(hidden=True)
def work(model: Path, path: Path, right: Path, seed: int, telling: bool = False) -> None:
    """Rank until there is something to read or this is killed; the last line is what was found."""
    import select

    versions: list[list[list[float]]] = json.loads(right.read_text(encoding="utf-8"))
    asked = questions(QUERIES, DOCUMENTS)
    draw = random.Random(seed)
    encoder = CrossEncoder(str(model), device="cpu")
    direct = scores(encoder, asked[0])
    (expected,) = [version for version in versions if version[0] == direct]
    cache = (Telling if telling else ScoreCache)(path, max_bytes=BOUND)
    encoder.use_score_cache(cache)
    calls = wrong = 0
    peak = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        number = draw.randrange(QUERIES)
        wrong += scores(encoder, asked[number]) != expected[number]
        calls, peak = calls + 1, max(peak, cache.bytes_held)
    cache.close()
    told = {"calls": calls, "wrong": wrong, "hits": cache.hits, "misses": cache.misses, "errors": cache.errors}
    sys.stdout.write(json.dumps(told | {"peak": peak}) + "\n")


@app.command()
def endure(
    kills: Annotated[int, typer.Option(min=1)] = 200,
    processes: Annotated[int, typer.Option(min=2, help="At once; one of them is the one that is killed.")] = 8,
    replace_every: Annotated[int, typer.Option(min=1, help="Kills between two replacements of the model.")] = 20,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Kill processes in the middle of keeping, and compare every score."""
    draw = random.Random(kills)
    asked = questions(QUERIES, DOCUMENTS)
    with tempfile.TemporaryDirectory() as folder:
        model, path, right = Path(folder) / "model", Path(folder) / "scores.db", Path(folder) / "right.json"
        expected = []
        for version in (1, 0):
            replaced(model, version)
            encoder = CrossEncoder(str(model), device="cpu")
            expected.append([scores(encoder, one) for one in asked])
        right.write_text(json.dumps(expected), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.score_cache", "work", *map(str, (model, path, right))]

        def begun(seed: int, *options: str) -> subprocess.Popen[str]:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            return subprocess.Popen(
                [*command, str(seed), *options],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

        living = [begun(seed) for seed in range(processes - 1)]
        ended: list[dict[str, Any]] = []
        while_keeping = 0
        for kill in range(kills):
            if kill % replace_every == replace_every - 1:
                replaced(model, kill // replace_every % 2)
                # the oldest gives way to one that has the new model
                ended.append(finished(living.pop(0)))
                living.append(begun(1000 + kill))
            while_keeping += killed(begun(2000 + kill, "--telling"), draw)
            say(f"kill {kill + 1} of {kills}: {while_keeping} while keeping")
        ended += [finished(process) for process in living]
        with ScoreCache(path, max_bytes=BOUND) as cache:
            left = len(cache)
    told = {name: sum(one[name] for one in ended) for name in ("calls", "wrong", "hits", "misses", "errors")}
    told |= {"peak": max(one["peak"] for one in ended), "bound": BOUND, "rows left": left}
    figures = {"kills": kills, "while keeping": while_keeping, "processes": processes, "ended well": len(ended)} | told
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    if told["wrong"] or told["errors"] or told["peak"] > BOUND or not told["hits"]:
        raise typer.Exit(1)


def killed(process: subprocess.Popen[str], draw: random.Random) -> bool:
    """Kill one some time after it began to keep; whether it had not yet ended that."""
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    for _ in range(draw.randrange(1, 4)):
        if "keeping\n" not in iter(process.stdout.readline, ""):
            raise RuntimeError(f"a process ended by itself with {process.wait()}")
    time.sleep(draw.uniform(0, 0.004))
    process.kill()
    rest = process.stdout.read()
    process.stdin.close()
    process.wait()
    return "kept\n" not in rest


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Let one end; what it found.

    Raises:
        RuntimeError: it failed.
    """
    output, _ = process.communicate("end\n")
    if process.returncode:
        raise RuntimeError(f"a process ended with {process.returncode}")
    last: dict[str, Any] = json.loads(output.splitlines()[-1])
    return last


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] != "--help" and sys.argv[1].startswith("-"):
        sys.argv.insert(1, "compare")  # without a command it compares
    app()
