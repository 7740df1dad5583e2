"""What mining gives: groups with their scores, and a report of what was dropped and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from secondpass.training.data.groups import Group

SHOWN = 5


@dataclass(frozen=True, slots=True)
class MiningReport:
    """Counts of one mining.

    Attributes:
        queries: that were given, or judged.
        groups: made, one a query.
        positives: in them.
        negatives: in them.
        judged_negatives: of these, judged and not relevant.
        wanted: negatives that each query should have.
        considered: candidates, and judged documents, that were looked at.
        rescored: documents that the cross-encoder read.
        dropped: candidates by the first reason that dropped them, each reason of `sifting.REASONS`.
        missing: relevant documents that the corpus does not have, or whose text is blank.
        spare_positives: relevant documents beyond the rule's number.
        short: queries with fewer negatives than wanted, and how many they have.
        left_out: ids of the queries without a group, by reason.
    """

    queries: int
    groups: int
    positives: int
    negatives: int
    judged_negatives: int
    wanted: int
    considered: int
    rescored: int
    dropped: Mapping[str, int]
    missing: int
    spare_positives: int
    short: Mapping[str, int]
    left_out: Mapping[str, tuple[str, ...]]

    def lines(self) -> list[str]:
        """The report for people, a line a fact."""
        made = [
            f"Queries with a group: {self.groups} of {self.queries}; positives {self.positives}, negatives "
            f"{self.negatives} (judged and not relevant: {self.judged_negatives})"
        ]
        made += [f"Left out, {reason}: {_named(ids)}" for reason, ids in self.left_out.items()]
        counts = (
            ("Relevant documents that the corpus lacks, or that have no text", self.missing),
            ("Relevant documents beyond the number that a query may have", self.spare_positives),
            ("Documents read by the cross-encoder", self.rescored),
        )
        if self.short:
            made.append(f"Fewer than {self.wanted} negatives: {_named(tuple(self.short))}")
        made.append(f"Candidates: {self.considered}; dropped: {self._reasons()}")
        return made + [f"{name}: {count}" for name, count in counts if count]

    def _reasons(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in self.dropped.items() if count) or "none"


@dataclass(frozen=True, slots=True)
class Mined:
    """Groups, positives first, and for each document of each group its scores; None where there is none.

    Attributes:
        groups: one a query.
        report: what was dropped and why.
        first_pass_scores: of the candidates' list.
        cross_encoder_scores: activated, of what the cross-encoder read.
    """

    groups: tuple[Group, ...]
    report: MiningReport
    first_pass_scores: tuple[tuple[float | None, ...], ...]
    cross_encoder_scores: tuple[tuple[float | None, ...], ...]


def _named(ids: tuple[str, ...]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"{len(ids)} ({', '.join(ids[:SHOWN])}{more})"
