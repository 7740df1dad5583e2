"""So many at once, and nobody once the service is leaving."""

from __future__ import annotations

import pytest

from secondpass.serving.admission import Admission
from secondpass.serving.problems import Problem


def test_places_are_taken_and_given_back() -> None:
    """Also by a request that fails."""
    admission = Admission(1)
    with admission.place():
        with pytest.raises(Problem) as full, admission.place():
            raise AssertionError
        assert (full.value.status, full.value.headers["Retry-After"]) == (429, "1")
    with pytest.raises(KeyError), admission.place():
        raise KeyError
    assert admission.in_flight == 0


def test_draining_takes_nothing_new_and_waits_for_what_is_there() -> None:
    """It ends when nothing is in flight, or at last anyway."""
    admission = Admission(2)
    assert not admission.drained(0, 0)
    with admission.place():
        admission.drain()
        with pytest.raises(Problem) as leaving, admission.place():
            raise AssertionError
        assert (leaving.value.status, leaving.value.headers["Connection"]) == (503, "close")
        assert not admission.drained(0, 1000)
        assert admission.drained(0, 0)
    assert admission.drained(0, 1000)
    assert not admission.drained(1000, 1000)
