"""When the larger model of a cascade may stop: a rule, and the queries it is calibrated on.

Margins that are measured on queries and then hold for all but a share of them are those of certified pruning (Li et al.
2022, https://arxiv.org/abs/2205.09638) and conformal risk control (Xu et al. 2024, https://arxiv.org/abs/2404.17769).
The latter's promise is about the mean; here it is about each sample of queries, and exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from secondpass.errors import InvalidInput
from secondpass.ranking import Ranked
from secondpass.text import finite_number, positive_int

__all__ = ["StoppingRule", "Trace", "calibrated", "misses_allowed"]

Doubles = npt.NDArray[np.float64]

# Documents that the larger model scores at a time.
PIECE = 32
# Every so many queries decide how the two models' logits go together, the others what is promised.
FITTED = 4
SLOPES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """Score in the smaller model's order, `piece` documents at a time, until the first `top_k` will stay as they are.

    That is when the larger model's logit of place `top_k` is more than `margin` above `slope` times the highest logit
    that the smaller model gave to what is left. Documents with equal logits are in one piece. An infinite margin scores
    all.

    Attributes:
        top_k: how many places it is about.
        margin: in logits of the larger model.
        slope: how much of the smaller model's logit counts, not negative.
        piece: documents scored at a time; the first piece has `top_k` at least.
        risk, confidence: what was promised: among as many further queries as it was calibrated on, all drawn alike, no
            more than the share `risk` is missed, with this probability. None: nothing.
        queries: how many it was calibrated on.
        missed: the share of these that it misses.
        read: the mean share of a query's documents that the larger model scores.
        by_labels: whether a query is missed where the DCG of its first `top_k` is lower than the larger model's; else
            where these documents are others.
    """

    top_k: int
    margin: float
    slope: float = 1.0
    piece: int = PIECE
    risk: float | None = None
    confidence: float | None = None
    queries: int = 0
    missed: float | None = None
    read: float | None = None
    by_labels: bool = False

    def __post_init__(self) -> None:
        positive_int(self.top_k, "top_k")
        positive_int(self.piece, "piece")
        if self.margin != math.inf:
            finite_number(self.margin, "margin")
        if finite_number(self.slope, "slope") < 0:
            raise InvalidInput(f"slope={self.slope!r} is below 0")

    def ends(self, logits: Sequence[float]) -> list[int]:
        """Where pieces end in documents with these logits of the smaller model, in its order."""
        made, end, count = [], 0, len(logits)
        while end < count:
            end = count if self.margin == math.inf else min(count, max(end + self.piece, self.top_k))
            while end < count and logits[end] == logits[end - 1]:
                end += 1
            made.append(end)
        return made

    def stops(self, scored: Sequence[float], left: Sequence[float]) -> bool:
        """Whether it is enough, by the larger model's logits and by the smaller one's of what is left."""
        if len(scored) < self.top_k or not left:
            return not left
        place = np.partition(np.asarray(scored, np.float64), -self.top_k)[-self.top_k]
        return bool(place - self.slope * max(left) > self.margin)


class Trace:
    """What a rule with these pieces would see of one query if it never stopped.

    Args:
        rule: for its places and pieces.
        small: the documents as the smaller model ranks them.
        large: all documents as the larger one does.
        grades: of each document, or None.

    Attributes:
        ends: documents scored after each piece.
        read: the same as shares of all documents.
        places: the larger model's logit of place `top_k` then, minus infinity where there is none.
        left: the smaller model's highest logit of what is left then.
        missed: whether stopping then would be wrong.
        products: of the two models' centred logits, and of the smaller one's with themselves.
    """

    def __init__(
        self, rule: StoppingRule, small: Sequence[Ranked], large: Sequence[Ranked], grades: Sequence[float] | None
    ) -> None:
        place_of = {one.index: place for place, one in enumerate(large)}
        order = np.array([place_of[one.index] for one in small], np.int64)
        logits = np.array([one.logit for one in large], np.float64)
        by_small = np.array([one.logit for one in small], np.float64)
        gains = None if grades is None else np.array([grades[one.index] for one in large], np.float64)
        self.ends = rule.ends(by_small.tolist()) or [0]
        self.read = np.array(self.ends) / max(1, len(large))
        centred = by_small - (by_small.mean() if len(small) else 0.0)
        self.products = float(centred @ logits[order]), float(centred @ centred)
        wanted = np.arange(min(rule.top_k, len(large)))
        best = [np.sort(order[:end])[: rule.top_k] for end in self.ends]
        self.places = np.array([logits[own[-1]] if len(own) == rule.top_k else -math.inf for own in best])
        self.left = np.array([by_small[end:].max(initial=-math.inf) for end in self.ends])
        self.missed = np.array(
            [
                not np.array_equal(own, wanted) if gains is None else _dcg(gains[own]) < _dcg(gains[wanted])
                for own in best
            ]
        )

    def threshold(self, slope: float) -> float:
        """The lowest margin that misses nothing, and nor does any above it; infinity where all pieces are too few."""
        if self.missed[-1]:
            return math.inf
        slacks = self.slacks(slope)
        highest = np.maximum.accumulate(np.concatenate([[-math.inf], slacks]))[:-1]
        return float(slacks[(slacks > highest) & self.missed[:-1]].max(initial=-math.inf))

    def slacks(self, slope: float) -> Doubles:
        """What is compared with the margin after each piece but the last."""
        made: Doubles = self.places[:-1] - slope * self.left[:-1]
        return made

    def stop(self, slope: float, margin: float) -> int:
        """The number of the piece after which it is enough."""
        enough = np.flatnonzero(self.slacks(slope) > margin)
        return int(enough[0]) if len(enough) else len(self.ends) - 1


def _dcg(gains: Doubles) -> float:
    """Rounded, for sums of the same numbers in another order."""
    return round(float((gains / np.log2(np.arange(len(gains)) + 2)).sum()), 9)


def calibrated(rule: StoppingRule, traces: Sequence[Trace], risk: float, confidence: float) -> StoppingRule:
    """The same rule with slope and margin: the larger model reads as little as the promise allows.

    Every fourth query decides the slope. Of the others the margin is the smallest that misses no more of them than
    `misses_allowed`.

    Raises:
        InvalidInput: as `misses_allowed`; or the documents of the smaller model lack too many of the best.
    """
    allowed = misses_allowed(len(traces), risk, confidence)
    fitted, measured = traces[::FITTED], [trace for row, trace in enumerate(traces) if row % FITTED]
    crossed, squared = np.sum([trace.products for trace in fitted], axis=0)
    unit = max(0.0, float(crossed / squared)) if squared else 0.0

    def read(own: Sequence[Trace], slope: float, margin: float) -> float:
        return float(np.mean([trace.read[trace.stop(slope, margin)] for trace in own]))

    few = math.floor(allowed / len(measured) * len(fitted))
    slope = min((unit * step for step in SLOPES), key=lambda slope: read(fitted, slope, _margin(fitted, slope, few)))
    margin = _margin(measured, slope, allowed)
    if margin == math.inf:
        raise InvalidInput(f"the models before the last lose too much for risk={risk:g}: let more documents go on")
    missed = float(np.mean([trace.missed[trace.stop(slope, margin)] for trace in measured]))
    share = read(measured, slope, margin)
    own = replace(rule, margin=margin, slope=slope, risk=risk, confidence=confidence)
    return replace(own, queries=len(traces), missed=missed, read=share)


def _margin(traces: Sequence[Trace], slope: float, allowed: int) -> float:
    """The smallest margin that misses no more than so many; a finite number also where none is needed."""
    needed = sorted((trace.threshold(slope) for trace in traces), reverse=True)[allowed]
    slacks = np.concatenate([trace.slacks(slope) for trace in traces])
    return max(needed, float(slacks[np.isfinite(slacks)].min(initial=0.0)))


def misses_allowed(queries: int, risk: float, confidence: float) -> int:
    """How many queries of those that a margin is measured on may be missed, for a promise about as many `queries`.

    Let k be missed. More than `risk` of the further queries are missed only where of the k + h hardest of all, h of the
    further ones being too many, at most k are among the measured: in a draw without replacement that is rarer than
    1 - `confidence`, whatever the queries are.

    Raises:
        InvalidInput: not even 0 are few enough (the message says how many queries are), or an argument is refused.
    """
    for name, share, least in (("risk", risk, 0.001), ("confidence", confidence, 0.5)):
        if not least <= finite_number(share, name) < 1:
            raise InvalidInput(f"{name}={share!r} is not from {least:g} to below 1")
    allowed = _allowed(queries, risk, confidence)
    if allowed < 0:
        needed = queries
        while _allowed(needed, risk, confidence) < 0:
            needed += 1
        raise InvalidInput(f"{queries} queries are too few to promise risk={risk:g} by {confidence:g}: take {needed}")
    return allowed


def _allowed(queries: int, risk: float, confidence: float) -> int:
    measured, too_many = queries - len(range(0, queries, FITTED)), math.floor(risk * queries) + 1
    allowed = -1
    while allowed + 1 < measured and _rarity(allowed + 1, too_many, measured, queries) <= 1 - confidence:
        allowed += 1
    return allowed


def _rarity(few: int, too_many: int, measured: int, further: int) -> float:
    """The hypergeometric probability that of the few + too_many hardest at most `few` are among the measured."""

    def ways(total: int, chosen: int) -> float:
        if chosen > total:
            return -math.inf
        return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)

    hardest = few + too_many
    every = ways(measured + further, hardest)
    return sum(math.exp(ways(measured, own) + ways(further, hardest - own) - every) for own in range(few + 1))
