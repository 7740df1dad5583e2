"""Pieces of work under way at once."""

from __future__ import annotations

import threading

import pytest

from secondpass_indexing.delivery import Delivered
from secondpass_indexing.pump import pump
from secondpass_indexing.work import Work


def pieces(count: int) -> list[Work]:
    """Empty pieces at the places 0, 1, ..."""
    return [Work(place, place + 1, ()) for place in range(count)]


def test_works_are_taken_when_there_is_room() -> None:
    """Reading never runs ahead by more than what is under way."""
    taken, told = [], []
    room = threading.Semaphore(0)

    def stream():
        for work in pieces(9):
            taken.append(work.start)
            if len(taken) > 3:
                # The fourth is taken when the first three are under way; from then on one is let through at a time.
                room.release()
            yield work
        for _ in range(3):
            room.release()

    def deliver(work: Work) -> Delivered:
        assert room.acquire(timeout=10)
        assert len(taken) - len(told) <= 3 + 3
        return Delivered(work)

    pump(stream(), deliver, lambda done: told.append(done.work.start), 3, threading.Event())
    assert sorted(told) == taken == list(range(9))


def test_what_is_under_way_is_told_before_an_error_is_raised() -> None:
    """The stop is set, so that others end soon."""
    stop, told = threading.Event(), []

    def deliver(work: Work) -> Delivered:
        if work.start == 0:
            raise ValueError("first")
        assert stop.wait(10)
        return Delivered(work)

    with pytest.raises(ValueError, match="first"):
        pump(pieces(5), deliver, lambda done: told.append(done.work.start), 2, stop)
    assert told == [1]


def test_an_error_of_the_stream_ends_it_the_same_way() -> None:
    """A corpus that cannot be read on, for one."""
    stop, told = threading.Event(), []

    def stream():
        yield from pieces(1)
        raise ValueError("unreadable")

    with pytest.raises(ValueError, match="unreadable"):
        pump(stream(), Delivered, lambda done: told.append(done.work.start), 2, stop)
    assert told == [0]
    assert stop.is_set()
