"""Rules of `secondpass.batches`."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from secondpass.batches import batch_of, plan
from secondpass.tokens import Tokens


@given(st.lists(st.integers(1, 512), max_size=200), st.integers(1, 4096), st.integers(1, 64))
def test_every_pair_is_in_one_batch_within_both_limits(lengths: list[int], budget: int, pairs: int) -> None:
    """A permutation; only a pair that is longer than the budget by itself may exceed it, alone."""
    batches = plan(lengths, budget, pairs)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) <= pairs
        assert len(rows) == 1 or max(lengths[row] for row in rows) * len(rows) <= budget


@given(st.lists(st.integers(1, 512), max_size=200), st.integers(1, 4096), st.integers(1, 64))
def test_without_padding_the_budget_is_of_real_tokens(lengths: list[int], budget: int, pairs: int) -> None:
    """Batches are as full as they can be: the next pair would not have fitted."""
    batches = plan(lengths, budget, pairs, padded=False)
    assert [row for rows in batches for row in rows] == sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for rows, following in itertools.pairwise([*batches, ()]):
        filled = sum(lengths[row] for row in rows)
        assert len(rows) == 1 or (filled <= budget and len(rows) <= pairs)
        assert not following or len(rows) == pairs or filled + lengths[following[0]] > budget


def test_batches_go_from_long_to_short_and_ties_keep_their_order() -> None:
    """The largest batch comes first, where running out of memory costs least."""
    assert plan([3, 9, 3, 9, 3], 18, 2) == [(1, 3), (0, 2), (4,)]


def _tokens(*ids: int) -> Tokens:
    return Tokens(np.asarray(ids, np.int32), np.asarray([1] * len(ids), np.int32))


def test_a_batch_counts_real_tokens_and_places() -> None:
    """The rows say where in the call its inputs stand."""
    batch = batch_of([_tokens(5, 6), _tokens(7), _tokens(7, 8, 9)], (2, 0))
    assert batch.rows == (2, 0)
    assert [item.ids.tolist() for item in batch.inputs] == [[7, 8, 9], [5, 6]]
    assert (batch.tokens, batch.places) == (5, 6)
