"""One round through the model: rows of several calls together, each alone where together fails."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from secondpass.batches import plan
from secondpass.merging.calls import Work
from secondpass.merging.turns import Share
from secondpass.scoring import Computation, Progress, score
from secondpass.tokens import Tokens

Outcome = tuple[torch.Tensor, Work] | Exception
"""Logits [rows, labels] of one share with the work of its round, or the error that its own rows cause."""


def score_round(computation: Computation, budget: int, shares: Sequence[Share]) -> list[Outcome]:
    """Score the shares in common batches of at most `budget` tokens; an outcome for each share.

    A round that fails is repeated share by share: an error (a non-finite logit, a pair that does not fit into memory)
    reaches the call whose pairs cause it and no other.
    """
    if len(shares) == 1:
        return [_alone(computation, budget, shares[0])]
    tokens = [share.call.tokens[row] for share in shares for row in share.rows]
    try:
        logits, work = _scored(computation, budget, tokens, range(len(tokens)))
    except Exception:
        return [_alone(computation, budget, share) for share in shares]
    parts = torch.split(logits, [len(share.rows) for share in shares])
    return [(part, work) for part in parts]


def _alone(computation: Computation, budget: int, share: Share) -> Outcome:
    """One share by itself; errors count pairs as its call does."""
    try:
        return _scored(computation, budget, share.call.tokens, share.rows)
    except Exception as error:
        return share.call.pairs_of(error)


def _scored(
    computation: Computation, budget: int, tokens: Sequence[Tokens], rows: Sequence[int]
) -> tuple[torch.Tensor, Work]:
    began = time.perf_counter()
    lengths = [len(tokens[row]) for row in rows]
    batches = [tuple(rows[place] for place in batch) for batch in plan(lengths, budget, len(rows), computation.pads)]
    progress = Progress()
    logits = torch.from_numpy(score(computation, tokens, batches, progress)[list(rows)])
    seconds = time.perf_counter() - began
    return logits, Work(seconds, progress.batches, progress.retries, sum(lengths), progress.places)
