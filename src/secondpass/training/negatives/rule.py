"""What may become a negative: ranks, scores and margins, checked when they are given."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int

Sampling = Literal["top", "random"]
Against = Literal["lowest", "highest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MiningRule:
    """Which candidates of a query are its negatives.

    The margins are those of Moreira et al. 2024, "NV-Retriever" (https://arxiv.org/abs/2407.15831), which does best
    with `relative_margin=0.05`; sentence-transformers' `mine_hard_negatives` has them under the same names.

    Attributes:
        negatives: for each query, at most.
        first: rank of the first candidate that may be one, from 1. Ranks are those of the candidates' list as it
            comes, without the documents that are judged relevant.
        last: rank of the last one; None takes the whole list.
        min_score: a candidate with a lower score is dropped.
        max_score: a candidate with a higher score is dropped.
        absolute_margin: a negative's score is lower than the positive's by more than this.
        relative_margin: the same as a share of the positive's score: 0.05 is five percent of its magnitude.
        rescore_margin: the same for the cross-encoder's scores (activated, as `predict` gives them).
        against: which of several positives the margins are measured from.
        sampling: "top" takes the best candidates that are left, "random" any of them.
        judged_first: documents judged and not relevant are taken before any other and, since somebody has looked at
            them, whatever their rank and score. False: they are candidates like all others.
        positives: for each query, at most, of the best grade first; None takes all.
        graded: labels are the grades; False: 1 for the positives. Negatives have 0.
        seed: of "random" and of the choice among positives. Each query is sampled by itself.
    """

    negatives: int = 5
    first: int = 1
    last: int | None = None
    min_score: float | None = None
    max_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    rescore_margin: float = 0.0
    against: Against = "lowest"
    sampling: Sampling = "top"
    judged_first: bool = True
    positives: int | None = None
    graded: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("negatives", "first"):
            positive_int(getattr(self, name), name)
        for name in ("last", "positives"):
            if getattr(self, name) is not None:
                positive_int(getattr(self, name), name)
        if self.last is not None and self.last < self.first:
            raise InvalidInput(f"last={self.last} is before first={self.first}")
        for name in ("min_score", "max_score", "absolute_margin", "relative_margin", "rescore_margin"):
            _check_number(getattr(self, name), name)
        for name, known in (("against", ("lowest", "highest")), ("sampling", ("top", "random"))):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{name}={getattr(self, name)!r} is none of {', '.join(known)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidInput(f"seed={self.seed!r} is not a whole number")

    @property
    def needs_scores(self) -> str | None:
        """The first setting that cannot be followed for a candidate without a score."""
        named = ("min_score", "max_score", "absolute_margin", "relative_margin")
        return next((name for name in named if getattr(self, name) is not None), None)

    def as_json(self) -> dict[str, object]:
        """Plain values, for reports."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def _check_number(value: object, name: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidInput(f"{name}={value!r} is not a finite number")
    if name.endswith("margin") and value < 0:
        raise InvalidInput(f"{name}={value!r} is below 0: negatives would outscore the positive")
