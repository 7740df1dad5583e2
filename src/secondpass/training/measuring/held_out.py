"""A share of the training queries set aside, to measure on what was not learnt from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from secondpass.errors import InvalidInput
from secondpass.training.data.groups import Group


def held_out(groups: Sequence[Group], share: float, seed: int = 0) -> tuple[list[Group], list[Group]]:
    """Split groups into those to learn from and those to measure on, in order; all groups of a query go together.

    Which queries are held out depends on their texts, the share and the seed alone, not on their order: more training
    data moves few of them.

    Args:
        groups: at least two different queries.
        share: of the queries, above 0 and below 1; at least one query is held out and one is left.
        seed: of the choice.

    Raises:
        InvalidInput: the share is out of its range, or there are fewer than two queries.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"dev_share={share!r} is not between 0 and 1")
    queries = {_plain(group.query) for group in groups}
    if len(queries) < 2:
        raise InvalidInput(f"dev_share={share!r}: {len(queries)} query cannot be divided")
    ordered = sorted(queries, key=lambda query: (_drawn(query, seed), query))
    chosen = set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])
    kept = [group for group in groups if _plain(group.query) not in chosen]
    return kept, [group for group in groups if _plain(group.query) in chosen]


def queries_in_both(train: Iterable[Group], other: Iterable[str]) -> int:
    """How many of the `other` query texts are learnt from too, but for case and white space."""
    known = {_plain(group.query) for group in train}
    return len({_plain(query) for query in other} & known)


def _plain(query: str) -> str:
    return " ".join(query.casefold().split())


def _drawn(query: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{query}".encode("utf-8", "surrogatepass")).digest()
