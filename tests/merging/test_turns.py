"""Rules of `secondpass.merging.turns`: whose pairs come next, and that nobody starves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.merging.calls import Call
from secondpass.merging.turns import next_batch
from secondpass.tokens import Tokens

SPEED = 0.001  # seconds a token


def call(lengths: Sequence[int], arrived: float = 0.0) -> Call:
    """Make a call whose pairs, all different, have these many tokens."""
    made = Call([""] * len(lengths), [""] * len(lengths), None)
    made.arrived = arrived
    made.add([Tokens(np.full(n, row, np.int32), np.zeros(n, np.int32)) for row, n in enumerate(lengths)], 0.0)
    return made


def lengths_of(calls: Sequence[Call], budget: int, padded: bool = False) -> list[tuple[int, list[int]]]:
    """Take a round: of each share the number of its call and its lengths."""
    shares = next_batch(calls, budget, padded, SPEED)
    return [(calls.index(share.call), [len(share.call.tokens[row]) for row in share.rows]) for share in shares]


def test_a_round_is_filled_across_calls_longest_first() -> None:
    """The call that could be done first begins, what is left of the budget goes to the next."""
    calls = [call([10, 30, 20]), call([5, 6, 50])]
    assert lengths_of(calls, 75) == [(0, [30, 20, 10])]
    assert lengths_of(calls, 75) == [(1, [50, 6, 5])]
    assert lengths_of(calls, 75) == []


def test_what_is_left_of_a_round_goes_to_the_next_call() -> None:
    """A model that could take more does."""
    calls = [call([10, 30]), call([35, 20])]
    assert lengths_of(calls, 75) == [(0, [30, 10]), (1, [35])]


def test_a_pair_longer_than_the_budget_goes_alone() -> None:
    """It has to be scored some time; nothing else makes the batch larger still."""
    calls = [call([200]), call([100, 100, 100])]
    assert lengths_of(calls, 100) == [(0, [200])]


@pytest.mark.parametrize(("padded", "expected"), [(False, [40, 10, 10, 10, 10, 10, 10]), (True, [40, 10])])
def test_padding_is_counted_where_there_is_some(padded: bool, expected: list[int]) -> None:
    """A rectangle is as wide as its longest pair."""
    assert lengths_of([call([40, *[10] * 6])], 100, padded) == [(0, expected)]


def test_a_small_call_overtakes_a_large_one_under_way() -> None:
    """Five documents do not wait for ten thousand."""
    calls = [call([10] * 10_000, arrived=0.0), call([10] * 5, arrived=3.0)]
    assert lengths_of(calls, 100)[0] == (1, [10] * 5)


def test_equal_calls_are_finished_one_after_another() -> None:
    """Who came first is done first; nobody's answer waits for everybody's."""
    calls = [call([10] * 20, arrived=0.001 * number) for number in range(3)]
    order = [number for _ in range(6) for number, _ in lengths_of(calls, 100)]
    assert order == [0, 0, 1, 1, 2, 2]


def test_a_large_call_is_not_overtaken_for_ever() -> None:
    """A small call arrives for every round: the large one is done after waiting about as long as it takes alone."""
    large = call([10] * 100, arrived=0.0)
    now, served_first = 0.0, 0
    while large.waiting:
        shares = next_batch([large, call([10] * 10, arrived=now)], 100, False, SPEED)
        served_first += shares[0].call is large
        now += 100 * SPEED
        assert now <= 2 * 1000 * SPEED + 2 * 100 * SPEED
    assert served_first == 10


@given(
    st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=20), min_size=1, max_size=6),
    st.integers(1, 100),
    st.booleans(),
)
def test_every_pair_is_taken_once_and_rounds_keep_to_the_budget(
    lengths: list[list[int]], budget: int, padded: bool
) -> None:
    """Whatever the calls: no pair is lost or doubled, and only a pair alone may be longer than a round."""
    calls = [call(own, arrived=float(number)) for number, own in enumerate(lengths)]
    taken: list[set[int]] = [set() for _ in calls]
    while shares := next_batch(calls, budget, padded, SPEED):
        pairs = sum(len(share.rows) for share in shares)
        assert pairs == 1 or sum(share.tokens for share in shares) <= budget
        for share in shares:
            own = taken[calls.index(share.call)]
            assert own.isdisjoint(share.rows)
            own.update(share.rows)
    assert [len(rows) for rows in taken] == [len(own) for own in lengths]
