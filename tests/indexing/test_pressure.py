"""How large a request may be."""

from __future__ import annotations

from collections import deque

from secondpass_indexing.pressure import Pressure
from secondpass_indexing.settings import IndexingSettings
from secondpass_indexing.sink import Entry


def entries(*sizes: int) -> deque[Entry]:
    """Entries of these sizes."""
    return deque(Entry(str(number), {}, size) for number, size in enumerate(sizes))


def test_a_request_is_bounded_by_documents_and_bytes() -> None:
    """A larger document goes alone, and every request takes one."""
    pressure = Pressure(IndexingSettings(max_documents=3, max_bytes=100))
    waiting = entries(40, 40, 40, 500, 1, 1, 1, 1)
    taken = []
    while waiting:
        taken.append([entry.size for entry in pressure.take(waiting)])
    assert taken == [[40, 40], [40], [500], [1, 1, 1], [1]]


def test_complaints_halve_and_successes_grow() -> None:
    """Never below one document, never above the whole."""
    pressure = Pressure(IndexingSettings(max_documents=8))
    for _ in range(10):
        pressure.less()
    assert pressure.share == 1 / 8
    assert len(pressure.take(entries(*[1] * 9))) == 1
    for _ in range(20):
        pressure.more()
    assert pressure.share == 1.0
    assert len(pressure.take(entries(*[1] * 9))) == 8


def test_a_ceiling_in_bytes_stays() -> None:
    """What the server refused once it will refuse again."""
    pressure = Pressure(IndexingSettings(max_documents=100, max_bytes=1_000))
    pressure.too_large(800)
    pressure.more()
    assert len(pressure.take(entries(*[100] * 10))) == 4
    pressure.too_large(10_000)
    assert len(pressure.take(entries(*[100] * 10))) == 4
