"""Several processes for one model in the service: how much more it scores, and that a reload under load loses nothing.

    python -m benchmarks.devices throughput --model l12 --output devices.json

`secondpass serve` with one process of one thread, and with a process for each of so many cores (`--device cpu,cpu`), by
turns; both are started first and warmed up, 16 clients ask the one whose turn it is. Medians of the rounds, and the
ratio. Clients and the service's own process share the cores with those that compute: with a small model their part of
the work shows, with one of many layers it does not. The scores of both have to be the same.

    python -m benchmarks.devices reload --requests 10000 --reloads 5

SIGHUP again and again while clients ask: ends with 1 unless every request got its whole answer, and every reload was
done. Needs the extra serve.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.inference.models import SHAPES, write_model
from benchmarks.service import Asked, ask, by_service, cpu_seconds, processor, questions, service

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ONE, SEVERAL = "one process", "several"


def family(pid: int) -> list[int]:
    """A process and those that it started."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(int(child) for thread in threads for child in thread.read_text(encoding="utf-8").split())]


def tell(figures: dict[str, Any], output: Path | None) -> None:
    """Print the figures, and write them where that is asked for."""
    told = json.dumps(figures, indent=1)
    typer.echo(told)
    if output is not None:
        output.write_text(told + "\n", encoding="utf-8")


@app.command()
def throughput(
    model: Annotated[str, typer.Option(help="Folder, name, or a shape: l6, l12, base.")] = "l12",
    workers: Annotated[int, typer.Option(min=2)] = 2,
    clients: Annotated[int, typer.Option(min=1)] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each client in a round.")] = 2,
    documents: Annotated[int, typer.Option(min=1, max=300, help="Documents of a request.")] = 100,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    least: Annotated[float, typer.Option(help="End with 1 below this ratio.")] = 0.0,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Measure both by turns and print the ratio."""
    asked = questions(clients * requests, documents)
    taken: dict[str, list[float]] = {ONE: [], SEVERAL: []}
    used: dict[str, list[float]] = {ONE: [], SEVERAL: []}
    answers: dict[str, list[Any]] = {}
    with ExitStack() as stack:
        place = model if model not in SHAPES else str(Path(stack.enter_context(TemporaryDirectory()), model))
        if model in SHAPES:
            write_model(model, Path(place))
        started = {
            ONE: stack.enter_context(service(place, 1)),
            SEVERAL: stack.enter_context(service(place, workers, options=("--device", ",".join(["cpu"] * workers)))),
        }
        for name, (host, port, _) in started.items():
            _, answers[name] = by_service(host, port, asked, clients)
        for number in range(rounds):
            # who was first the last time is second now
            for name in (ONE, SEVERAL) if number % 2 else (SEVERAL, ONE):
                host, port, pid = started[name]
                before = sum(map(cpu_seconds, family(pid)))
                taken[name].append(by_service(host, port, asked, clients)[0])
                used[name].append(sum(map(cpu_seconds, family(pid))) - before)
    scores = [
        [[(item["index"], item["relevance_score"]) for item in one["results"]] for one in answers[name]]
        for name in (ONE, SEVERAL)
    ]
    pairs = len(asked) * documents
    rates = {name: pairs / statistics.median(seconds) for name, seconds in taken.items()}
    ratios = [one / several for one, several in zip(taken[ONE], taken[SEVERAL], strict=True)]
    figures = {
        "cpu": processor(), "workers": workers, "model": model, "clients": clients, "pairs": pairs, "rounds": rounds,
        "pairs_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "ratio": round(statistics.median(ratios), 3), "ratio_by_round": [round(ratio, 3) for ratio in ratios],
        "cpu_ms_per_pair": {name: round(1000 * statistics.median(s) / pairs, 3) for name, s in used.items()},
        "same_scores": scores[0] == scores[1],
    }  # fmt: skip
    tell(figures, output)
    if statistics.median(ratios) < least or scores[0] != scores[1]:
        raise typer.Exit(1)


class Load:
    """Clients that ask one question after another until there are none left."""

    def __init__(self, host: str, port: int, asked: list[Asked], requests: int) -> None:
        self._address, self._asked, self._requests, self._numbers = (host, port), asked, requests, count()
        self.answered, self.lost = 0, list[str]()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Be one client."""
        while (number := next(self._numbers)) < self._requests:
            one = self._asked[number % len(self._asked)]
            try:
                (answer,) = ask(*self._address, [one.body])
                whole = len(answer["results"]) == len(one.documents)
            except (OSError, RuntimeError, ValueError) as error:
                whole, answer = False, {"error": str(error)}
            with self._lock:
                self.answered += whole
                if not whole:
                    self.lost.append(str(answer)[:200])


def serving_since(host: str, port: int) -> int:
    """When the first model that serves was loaded, in seconds since 1970."""
    connection = HTTPConnection(host, port, timeout=60)
    connection.request("GET", "/v1/models")
    created = int(json.loads(connection.getresponse().read())["data"][0]["created"])
    connection.close()
    return created


@app.command()
def reload(
    model: Annotated[str, typer.Option(help="Folder or name.")] = "secondpass/pocket",
    workers: Annotated[int, typer.Option(min=1)] = 2,
    clients: Annotated[int, typer.Option(min=1)] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Of all clients together.")] = 10_000,
    documents: Annotated[int, typer.Option(min=1, max=300, help="Documents of a request.")] = 5,
    reloads: Annotated[int, typer.Option(min=1)] = 5,
    limit_s: Annotated[float, typer.Option(help="How long one reload may take.")] = 300.0,
    output: Annotated[Path | None, typer.Option(help="JSON file.")] = None,
) -> None:
    """Load the model anew while clients ask."""
    asked, done, seconds = questions(64, documents), 0, list[float]()
    options = ("--device", ",".join(["cpu"] * workers))
    with service(model, workers, options=options) as (host, port, pid), ThreadPoolExecutor(clients) as pool:
        load = Load(host, port, asked, requests)
        began = time.perf_counter()
        crowd = [pool.submit(load.run) for _ in range(clients)]
        for number in range(reloads):
            while load.answered + len(load.lost) < requests * (number + 0.5) / reloads:
                time.sleep(0.05)
            before, start = serving_since(host, port), time.monotonic()
            while int(time.time()) <= before:
                time.sleep(0.05)
            os.kill(pid, signal.SIGHUP)
            while (changed := serving_since(host, port)) == before and time.monotonic() < start + limit_s:
                time.sleep(0.05)
            done += changed != before
            seconds.append(round(time.monotonic() - start, 2))
        for client in crowd:
            client.result()
        whole_s = time.perf_counter() - began
        left = len(family(pid)) - 1
    figures = {
        "cpu": processor(), "workers": workers, "model": model, "clients": clients, "requests": requests,
        "answered": load.answered, "lost": len(load.lost), "reloads": done, "seconds_of_reloads": seconds,
        "requests_per_second": round(requests / whole_s, 1), "processes_at_the_end": left, "first_lost": load.lost[:1],
    }  # fmt: skip
    tell(figures, output)
    if load.lost or done < reloads or load.answered != requests:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
