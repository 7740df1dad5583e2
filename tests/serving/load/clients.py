"""Many clients at once, each asking one thing after another, and what became of every request."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from tests.serving.load.asking import SIZES, Asked, Requests

TIMEOUT_S = 120.0


@dataclass
class Tally:
    """Outcomes of requests: answers by status, how many of the good ones were wrong, and connections that failed."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    pairs: int = 0
    without_retry_after: int = 0
    seconds: list[float] = field(default_factory=list)

    def note(self, asked: Asked, response: httpx.Response, seconds: float) -> None:
        """Count an answer."""
        self.statuses[response.status_code] += 1
        self.seconds.append(seconds)
        if response.status_code == 200:
            self.pairs += len(asked.expected)
            self.wrong += not asked.right(response.json())
        elif response.status_code == 429:
            self.without_retry_after += int(response.headers.get("Retry-After", "0")) < 1

    def percentile(self, share: float) -> float:
        """Seconds that this share of the answers took at most."""
        return sorted(self.seconds)[int(share * (len(self.seconds) - 1))]


async def ask_together(
    url: str,
    requests: Requests,
    clients: int,
    go_on: Callable[[Tally], bool],
    sizes: tuple[int, ...] = SIZES,
    pause_s: float = 0.0,
) -> Tally:
    """Let clients ask until `go_on` says no; a request that was begun is awaited."""
    tally = Tally()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:

        async def ask(seed: int) -> None:
            draw = random.Random(seed)
            while go_on(tally):
                asked = requests.draw(draw, sizes)
                tally.sent += 1
                began = time.monotonic()
                try:
                    response = await client.post(asked.path, json=asked.body)
                except httpx.TransportError as error:
                    tally.failed[type(error).__name__] += 1
                    continue
                tally.note(asked, response, time.monotonic() - began)
                await asyncio.sleep(pause_s if response.status_code == 200 else 0.01)

        await asyncio.gather(*(ask(seed) for seed in range(clients)))
    return tally
