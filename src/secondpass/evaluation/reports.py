"""What an evaluation found: values by measure and query, and which queries count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Coverage:
    """Queries by what they could contribute.

    `measured` queries make the means. Of them, `unanswered` are not in the run: they count as an empty ranking.
    `without_relevant` have judgements but no relevant document: no order of theirs is better than another, so they
    are left out unless asked for. `unjudged` queries of the run have no judgement and are left out.
    """

    measured: int
    unanswered: tuple[str, ...] = ()
    without_relevant: tuple[str, ...] = ()
    unjudged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One run's figures.

    Attributes:
        system: the run's name.
        values: by measure (named as ir_measures names it) the value of each query, in the judgements' order.
        means: by measure its aggregate: the mean, for counts such as NumRet the sum.
        coverage: which queries count.
    """

    system: str
    values: Mapping[str, Mapping[str, float]]
    means: Mapping[str, float]
    coverage: Coverage

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, in the order in which they were asked for."""
        return tuple(self.values)

    @property
    def queries(self) -> tuple[str, ...]:
        """Ids of the queries that count."""
        return tuple(next(iter(self.values.values()), {}))
