"""The queries that a second pass helped and hurt most, with their texts: what a person reads first."""

from __future__ import annotations

from collections.abc import Mapping

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import Change
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Ranking, Run


def changes(
    qrels: Qrels,
    first: Run,
    second: Run,
    first_values: Mapping[str, float],
    second_values: Mapping[str, float],
    *,
    texts: Mapping[str, str] | None = None,
    count: int = 10,
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Find the queries whose value rose and fell most.

    Args:
        qrels: the judgements.
        first: the first pass.
        second: the second pass.
        first_values: one measure's value of each query in the first pass.
        second_values: the same queries' in the second.
        texts: the queries' texts by id.
        count: how many to give of each kind, at most.

    Returns:
        The helped, greatest rise first, and the hurt, greatest fall first; equal changes in the order of the values.

    Raises:
        InvalidInput: count is negative, or a query has a value in one pass only; the message names it.
    """
    if count < 0:
        raise InvalidInput(f"count={count!r} is negative")
    if single := sorted(first_values.keys() ^ second_values.keys()):
        raise InvalidInput(f"query {single[0]!r} has a value in one pass only")
    differences = {query: second_values[query] - value for query, value in first_values.items()}
    order = sorted(differences, key=lambda query: -differences[query])
    helped = [query for query in order[:count] if differences[query] > 0]
    order.sort(key=lambda query: differences[query])
    hurt = [query for query in order[:count] if differences[query] < 0]

    def change(query: str) -> Change:
        grades = qrels.get(query, {})
        return Change(
            query=query,
            text=(texts or {}).get(query, ""),
            first=first_values[query],
            second=second_values[query],
            first_rank=_first_relevant(first.get(query, {}), grades),
            second_rank=_first_relevant(second.get(query, {}), grades),
        )

    return tuple(map(change, helped)), tuple(map(change, hurt))


def _first_relevant(ranking: Ranking, grades: Mapping[str, int]) -> int | None:
    """Rank of the best-placed relevant document, from 1."""
    return next((rank for rank, document in enumerate(ranking, start=1) if grades.get(document, 0) > 0), None)
