"""A share of the queries set aside: which, how many, and what would leak."""

from __future__ import annotations

import random

import pytest

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group
from secondpass.training.measuring.held_out import held_out, queries_in_both


def groups(count: int) -> list[Group]:
    """Two groups a query."""
    return [
        Group(f"query {number}", (f"document {part}",), (float(part),)) for number in range(count) for part in (0, 1)
    ]


@pytest.mark.parametrize(("share", "held"), [(0.1, 5), (0.5, 25), (0.001, 1), (0.999, 49)])
def test_share_of_the_queries(share: float, held: int) -> None:
    """All groups of a query go together, in order; one is held out and one left at least."""
    kept, out = held_out(groups(50), share)
    assert len({group.query for group in out}) == held
    assert len(out) == 2 * held
    assert {group.query for group in kept}.isdisjoint(group.query for group in out)
    assert sorted(kept + out, key=groups(50).index) == groups(50)
    assert kept == sorted(kept, key=groups(50).index)


def test_order_does_not_matter_and_the_seed_does() -> None:
    """The same queries are chosen whatever their order; another seed chooses others."""
    mixed = groups(50)
    random.Random(1).shuffle(mixed)
    chosen = {group.query for group in held_out(groups(50), 0.2)[1]}
    assert {group.query for group in held_out(mixed, 0.2)[1]} == chosen
    assert {group.query for group in held_out(groups(50), 0.2, seed=1)[1]} != chosen


def test_more_data_moves_few_queries() -> None:
    """Of what was held out before, most still is when a tenth more queries come."""
    before = {group.query for group in held_out(groups(100), 0.2)[1]}
    after = {group.query for group in held_out(groups(110), 0.2)[1]}
    assert len(before & after) >= 17


def test_spellings_of_one_query_stay_together() -> None:
    """Case and white space make no new query, which would be half learnt from."""
    both = [Group("How  so", ("a",), (1.0,)), Group("how so ", ("b",), (0.0,)), Group("other", ("c",), (1.0,))]
    kept, out = held_out(both, 0.5)
    assert sorted((len(kept), len(out))) == [1, 2]
    assert queries_in_both(both, ["HOW SO", "how so", "new"]) == 1
    assert queries_in_both(both, []) == 0


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_bad_shares(share: float) -> None:
    """Nothing or everything cannot be held out."""
    with pytest.raises(InvalidInput, match="dev_share="):
        held_out(groups(5), share)


def test_too_few_queries_and_strange_ones() -> None:
    """One query cannot be divided; a lone surrogate is a query like others."""
    with pytest.raises(InvalidInput, match="1 query cannot be divided"):
        held_out(groups(1), 0.5)
    with pytest.raises(InvalidInput, match="0 query"):
        held_out([], 0.5)
    assert len(held_out([*groups(2), Group("\ud800", ("a",), (1.0,))], 0.3)[1]) >= 1
