"""Rescoring by a pool of Ray workers: its speed, its driver's memory, and what is left when things die.

    python -m benchmarks.rescoring compare --pairs 200000

The same pairs by one process with two threads, by one worker and by two workers with a thread each, every one a fresh
process, in turns. `pairs/s` counts from the first loaded model to the last part, `whole` all of the process's seconds.
Ends with 1 where two workers are less than 1.85 times one, or more than 10 % slower than the plain process.

    python -m benchmarks.rescoring memory --pairs 2000000

The peak memory of the driver at 10,000 pairs and at so many, short ones.

    python -m benchmarks.rescoring kill --pairs 100000 --kills 50

Workers and drivers are killed at random while the command runs; a driver that is gone is started again. Ends with 1
where the run is not row by row that of an undisturbed process.

    python -m benchmarks.rescoring cluster --pairs 20000

The same with two nodes of `ray.cluster_utils.Cluster` on loopback, one of which is removed in the middle.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.inference.__main__ import say
from benchmarks.service import processor
from secondpass.candidates import CandidateFiles
from secondpass.corpora import read_corpus
from secondpass.rescoring import Engine, begun, local

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

PER_QUERY = 20
PairCount = Annotated[int, typer.Option(min=1)]
PartPairs = Annotated[int, typer.Option(min=1)]
Words = Annotated[int, typer.Option(min=1, help="Of a document, about.")]


def write_pairs(path: Path, pairs: int, words: int) -> None:
    """Queries and documents of words of the package's demonstration corpus, in row groups as Spark writes them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = random.Random(1)
    known = sorted({word for each in read_corpus(Path("secondpass/demo")) for word in each.text.split()})

    def text(count: int) -> str:
        return " ".join(generator.choices(known, k=count))

    schema = pa.schema([(name, pa.string()) for name in ("query_id", "document_id", "query", "document")])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, pairs, 50_000):
            rows = []
            for number in range(start, min(start + 50_000, pairs)):
                if number % PER_QUERY == 0:
                    query = text(6)
                rows.append((f"q{number // PER_QUERY}", f"{number % PER_QUERY:02d}", query,
                             text(generator.randint(max(1, words // 2), 3 * words // 2))))  # fmt: skip
            writer.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema))


@contextmanager
def workplace(pairs: int, words: int) -> Iterator[Path]:
    """A folder with `in.parquet`, removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="rescoring-"))
    try:
        write_pairs(folder / "in.parquet", pairs, words)
        yield folder
    finally:
        shutil.rmtree(folder)


def measured(folder: Path, name: str, workers: int, part_pairs: int) -> dict[str, float]:
    """What `run` says of itself in a fresh process; no workers are this process with two threads."""
    command = [sys.executable, "-m", "benchmarks.rescoring", "run", str(folder / "in.parquet"), str(folder / name)]
    command += ["--workers", str(workers), "--part-pairs", str(part_pairs)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(2))
    if done.returncode:
        raise RuntimeError(done.stderr)
    whole = time.perf_counter() - began
    shutil.rmtree(folder / name)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**told, "whole": told["pairs"] / whole, "seconds": whole}


def environment(threads: int) -> dict[str, str]:
    """For a process with so many threads, and a Ray of its own."""
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**own, "OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}


@app.command()
def run(source: Path, folder: Path, workers: int = 0, part_pairs: PartPairs = 10_000) -> None:
    """Rescore a file, and print pairs, pairs a second once a model is loaded, and the peak memory in MB as JSON."""
    files = CandidateFiles.of(source)
    with begun(folder, files, {"device": "cpu"}, pairs=part_pairs) as work, ExitStack() as stack:
        engine: Engine = local
        if workers:
            from secondpass.ray import Pool, started

            engine = Pool(stack.enter_context(started(workers)), workers)
        ends = []
        for done in engine(work):
            ends.append((time.perf_counter(), done.seconds, done.pairs))
    first = min(end - seconds for end, seconds, _ in ends)
    pairs = sum(each for *_, each in ends)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\n{json.dumps({'pairs': pairs, 'rate': pairs / (ends[-1][0] - first), 'peak': peak})}")


@app.command()
def compare(pairs: PairCount = 200_000, part_pairs: PartPairs = 10_000, words: Words = 40, rounds: int = 3) -> None:
    """Pairs per second of one process and of workers."""
    plans = {"one process, 2 threads": 0, "1 worker": 1, "2 workers": 2}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
    with workplace(pairs, words) as folder:
        for _ in range(rounds):
            for name, workers in plans.items():
                found[name].append(measured(folder, "run", workers, part_pairs))
                say(f"{name}: {found[name][-1]['rate']:,.0f} pairs/s, {found[name][-1]['whole']:,.0f} with the start; "
                    f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    plain, one, two = ([each["rate"] for each in found[name]] for name in plans)
    starts = [each["whole"] for each in found["one process, 2 threads"]], [each["whole"] for each in found["2 workers"]]
    more = statistics.median(b / a for a, b in zip(one, two, strict=True))
    slower = 1 - statistics.median(b / a for a, b in zip(plain, two, strict=True))
    whole = 1 - statistics.median(b / a for a, b in zip(*starts, strict=True))
    say(f"{processor()}, {pairs:,} pairs, medians of {rounds}: two workers are {more:.2f} times one, and {slower:+.1%} "
        f"slower than one process with two threads ({whole:+.1%} with the start)")  # fmt: skip
    raise typer.Exit(int(more < 1.85 or slower > 0.10))


@app.command()
def memory(pairs: PairCount = 2_000_000, part_pairs: PartPairs = 10_000, fewer: int = 10_000) -> None:
    """Peak memory of the driver at few and at many short pairs."""
    peaks = []
    for count in (fewer, pairs):
        with workplace(count, 3) as folder:
            told = measured(folder, "run", 2, min(part_pairs, count // 4))
        peaks.append(told["peak"])
        say(f"{count:,} pairs: {told['peak']:.0f} MB at the peak, {told['seconds']:.0f} s")
    raise typer.Exit(int(peaks[1] > 1.15 * peaks[0]))


# ---- What is left when things die.


def rows(folder: Path) -> Any:
    """All rows of a run."""
    from pyarrow import dataset

    return dataset.dataset(folder, format="parquet").to_table()


def undisturbed(folder: Path, part_pairs: int) -> Any:
    """The rows by this process."""
    with begun(folder / "local", CandidateFiles.of(folder / "in.parquet"), {"device": "cpu"}, pairs=part_pairs) as work:
        for _ in local(work):
            pass
    return rows(folder / "local")


def driver(folder: Path, part_pairs: int, **more: str) -> subprocess.Popen[bytes]:
    """The command, as a process."""
    command = [sys.executable, "-m", "secondpass.cli", "rescore", str(folder / "in.parquet"), str(folder / "run")]
    command += ["--on", "ray", "--device", "cpu", "--part-pairs", str(part_pairs)]
    log = (folder / "log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment(2) | more, start_new_session=True)


def parts_there(folder: Path) -> int:
    """How many parts are done."""
    return len(list((folder / "run").glob("part-*.parquet")))


@app.command()
def kill(pairs: PairCount = 100_000, kills: int = 50, part_pairs: PartPairs = 500, words: Words = 20,
         seed: int = 1, drivers: float = 0.2) -> None:  # fmt: skip
    """SIGKILL workers and drivers, `drivers` of the kills, each once a part more is done, until there were so many."""
    psutil: Any = import_module("psutil")
    generator, died = random.Random(seed), {"worker": 0, "driver": 0}
    with workplace(pairs, words) as folder:
        wanted = undisturbed(folder, part_pairs)
        process = driver(folder, part_pairs)
        seen = 0
        while process.poll() is None or process.returncode != 0:
            if process.poll() is not None:
                if process.returncode != -signal.SIGKILL:
                    raise RuntimeError((folder / "log").read_text()[-3000:])
                process = driver(folder, part_pairs)
            time.sleep(generator.uniform(0.1, 2))
            if sum(died.values()) >= kills or parts_there(folder) == seen:
                continue  # else the work would never end
            with suppress(psutil.Error):
                under = psutil.Process(process.pid).children(recursive=True)
                victims = [each for each in under if "PartWriter" in " ".join(each.cmdline())]
                kind = "driver" if generator.random() < drivers else "worker"
                if kind == "worker" and not victims:
                    continue
                (psutil.Process(process.pid) if kind == "driver" else generator.choice(victims)).kill()
                died[kind] += 1
                seen = parts_there(folder)
                say(f"{kind} killed, {seen} parts done, load {os.getloadavg()[0]:.1f}")
        found = rows(folder / "run")
        log = (folder / "log").read_text()
    same = found.equals(wanted)
    say(f"{died['worker']} workers and {died['driver']} drivers killed, {log.count('a worker died')} deaths told; "
        f"{found.num_rows:,} rows, {'the same' if same else 'OTHERS'} as undisturbed")  # fmt: skip
    raise typer.Exit(int(not same or sum(died.values()) < kills))


@app.command()
def cluster(pairs: PairCount = 20_000, part_pairs: PartPairs = 500, words: Words = 20, cores: int = 1) -> None:
    """Two nodes with so many cores; one goes when a third of the parts is done."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # all on loopback
    from ray.cluster_utils import Cluster

    options: dict[str, Any] = {"num_cpus": cores, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.1"}
    with workplace(pairs, words) as folder:
        wanted = undisturbed(folder, part_pairs)
        nodes: Any = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        other = nodes.add_node(**options)
        process = driver(folder, part_pairs, RAY_ADDRESS=nodes.address)
        began = time.monotonic()
        while process.poll() is None and parts_there(folder) < -(-pairs // part_pairs) // 3:
            time.sleep(0.1)
        done = parts_there(folder)
        nodes.remove_node(other, allow_graceful=False)
        say(f"a node removed with {done} parts done after {time.monotonic() - began:.0f} s")
        code = process.wait()
        nodes.shutdown()
        log = (folder / "log").read_text()
        same = code == 0 and rows(folder / "run").equals(wanted)
    say(f"ended with {code} after {time.monotonic() - began:.0f} s; rows {'the same' if same else f'OTHERS: {log}'}")
    raise typer.Exit(int(not same))


if __name__ == "__main__":
    app()
