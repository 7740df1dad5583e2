"""The service beside the same pairs scored in process: what HTTP, JSON and merging cost.

    python -m benchmarks.service compare --threads 2 --output service.json

In process: `rank_many` over all queries at once. The service: `secondpass serve` as a process of its own on loopback,
16 clients that each ask for one query's documents after another over a connection that stays open. Both have the same
model and the same number of threads, are warmed up, and take turns; medians of the rounds. Clients run on the same
cores and are part of the price; their CPU seconds are told. Texts are the demo's passages and questions.

    python -m benchmarks.service endure --clients 500 --requests 50000

The service under clients of whom some are hostile: most ask, some send bodies that are refused (lists without end, no
JSON, wrong fields), some send half a request line or half a body and wait. Another process asks for /health all the
while. Ends with 1 unless every question was answered, /health stayed quick and memory flat.
Needs the extra serve.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from secondpass import machine

DEMO = Path(__file__).parents[1] / "src" / "secondpass" / "demo"
START_S = 180

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """One query with its documents, and the body that asks the service for them."""

    query: str
    documents: tuple[str, ...]

    @property
    def body(self) -> bytes:
        """As `/v2/rerank` takes it."""
        return json.dumps({"query": self.query, "documents": self.documents}).encode()


def questions(count: int, documents: int) -> list[Asked]:
    """`count` different (query, documents) of the demo, in a fixed random order."""
    corpus = [json.loads(line) for line in (DEMO / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    queries = [json.loads(line)["text"] for line in (DEMO / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [f"{row['title']} {row['text']}" for row in corpus]
    draw = random.Random(0)
    return [Asked(queries[number % len(queries)], tuple(draw.sample(texts, documents))) for number in range(count)]


@contextmanager
def service(
    model: str, threads: int, python: str = sys.executable, options: Sequence[str] = ()
) -> Iterator[tuple[str, int, int]]:
    """Start `secondpass serve`, perhaps by another interpreter; gives host, port and process id, and ends it."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    command = [python, "-m", "secondpass.cli", "serve", "--model", f"model={model}", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        with log.open("wb") as stderr:
            process = subprocess.Popen([*command, "--deadline-s", "600", *options], env=environment, stderr=stderr)
            try:
                address = urlsplit(_address(process, log))
                _until_ready(address.hostname or "", address.port or 0, process)
                yield address.hostname or "", address.port or 0, process.pid
            finally:
                process.terminate()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if '"address"' in line and line.endswith("}"):
                return str(json.loads(line)["address"])
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start:\n{log.read_text(encoding='utf-8')}")


def _until_ready(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """The address is told before the first connection is taken."""
    while process.poll() is None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        except ConnectionRefusedError:
            time.sleep(0.05)
        finally:
            connection.close()


def ask(host: str, port: int, bodies: Sequence[bytes]) -> list[dict[str, Any]]:
    """One client: every body over one connection."""
    connection = http.client.HTTPConnection(host, port, timeout=600)
    answers = []
    for body in bodies:
        connection.request("POST", "/v2/rerank", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {answer[:500]!r}")
        answers.append(json.loads(answer))
    connection.close()
    return answers


def by_service(host: str, port: int, asked: Sequence[Asked], clients: int) -> tuple[float, list[dict[str, Any]]]:
    """Seconds until all clients have all their answers, and the answers in the order of `asked`."""
    shares = [[one.body for one in asked[number::clients]] for number in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        parts = list(pool.map(lambda share: ask(host, port, share), shares))
        seconds = time.perf_counter() - began
    answers: list[dict[str, Any]] = [{} for _ in asked]
    for number, part in enumerate(parts):
        answers[number::clients] = part
    return seconds, answers


def differences(asked: Sequence[Asked], answers: Sequence[dict[str, Any]], rankings: Sequence[Any]) -> float:
    """The largest difference of a score."""
    worst = 0.0
    for one, answer, ranking in zip(asked, answers, rankings, strict=True):
        given = {item["index"]: item["relevance_score"] for item in answer["results"]}
        if len(given) != len(one.documents):
            raise RuntimeError(f"{len(given)} scores for {len(one.documents)} documents")
        worst = max(worst, *(abs(given[document.index] - document.score) for document in ranking.documents))
    return worst


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_cpu_seconds() -> float:
    """What this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def processor() -> str:
    """The CPU's name."""
    return str(machine.processor()["name"])


@app.command()
def compare(
    model: Annotated[str, typer.Option(help="Folder or name.")] = "secondpass/pocket",
    clients: Annotated[int, typer.Option(min=1)] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each client in a round.")] = 2,
    documents: Annotated[int, typer.Option(min=1, max=300, help="Documents of a request.")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="Of the model, in either process.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Measure both in turns and print the ratio."""
    import torch

    from secondpass import CrossEncoder

    torch.set_num_threads(threads)
    encoder = CrossEncoder(model, device="cpu")
    asked = questions(clients * requests, documents)
    queries, texts = [one.query for one in asked], [one.documents for one in asked]
    taken: dict[str, list[float]] = {"in process": [], "service": []}
    used: dict[str, list[float]] = {"in process": [], "service": [], "clients": []}
    with service(model, threads) as (host, port, pid):
        _, answers = by_service(host, port, asked[:clients], clients)
        difference = differences(asked[:clients], answers, encoder.rank_many(queries[:clients], texts[:clients]))
        for _ in range(rounds):
            before, began = own_cpu_seconds(), time.perf_counter()
            encoder.rank_many(queries, texts)
            taken["in process"].append(time.perf_counter() - began)
            used["in process"].append(own_cpu_seconds() - before)
            before, served = own_cpu_seconds(), cpu_seconds(pid)
            taken["service"].append(by_service(host, port, asked, clients)[0])
            used["clients"].append(own_cpu_seconds() - before)
            used["service"].append(cpu_seconds(pid) - served)
    pairs = len(asked) * documents
    rates = {name: pairs / statistics.median(seconds) for name, seconds in taken.items()}
    ratios = [a / b for a, b in zip(taken["in process"], taken["service"], strict=True)]
    figures = {
        "cpu": processor(), "threads": threads, "model": model, "clients": clients, "pairs": pairs, "rounds": rounds,
        "pairs_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": round(rates["service"] / rates["in process"], 3), "ratio_by_round": [round(r, 3) for r in ratios],
        "cpu_ms_per_pair": {n: round(1000 * statistics.median(s) / pairs, 3) for n, s in used.items()},
        "largest_difference": difference,
    }  # fmt: skip
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    show(figures)


# ---- A service among hostile clients
JSON_HEAD = (
    "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)
REFUSED = (
    b'{"query":"q","documents":[' + b"[]," * 60_000 + b"[]]}",
    b"[" * 50_000,
    json.dumps({"query": "q", "documents": [1] * 900}).encode(),
    json.dumps({"query": "q", "documents": ["a"]} | {f"field {number}": 1 for number in range(5000)}).encode(),
    '{"query": "q", "documents": ["a"]}'.encode("utf-16"),
)
HALVES = (b"GET /hea", b"POST /v2/rerank HTTP/1.1\r\nX-Long: ", JSON_HEAD.format(path="/v2/rerank", length=99).encode())
# Of twenty clients so many send what is refused, and so many halves.
IN_ALL, REFUSING, HALVING = 20, 4, 3
# What a client waits that was told to come back (Retry-After).
BACK_S = 1.0
SETTLED = 0.2


@dataclass(slots=True)
class Endured:
    """Answers to questions and to refused bodies by status, questions without their answer, halves that were ended."""

    asked: Counter[int]
    refused: Counter[int]
    lost: int = 0
    ended: int = 0


@asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> tuple[int, bytes]:
    """Send a body; gives status and answer."""
    writer.write(JSON_HEAD.format(path="/v2/rerank", length=len(body)).encode() + body)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
    return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


class Crowd:
    """Clients that go on together until `requests` questions and refused bodies were sent; each of these is awaited."""

    def __init__(self, host: str, port: int, asked: Sequence[Asked], requests: int) -> None:
        self._address = host, port
        self._asked = asked
        self._numbers = iter(range(requests))
        self.done = Endured(Counter(), Counter())

    async def run(self, clients: int) -> Endured:
        """Give what became of it all."""
        halving = clients * HALVING // IN_ALL
        kinds: list[Callable[[], Any]] = [self._ask] * (IN_ALL - REFUSING - HALVING) + [self._refused] * REFUSING
        halves = [asyncio.create_task(self._half(number)) for number in range(halving)]
        await asyncio.gather(*(kinds[number % len(kinds)]() for number in range(clients - halving)))
        for half in halves:
            half.cancel()
        await asyncio.gather(*halves, return_exceptions=True)
        return self.done

    async def _ask(self) -> None:
        async with _connected(*self._address) as (reader, writer):
            for number in self._numbers:
                asked = self._asked[number % len(self._asked)]
                try:
                    while (answer := await _answer(reader, writer, asked.body))[0] == 429:
                        self.done.asked[429] += 1
                        await asyncio.sleep(BACK_S)
                except (OSError, EOFError):
                    self.done.lost += 1
                    return
                self.done.asked[answer[0]] += 1
                is_whole = answer[0] == 200 and len(json.loads(answer[1])["results"]) == len(asked.documents)
                self.done.lost += not is_whole

    async def _refused(self) -> None:
        for number in self._numbers:
            with suppress(OSError, EOFError):
                async with _connected(*self._address) as (reader, writer):
                    status, _ = await _answer(reader, writer, REFUSED[number % len(REFUSED)])
                    self.done.refused[status] += 1
                    if status == 429:
                        await asyncio.sleep(BACK_S)

    async def _half(self, number: int) -> None:
        while True:
            with suppress(OSError):
                async with _connected(*self._address) as (reader, writer):
                    writer.write(HALVES[number % len(HALVES)])
                    await reader.read()
                    self.done.ended += 1


def _endure(host: str, port: int, asked: Sequence[Asked], clients: int, requests: int, queue: Any) -> None:
    queue.put(asyncio.run(Crowd(host, port, asked, requests).run(clients)))


def resident_mb(pid: int) -> float:
    """Memory of a process in MB."""
    return int(Path(f"/proc/{pid}/status").read_text(encoding="utf-8").split("VmRSS:")[1].split()[0]) / 1024


def health(host: str, port: int) -> float:
    """Seconds until /health answers on a connection of its own."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/health")
    if connection.getresponse().status != 200:
        raise RuntimeError("/health is not 200")
    connection.close()
    return time.perf_counter() - began


@app.command()
def endure(
    model: Annotated[str, typer.Option(help="Folder or name.")] = "secondpass/pocket",
    clients: Annotated[int, typer.Option(min=20, help="At once, the hostile ones included.")] = 500,
    requests: Annotated[int, typer.Option(min=100, help="Questions and refused bodies, all together.")] = 50_000,
    documents: Annotated[int, typer.Option(min=1, max=300, help="Documents of a question.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Of the model.")] = 1,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Ask among hostile clients, and say what became of it; ends with 1 where the service broke a promise."""
    asked = questions(200, documents)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    seconds, megabytes = [], []
    with service(model, threads) as (host, port, pid):
        load = context.Process(target=_endure, args=(host, port, asked, clients, requests, queue))
        load.start()
        while load.is_alive() and queue.empty():
            seconds.append(health(host, port))
            megabytes.append(resident_mb(pid))
            time.sleep(0.02)
        done: Endured = queue.get(timeout=60)
        load.join()
    settled = max(megabytes[: max(1, int(SETTLED * len(megabytes)))])
    seconds.sort()
    p99, most = (round(1000 * seconds[int(share * (len(seconds) - 1))], 1) for share in (0.99, 1))
    figures = {
        "cpu": processor(), "model": model, "clients": clients, "asked": done.asked, "refused": done.refused,
        "halves_ended": done.ended, "lost": done.lost, "health_asked": len(seconds),
        "health_ms": {"p50": round(1000 * statistics.median(seconds), 1), "p99": p99, "most": most},
        "memory_mb": {"settled": round(settled), "last": round(megabytes[-1])},
    }  # fmt: skip
    Console().print_json(data=figures)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    kept = done.lost == 0 and p99 < 250 and megabytes[-1] < 1.1 * settled
    raise typer.Exit(not kept)


def show(figures: dict[str, Any]) -> None:
    """Print a table."""
    table = Table(title=f"{figures['model']}, {figures['threads']} threads, {figures['cpu']}")
    for name in ("", "pairs/s", "CPU ms a pair"):
        table.add_column(name, justify="left" if not name else "right")
    for name, used in figures["cpu_ms_per_pair"].items():
        rate = figures["pairs_per_second"].get(name)
        table.add_row(name, "" if rate is None else f"{rate:.1f}", f"{used:.3f}")
    Console().print(table)
    Console().print(
        f"{figures['clients']} clients: {100 * figures['ratio']:.1f} % of in-process throughput; "
        f"largest difference of a score {figures['largest_difference']:.1e}"
    )


if __name__ == "__main__":
    app()
