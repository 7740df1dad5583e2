"""The service as it runs, under load: every answer right, none lost, memory flat.

SECONDPASS_LOAD_SECONDS=120 runs the first test for as long as the release does; 4 seconds otherwise.
SECONDPASS_LOAD_MODEL names another model than the tiny one, e.g. secondpass/pocket.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.service import Asked, Crowd
from secondpass import CrossEncoder
from tests.serving.conftest import Serve, until
from tests.serving.load.asking import Requests
from tests.serving.load.clients import Tally, ask_together
from tests.serving.load.real_service import RealService, real_service

SECONDS = float(os.environ.get("SECONDPASS_LOAD_SECONDS", "4"))
CLIENTS = 50


@pytest.fixture(scope="module")
def model(tiny_folder: str) -> str:
    """What is served."""
    return os.environ.get("SECONDPASS_LOAD_MODEL", tiny_folder)


@pytest.fixture(scope="module")
def requests(model: str) -> Requests:
    """Requests with the answers that the model gives in process."""
    return Requests(CrossEncoder(model, device="cpu"))


async def memory(service: RealService, seconds: float) -> list[float]:
    """Megabytes of the service, ten times a second."""
    end, seen = time.monotonic() + seconds, []
    while time.monotonic() < end:
        seen.append(service.resident_mb())
        await asyncio.sleep(0.1)
    return seen


def test_fifty_clients_get_every_answer_and_memory_stays_flat(tmp_path: Path, model: str, requests: Requests) -> None:
    """Mixed sizes and shapes: all answers are the in-process ones, the log agrees, memory does not grow."""

    async def load(service: RealService) -> tuple[Tally, list[float]]:
        end = time.monotonic() + SECONDS
        going = ask_together(service.url, requests, CLIENTS, lambda tally: time.monotonic() < end)
        return await asyncio.gather(going, memory(service, SECONDS))

    with real_service(tmp_path, model) as service:
        tally, megabytes = asyncio.run(load(service))
        service.terminate()
        assert service.process.wait(60) == 0
        logged = service.requests()
    half = statistics.median(megabytes[len(megabytes) // 4 : len(megabytes) // 2])
    last = statistics.median(megabytes[-max(1, len(megabytes) // 4) :])
    figures = {
        "seconds": SECONDS,
        "requests": tally.sent,
        "pairs": tally.pairs,
        "p50_ms": round(1000 * tally.percentile(0.5)),
        "p95_ms": round(1000 * tally.percentile(0.95)),
        "p99_ms": round(1000 * tally.percentile(0.99)),
        "memory_mb": [round(megabytes[len(megabytes) * tenth // 10]) for tenth in range(10)] + [round(megabytes[-1])],
    }
    print(json.dumps(figures))  # noqa: T201
    assert tally.sent > CLIENTS
    assert tally.statuses == {200: tally.sent}
    assert (tally.wrong, tally.failed) == (0, {})
    assert len(logged) == tally.sent
    assert sum(line["pairs"] for line in logged) == tally.pairs
    assert last < 1.05 * half + 20


def test_overload_is_told_and_passes(tmp_path: Path, model: str, requests: Requests) -> None:
    """More than fits: 429 with Retry-After for some, right answers for the others, and afterwards for everybody."""
    options = ("--max-requests", "12", "--max-waiting-pairs", "400")
    with real_service(tmp_path, model, *options) as service:
        busy = asyncio.run(
            ask_together(
                service.url, requests, CLIENTS, lambda tally: min(tally.statuses[200], tally.statuses[429]) < 40
            )
        )
        calm = asyncio.run(ask_together(service.url, requests, 1, lambda tally: tally.sent < 20))
    assert set(busy.statuses) == {200, 429}
    assert (busy.wrong, busy.without_retry_after, busy.failed) == (0, 0, {})
    assert calm.statuses == {200: 20}
    assert calm.wrong == 0


def test_hostile_clients_cost_nobody_an_answer(serve: Serve) -> None:
    """Lists without end, no JSON, wrong fields, half request lines and half bodies beside questions.

    All questions are answered whole, what is refused is told, halves are ended. `benchmarks.service endure` has 500.
    """
    live = serve(head_s=0.5)
    host, port = live.url.removeprefix("http://").split(":")
    asked = [Asked("where is the cat", ("the mat", "a dog", "paris")), Asked("who sat", ("the cat",) * 20)]
    done = asyncio.run(Crowd(host, int(port), asked, 300).run(40))
    assert done.lost == 0
    assert {400, 422} <= set(done.refused) <= {400, 422, 429}
    assert done.asked[200] + done.refused.total() == 300
    assert done.ended >= 6
    assert live.client.get("/health").status_code == 200
    until(lambda: live.service.admission.in_flight == 0)


def test_a_request_larger_than_may_ever_wait_is_no_overload(tmp_path: Path, model: str, requests: Requests) -> None:
    """Told once, not to be repeated; others are answered beside it."""
    with real_service(tmp_path, model, "--max-waiting-pairs", "60") as service:
        large = asyncio.run(ask_together(service.url, requests, 1, lambda tally: tally.sent < 3, sizes=(100,)))
        small = asyncio.run(ask_together(service.url, requests, 1, lambda tally: tally.sent < 3, sizes=(5,)))
    assert large.statuses == {422: 3}
    assert small.statuses == {200: 3}


def test_sigterm_under_load_drops_nothing_accepted(tmp_path: Path, model: str, requests: Requests) -> None:
    """Every request that was in flight gets its right answer; later ones 503 or no connection; the exit code is 0."""
    after: list[int] = []

    with real_service(tmp_path, model) as service:

        def go_on(tally: Tally) -> bool:
            if tally.statuses[200] >= CLIENTS and not after:
                after.append(tally.sent - sum(tally.statuses.values()))
                service.terminate()
            return service.process.poll() is None and not tally.failed

        tally = asyncio.run(ask_together(service.url, requests, CLIENTS, go_on, sizes=(20, 50, 100)))
        assert service.process.wait(60) == 0
        logged = service.requests()
    assert after[0] > CLIENTS // 2
    # the service may be gone before anybody asks again
    assert set(tally.statuses) <= {200, 503}
    assert tally.wrong == 0
    # Work in flight at the signal was finished, and whatever the service answered has reached its client.
    assert tally.statuses[200] > CLIENTS
    assert Counter(line["status"] for line in logged) == tally.statuses
    # A connection can only fail once nothing is in flight and the service is gone.
    assert sum(tally.failed.values()) <= CLIENTS
