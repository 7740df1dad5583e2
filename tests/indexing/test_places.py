"""Sets of places as ranges."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from secondpass_indexing.places import Places

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=30)


@given(RANGES)
def test_ranges_are_the_set_that_was_added(ranges: list[tuple[int, int]]) -> None:
    """Whatever overlaps, touches or is empty."""
    places, expected = Places(), set()
    for start, length in ranges:
        places.add(start, start + length)
        expected |= set(range(start, start + length))
        assert len(places) == len(expected)
    assert {place for place in range(-2, 60) if place in places} == expected
