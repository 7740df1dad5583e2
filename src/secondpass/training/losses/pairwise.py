"""Two documents of a group against each other: a unit is a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from secondpass.limits import finite_number, positive_int, positive_number
from secondpass.training.losses.contract import Loss
from secondpass.training.losses.masks import better, both, cleaned, contrasted, differences, others, places
from secondpass.training.losses.options import chosen

PAIRS = ("all", "first", "highest")
WEIGHTINGS = ("none", "ndcg_loss1", "ndcg_loss2", "ndcg_loss2++", "lambda_rank")


@dataclass(frozen=True)
class MarginMSE(Loss):
    """Squared error of the difference of two logits: ((s_i - s_j) - (t_i - t_j))^2 for teacher scores t.

    Hofstätter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation", arXiv:2010.02666, where i is the relevant document ("first", as in sentence-transformers).

    Attributes:
        pairs: "all": every two documents, once. "first": the group's first document with every other. "highest": the
            one of the highest label with every other; of several the first.
    """

    pairs: str = "all"

    labels = "score"
    shortest = 2
    needs_contrast = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", chosen(self.pairs, PAIRS, "pairs"))

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One unit per pair."""
        logits, labels = cleaned(logits, labels, mask)
        # where all are equal, the places are the group's order
        order = places(labels if self.pairs == "highest" else torch.zeros_like(labels), mask)
        pairs = (differences(order) < 0) & both(mask)
        if self.pairs != "all":
            pairs = pairs & (order == 1)[:, :, None]
        return differences(logits - labels)[pairs].square()


@dataclass(frozen=True)
class RankNet(Loss):
    """How unlikely the order of two documents is: log(1 + exp(-sigma (s_i - s_j))) where y_i > y_j.

    Pairs of equal labels give no unit. The logarithm is natural, as in Burges et al. 2005, "Learning to Rank using
    Gradient Descent"; sentence-transformers' is to base 2 unless told otherwise.

    Attributes:
        sigma: steepness of the sigmoid.
    """

    sigma: float = 1.0

    labels = "score"
    shortest = 2
    needs_contrast = True

    def __post_init__(self) -> None:
        positive_number(self.sigma, "sigma")

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One unit per pair of unequal labels."""
        logits, labels = cleaned(logits, labels, mask)
        return -F.logsigmoid(self.sigma * differences(logits)[better(labels, mask)])


@dataclass(frozen=True)
class LambdaLoss(Loss):
    """RankNet to base 2 with each pair weighted by what its order is worth in nDCG.

    w_ij log2(1 + exp(-sigma (s_i - s_j))) where y_i > y_j. With G_i = (2^y_i - 1) / (largest DCG), D(r) =
    log2(1 + r), r_i the place of i by logit (equal ones in the group's order) and d = |r_i - r_j|, w_ij is

        none          1
        lambda_rank   |1 / D(r_i) - 1 / D(r_j)| |G_i - G_j|
        ndcg_loss2    (1 / D(d) - 1 / D(d + 1)) |G_i - G_j|
        ndcg_loss2++  lambda_rank + mu ndcg_loss2
        ndcg_loss1    G_i / D(r_i), over every two documents in both orders

    ndcg_loss1 leaves out a document with itself, a constant that sentence-transformers adds, and groups whose labels
    are all equal. No gradient goes through the weights. Wang et al. 2018, "The LambdaLoss Framework for Ranking Metric
    Optimization"; lambda_rank is from Burges et al. 2006, "Learning to Rank with Nonsmooth Cost Functions".

    Attributes:
        weighting: one of `WEIGHTINGS`.
        k: only pairs with a document among the k of the highest logits; the largest DCG is of k documents. None is
            all.
        sigma: steepness of the sigmoid.
        eps: the largest DCG is taken to be at least this.
        mu: share of ndcg_loss2 in ndcg_loss2++.
    """

    weighting: str = "ndcg_loss2++"
    k: int | None = None
    sigma: float = 1.0
    eps: float = 1e-10
    mu: float = 10.0

    labels = "grade"
    shortest = 2
    needs_contrast = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weighting", chosen(self.weighting, WEIGHTINGS, "weighting"))
        if self.k is not None:
            positive_int(self.k, "k")
        positive_number(self.sigma, "sigma")
        positive_number(self.eps, "eps")
        finite_number(self.mu, "mu")

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One unit per pair of unequal labels; with ndcg_loss1 two per pair of documents."""
        logits, labels = cleaned(logits, labels, mask)
        ranks = places(logits.detach(), mask)
        pairs = better(labels, mask)
        if self.weighting == "ndcg_loss1":
            pairs = others(mask) & contrasted(labels, mask)[:, None, None]
        if self.k is not None:
            top = ranks <= self.k
            pairs = pairs & (top[:, :, None] | top[:, None, :])
        losses = -F.logsigmoid(self.sigma * differences(logits)[pairs]) / math.log(2)
        if self.weighting == "none":
            return losses
        return losses * self._weights(self._gains(labels, mask), ranks)[pairs]

    def _gains(self, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """G of the formula, [groups, documents]."""
        ideal = places(labels, mask)
        highest = torch.where(mask & (ideal == 1), labels, 0.0).sum(1, keepdim=True)
        # 2^y - 1 over 2^highest: a grade of 200 is no float32 otherwise
        gains = torch.where(mask, torch.exp2(labels - highest) - torch.exp2(-highest), 0.0)
        counted = gains if self.k is None else torch.where(ideal <= self.k, gains, 0.0)
        largest = (counted / torch.log2(1 + ideal)).sum(1, keepdim=True)
        return gains / torch.maximum(largest, self.eps * torch.exp2(-highest))

    def _weights(self, gains: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
        """[groups, documents, documents], or [groups, documents, 1] repeated to it."""
        discounts = torch.log2(1 + ranks).reciprocal()
        gaps = differences(gains).abs()
        if self.weighting == "ndcg_loss1":
            return (gains * discounts)[:, :, None].expand_as(gaps)
        lambda_rank = differences(discounts).abs() * gaps
        if self.weighting == "lambda_rank":
            return lambda_rank
        # a document with itself is no pair: any number will do, but none that is not finite
        apart = differences(ranks).abs().clamp(min=1)
        ndcg_loss2 = (torch.log2(1 + apart).reciprocal() - torch.log2(2 + apart).reciprocal()) * gaps
        return ndcg_loss2 if self.weighting == "ndcg_loss2" else lambda_rank + self.mu * ndcg_loss2
