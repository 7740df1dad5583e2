"""One batch for several calls: rows of them together, each alone where together fails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from secondpass.engine import Spent, score_rows
from secondpass.merging.turns import Share
from secondpass.scoring import Computation, Logits

Outcome = tuple[Logits, Spent] | Exception
"""Logits [rows, labels] of one share with what its batch took, or the error that its own rows cause."""


def score_shares(computation: Computation, budget: int, shares: Sequence[Share]) -> list[Outcome]:
    """Score the shares together, at most `budget` tokens at a time; an outcome for each share.

    What fails is repeated share by share: an error (a non-finite logit, a pair that does not fit into memory) reaches
    the call whose pairs cause it and no other.
    """
    if len(shares) == 1:
        return [_alone(computation, budget, shares[0])]
    tokens = [share.call.tokens[row] for share in shares for row in share.rows]
    try:
        logits, spent = score_rows(computation, tokens, range(len(tokens)), budget)
    except Exception:
        return [_alone(computation, budget, share) for share in shares]
    ends = np.cumsum([len(share.rows) for share in shares])
    return [(part, spent) for part in np.split(logits, ends[:-1])]


def _alone(computation: Computation, budget: int, share: Share) -> Outcome:
    """One share by itself; errors count pairs as its call does."""
    try:
        return score_rows(computation, share.call.tokens, share.rows, budget)
    except Exception as error:
        return share.call.pairs_of(error)
