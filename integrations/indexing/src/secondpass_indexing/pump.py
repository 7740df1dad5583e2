"""Several pieces of work under way at once, and no more than that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from secondpass_indexing.delivery import Delivered
from secondpass_indexing.work import Work

Settled = Callable[[Delivered], None]


def pump(
    works: Iterable[Work],
    deliver: Callable[[Work], Delivered],
    settled: Settled,
    in_flight: int,
    stop: threading.Event,
) -> None:
    """Deliver all works; `settled` hears of each in this thread, in the order in which they are done.

    Works are taken one at a time, when there is room for them. When something fails, or Ctrl-C comes, `stop` is set,
    requests under way are waited for and what they settled is told too; then the error is raised.
    """
    pending: set[Future[Delivered]] = set()
    with ThreadPoolExecutor(in_flight, thread_name_prefix="indexing") as pool:
        try:
            for work in works:
                while len(pending) >= in_flight:
                    _settle_some(pending, settled)
                pending.add(pool.submit(deliver, work))
            while pending:
                _settle_some(pending, settled)
        except BaseException:
            stop.set()
            wait(pending)
            _tell(pending, settled)
            raise


def _settle_some(pending: set[Future[Delivered]], settled: Settled) -> None:
    """Wait until one is done at least, and take those that are out of `pending`."""
    done = wait(pending, return_when=FIRST_COMPLETED).done
    pending -= done
    failures = _tell(done, settled)
    if failures:
        raise failures[0]


def _tell(done: Iterable[Future[Delivered]], settled: Settled) -> list[BaseException]:
    failures = []
    for future in done:
        error = future.exception()
        if error is None:
            settled(future.result())
        else:
            failures.append(error)
    return failures
