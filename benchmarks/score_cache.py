"""What a cache of scores saves and costs, and that it is right whatever happens to those who use it.

    python -m benchmarks.score_cache compare --output-dir figures

Ranks the same queries without a cache, with one that is empty, and with one that a run before has filled, in turns:
medians of the rounds, in a file and in memory. A second run must cost less than a twentieth of the first, or this ends
with 1. Also what a score takes of the disk, and what finding and keeping one takes by themselves.

    python -m benchmarks.score_cache endure --kills 200 --processes 8

So many processes rank through one small file, and half of them are killed and forked anew, mostly in the middle of
keeping, which alone counts; now and then another model is put into the model's folder under the same name. Every
process compares each score with those of the model it has loaded, and the disk with its bound. Ends with 1 where one
was wrong.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer
from safetensors.numpy import load_file, save_file

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

QUERIES, DOCUMENTS, CHARACTERS = 40, 80, 100
BOUND = MB  # less than what one of the models says of all pairs
KEEPING, KEPT = b"1", b"2"


def replaced(folder: Path, version: int) -> None:
    """Put a model into the folder, whole at every moment: the embedded one's first layer, with a head for a version."""
    made = folder.with_name(f"{folder.name}.{version}")
    if not made.exists():
        shutil.copytree(Path(__file__).parents[1] / "src" / "secondpass" / "pocket", made)
        config = json.loads((made / "config.json").read_text(encoding="utf-8"))
        (made / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}), encoding="utf-8")
        weights = made / "model.int8.safetensors"
        tensors = {name: part for name, part in load_file(weights).items() if ".layer." not in name or ".0." in name}
        tensors["classifier.bias"] = tensors["classifier.bias"] + np.float16(version)
        save_file(tensors, weights)
    link = folder.with_name(f"{folder.name}.new")
    link.symlink_to(made, target_is_directory=True)
    link.rename(folder)


def short_questions() -> list[Asked]:
    """Whose documents are their first characters."""
    return [
        Asked(one.query, tuple(text[:CHARACTERS] for text in one.documents)) for one in questions(QUERIES, DOCUMENTS)
    ]


def scores(encoder: CrossEncoder, one: Asked) -> list[float]:
    """In the order of the documents."""
    ranking = encoder.rank_many([one.query], [one.documents])[0]
    return [found.score for found in sorted(ranking.documents, key=lambda found: found.index)]


class Ranking:
    """A model as it is in its folder now, and what it says of every pair by the list of all versions."""

    def __init__(self, folder: Path, right: Path) -> None:
        self.encoder = CrossEncoder(str(folder), device="cpu")
        self.asked = short_questions()
        versions: list[list[list[float]]] = json.loads(right.read_text(encoding="utf-8"))
        direct = scores(self.encoder, self.asked[0])
        (self.expected,) = [version for version in versions if version[0] == direct]
        self.calls = self.wrong = 0

    def call(self, draw: random.Random) -> None:
        """Rank for a query."""
        number = draw.randrange(QUERIES)
        self.wrong += scores(self.encoder, self.asked[number]) != self.expected[number]
        self.calls += 1


class Mortal(ScoreCache):
    """Kills its process in the middle of keeping for the so manieth time, and tells in `state` when it is keeping."""

    state = mmap.mmap(-1, 1)
    left = 2
    took = 0.0

    def keep(self, entries: Sequence[tuple[bytes, Kept]]) -> None:
        """As ever, until the last time."""
        self.left -= 1
        if not self.left:
            threading.Thread(target=self._kill, args=(random.uniform(0, 0.8 * self.took),), daemon=True).start()
        self.state[:] = KEEPING
        self.took, _ = timed(super().keep, entries)
        self.state[:] = KEPT

    def _kill(self, after: float) -> None:
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGKILL)


@app.command(hidden=True)
def die(model: Path, path: Path, right: Path, seed: int, kills: int) -> None:
    """Fork children one after the other that kill themselves, until so many were killed in the middle of keeping."""
    ranking = Ranking(model, right)
    forks = 0
    while kills:
        forks += 1
        child = os.fork()
        if not child:
            random.seed(seed + forks)
            cache = Mortal(path, max_bytes=BOUND)
            cache.left = random.randrange(2, 5)
            ranking.encoder.use_score_cache(cache)
            while not ranking.wrong:
                ranking.call(random.Random(random.random()))
            os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != -signal.SIGKILL:
            raise RuntimeError(f"a child ended with {status}: a wrong score")
        kills -= Mortal.state[:] == KEEPING
    sys.stdout.write(json.dumps({"forks": forks}) + "\n")


@app.command(hidden=True)
def live(model: Path, path: Path, right: Path, seed: int) -> None:
    """Rank until the standard input has something to read; what was found."""
    ranking, draw, peak = Ranking(model, right), random.Random(seed), 0
    with ScoreCache(path, max_bytes=BOUND) as cache:
        ranking.encoder.use_score_cache(cache)
        while not select.select([sys.stdin], [], [], 0)[0]:
            ranking.call(draw)
            peak = max(peak, cache.bytes_held)
    told = {"calls": ranking.calls, "wrong": ranking.wrong, "hits": cache.hits, "misses": cache.misses}
    sys.stdout.write(json.dumps(told | {"errors": cache.errors, "peak": peak}) + "\n")


@app.command()
def endure(
    kills: Annotated[int, typer.Option(min=1)] = 200,
    processes: Annotated[int, typer.Option(min=2, help="At once; half of them are killed and forked anew.")] = 8,
    replacements: Annotated[int, typer.Option(min=1, help="How often another model is put in place of the first.")] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Kill processes in the middle of keeping, and compare every score."""
    with tempfile.TemporaryDirectory() as folder:
        given = model, path, right = [Path(folder) / name for name in ("model", "scores.db", "right.json")]
        expected = []
        for version in (1, 0):
            replaced(model, version)
            encoder = CrossEncoder(str(model), device="cpu")
            expected.append([scores(encoder, one) for one in short_questions()])
        right.write_text(json.dumps(expected), encoding="utf-8")
        living = [begun("live", *given, seed) for seed in range(processes - processes // 2)]
        ended: list[dict[str, Any]] = []
        killed, forks, each = 0, 0, -(-kills // (processes // 2 * replacements))
        for turn in range(replacements):
            seeds = [100_000 * turn + 1000 * number for number in range(processes // 2)]
            forks += sum(finished(one)["forks"] for one in [begun("die", *given, seed, each) for seed in seeds])
            killed += each * len(seeds)
            say(f"{killed} killed while they were keeping, of {forks}")
            replaced(model, (turn + 1) % 2)
            ended.append(finished(living.pop(0)))  # the oldest gives way to one that has the new model
            living.append(begun("live", *given, 1000 + turn))
        ended += [finished(process) for process in living]
        with ScoreCache(path, max_bytes=BOUND) as cache:
            left = len(cache)
    told = {name: sum(one[name] for one in ended) for name in ("calls", "wrong", "hits", "misses", "errors")}
    told |= {"peak": max(one["peak"] for one in ended), "bound": BOUND, "rows left": left}
    figures = {"killed while keeping": killed, "killed": forks, "processes": processes, "ended well": len(ended)} | told
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    if told["wrong"] or told["errors"] or told["peak"] > BOUND or not told["hits"]:
        raise typer.Exit(1)


def begun(command: str, *given: object) -> subprocess.Popen[str]:
    """One of the hidden commands, as a process of one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.score_cache", command, *map(str, given)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


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
