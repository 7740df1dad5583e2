"""Documents of a group against each other: a unit is a pair, a relevant document, or the whole list."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from secondpass.errors import InvalidInput
from secondpass.text import finite_number, positive_int, positive_number, whole_number
from secondpass.training.losses.loss import (
    Loss,
    Teachings,
    Tensor,
    ahead,
    any_first,
    better,
    both,
    chosen,
    cleaned,
    contrasted,
    differences,
    log_shares,
    others,
    places,
    several,
)

PAIRS = ("all", "first", "highest")
WEIGHTINGS = ("none", "ndcg_loss1", "ndcg_loss2", "ndcg_loss2++", "lambda_rank")


# ---- Two documents against each other: a unit is a pair.
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
    margins: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", chosen(self.pairs, PAIRS, "pairs"))

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
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
    needs_contrast = True

    def __post_init__(self) -> None:
        positive_number(self.sigma, "sigma")

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
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
    needs_contrast = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "weighting", chosen(self.weighting, WEIGHTINGS, "weighting"))
        if self.k is not None:
            positive_int(self.k, "k")
        positive_number(self.sigma, "sigma")
        positive_number(self.eps, "eps")
        finite_number(self.mu, "mu")

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
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

    def _gains(self, labels: Tensor, mask: Tensor) -> Tensor:
        """G of the formula, [groups, documents]."""
        ideal = places(labels, mask)
        highest = torch.where(mask & (ideal == 1), labels, 0.0).sum(1, keepdim=True)
        # 2^y - 1 over 2^highest: a grade of 200 is no float32 otherwise
        gains = torch.where(mask, torch.exp2(labels - highest) - torch.exp2(-highest), 0.0)
        counted = gains if self.k is None else torch.where(ideal <= self.k, gains, 0.0)
        largest = (counted / torch.log2(1 + ideal)).sum(1, keepdim=True)
        return gains / torch.maximum(largest, self.eps * torch.exp2(-highest))

    def _weights(self, gains: Tensor, ranks: Tensor) -> Tensor:
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


# ---- A relevant document against those that are not: a unit is a relevant document.
@dataclass(frozen=True)
class InfoNCE(Loss):
    """How unlikely a relevant document is among the others that are not, by softmax of the logits.

    -log(exp(s_p / T) / (exp(s_p / T) + sum_n exp(s_n / T))) for each p of label above 0, n of label 0: relevant
    documents do not push each other down. A group that lacks either gives no unit. Van den Oord et al. 2018,
    "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748; for rerankers Gao et al. 2021,
    "Rethink Training of BERT Rerankers in Multi-Stage Retrieval Pipeline", arXiv:2101.08751.

    Attributes:
        temperature: T. sentence-transformers' `scale` is 1 / T; its sigmoid before that is not here.
        in_batch_negatives: documents of other groups of the step that the loop adds to each group, with label 0. With
            any, a group needs no more than one relevant document.
        cached: if the loop is to run each step in two passes, so that the memory for one micro-batch is enough.
    """

    temperature: float = 1.0
    in_batch_negatives: int = 4

    cached: ClassVar[bool] = False
    needs_negative: ClassVar[bool] = True
    labels = "grade"
    needs_contrast = True

    def __post_init__(self) -> None:
        positive_number(self.temperature, "temperature")
        if whole_number(self.in_batch_negatives, "in_batch_negatives"):
            object.__setattr__(self, "shortest", 1)
            object.__setattr__(self, "needs_contrast", False)

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per document of label above 0."""
        logits, labels = cleaned(logits, labels, mask)
        positive, negative = mask & (labels > 0), mask & (labels <= 0)
        groups = positive.any(1) & negative.any(1)
        logits, positive, negative = logits[groups] / self.temperature, positive[groups], negative[groups]
        others = torch.where(negative, logits, -torch.inf).logsumexp(1, keepdim=True)
        return -F.logsigmoid((logits - others)[positive])


@dataclass(frozen=True)
class CachedInfoNCE(InfoNCE):
    """`InfoNCE` for many in-batch negatives in little memory.

    Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv:2101.06983.
    """

    cached: ClassVar[bool] = True


@dataclass(frozen=True)
class MILNCE(Loss):
    """How unlikely it is that one of the relevant documents comes first, by softmax of the logits; any of them will do.

    -log(sum_p exp(s_p) / sum_i exp(s_i)) over the documents p of label above 0: for labels that say which documents
    may hold the answer, such as the sentences of a labelled paragraph, and not which one does. Its gradient lifts most
    those that are likeliest already. Miech et al. 2020, "End-to-End Learning of Visual Representations from Uncurated
    Instructional Videos", arXiv:1912.06430. A group that lacks either kind of document gives no unit.
    """

    needs_negative: ClassVar[bool] = True
    labels = "grade"
    needs_contrast = True

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per group with a relevant document and another."""
        logits, labels = cleaned(logits, labels, mask)
        relevant = mask & (labels > 0)
        groups = relevant.any(1) & (mask & ~relevant).any(1)
        return any_first(logits[groups], relevant[groups], mask[groups])


# ---- All documents of a group at once: a unit is a list, of two documents or more.
#
# Lists of one document give no unit; sentence-transformers counts them as lists without loss.
@dataclass(frozen=True)
class ListNet(Loss):
    """Cross-entropy of the softmax of the logits to that of the labels: -sum_i softmax(y)_i log softmax(s)_i.

    The chances to stand first, by Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach".
    """

    labels = "score"

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per list."""
        lists = several(mask)
        logits, labels = (values[lists] for values in cleaned(logits, labels, mask))
        wanted = torch.where(mask[lists], log_shares(labels, mask[lists]).exp(), 0.0)
        return -(wanted * log_shares(logits, mask[lists])).sum(1)


@dataclass(frozen=True)
class KLDistillation(Loss):
    """Kullback-Leibler divergence of the softmax of the logits from the teacher's, over the list, at a temperature.

    T^2 sum_i p_i (log p_i - log q_i) with p = softmax(t / T), q = softmax(s / T); T^2 keeps the size of the gradient.
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

    Attributes:
        temperature: T; above 1 the low scores count more.
    """

    temperature: float = 1.0

    labels = "score"

    def __post_init__(self) -> None:
        positive_number(self.temperature, "temperature")

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per list."""
        lists = several(mask)
        scores = (values[lists] / self.temperature for values in cleaned(logits, labels, mask))
        student, teacher = (log_shares(values, mask[lists]) for values in scores)
        wanted = torch.where(mask[lists], teacher.exp(), 0.0)
        return self.temperature**2 * (wanted * (teacher - student)).sum(1)


@dataclass(frozen=True)
class ListMLE(Loss):
    """How unlikely the order of the labels is if one document after the other is drawn by softmax of the logits.

    sum_i (log sum_{j not before i} exp s_j - s_i), i and j by falling label. Documents of equal label are taken in the
    group's order, as if the earlier were the better: shuffle them where that is not meant. A group whose labels are
    all equal gives no unit. Xia et al. 2008, "Listwise Approach to Learning to Rank: Theory and Algorithm".
    """

    labels = "score"
    needs_contrast = True

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per list."""
        logits, labels = cleaned(logits, labels, mask)
        lists = contrasted(labels, mask)
        return _draws(logits[lists], ahead(labels[lists], mask[lists]), mask[lists]).sum(1)


@dataclass(frozen=True)
class PListMLE(ListMLE):
    """ListMLE with the first places counting most: place i of n by 2^(n - i) - 1, over the sum of these.

    Ties and lists without a unit as in `ListMLE`. Lan et al. 2014, "Position-Aware ListMLE: A Sequential Learning
    Process for Ranking"; there the weights are not divided by their sum, so that the longest list drowns the others.
    """

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per list."""
        logits, labels = cleaned(logits, labels, mask)
        lists = contrasted(labels, mask)
        mask = mask[lists]
        before = ahead(labels[lists], mask)
        place = 1 + before.sum(2, dtype=logits.dtype)
        # all by 2^-n: 2^n is no float32 from n = 128 on
        count = mask.sum(1, keepdim=True, dtype=logits.dtype)
        weights = torch.where(mask, torch.exp2(-place) - torch.exp2(-count), 0.0)
        weights = weights / weights.sum(1, keepdim=True)
        return (weights * _draws(logits[lists], before, mask)).sum(1)


def _draws(logits: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Minus the logarithm of each document's chance to be drawn from those not before it; 0 where none stands.

    All [lists, documents] but `before`, which is as `ahead` gives it.
    """
    # a document always stands among its own, also at masked places: a sum of nothing has no finite logarithm
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    left = (mask[:, None, :] & ~before) | itself
    losses = torch.where(left, -differences(logits), -torch.inf).logsumexp(2)
    return torch.where(mask, losses, 0.0)


@dataclass(frozen=True)
class ADRMSE(Loss):
    """Approximate discounted rank MSE: squared error of a document's smoothed rank, less for those far down.

    (r_i - 1 - sum_{j != i} sigmoid(alpha (s_j - s_i)))^2 / log2(1 + r_i), r the rank by label. Documents of equal label
    share the mean of their ranks, so that equal logits can meet it. A unit is a document of a list of two or more.
    Schlatt et al. 2024, "Rank-DistiLLM", arXiv:2405.07920, with the smoothed rank of Qin et al. 2010, "A General
    Approximation Framework for Direct Optimization of Information Retrieval Measures".

    Attributes:
        alpha: steepness of the sigmoid; the larger, the nearer to true ranks and the flatter between them.
    """

    alpha: float = 1.0

    labels = "score"

    def __post_init__(self) -> None:
        positive_number(self.alpha, "alpha")

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per document."""
        logits, labels = cleaned(logits, labels, mask)
        other = others(mask)
        above = (differences(labels) < 0) + 0.5 * (differences(labels) == 0)
        ranks = 1 + torch.where(other, above.to(logits.dtype), 0.0).sum(2)
        smooth = 1 + torch.where(other, torch.sigmoid(-self.alpha * differences(logits)), 0.0).sum(2)
        losses = (ranks - smooth).square() / torch.log2(1 + ranks)
        return losses[mask & several(mask)[:, None]]


@dataclass(frozen=True)
class LabelledDistillation(Loss):
    """A teacher's scores and labels at once, over the list: what the teacher knows, and what it could not know.

    w (KL(softmax(t) || softmax(s)) + margin mean_i ((s_i - mean s) - (t_i - mean t))^2) + v MIL, with the teacher's
    scores t and the weights w and v of the group's `Teaching`, and MIL as in `MILNCE`: at least one
    document of label above 0 must win. The squared error of centred logits is, but for a factor that depends on the
    length of the list, MarginMSE over all pairs (Hofstätter et al. 2020, arXiv:2010.02666). A group without a teaching
    has the third term alone, one without a label above 0 the others.

    Attributes:
        margin: what the squared error counts beside the divergence.
    """

    margin: float = 0.2

    taught: ClassVar[bool] = True
    labels = "grade"

    def __post_init__(self) -> None:
        if finite_number(self.margin, "margin") < 0:
            raise InvalidInput(f"margin={self.margin!r} is below 0")

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor, teachings: Teachings | None = None) -> Tensor:
        """One unit per list."""
        lists = several(mask)
        logits, labels = (values[lists] for values in cleaned(logits, labels, mask))
        mask = mask[lists]
        relevant = mask & (labels > 0)
        # where nothing is relevant every document is wanted: nothing is asked for, and no logarithm is infinite
        wanted = relevant | (mask & ~relevant.any(1, keepdim=True))
        first = any_first(logits, wanted, mask)
        if teachings is None:
            return first
        scores = torch.where(mask, teachings.scores[lists].to(logits.dtype), 0.0)
        weights, label_weights = (made[lists].to(logits.dtype) for made in (teachings.weights, teachings.label_weights))
        return weights * self._divergence(logits, scores, mask) + label_weights * first

    def _divergence(self, logits: Tensor, scores: Tensor, mask: Tensor) -> Tensor:
        """[lists]: how far the student is from the teacher."""
        student, teacher = log_shares(logits, mask), log_shares(scores, mask)
        divergence = torch.where(mask, teacher.exp() * (teacher - student), 0.0).sum(1)
        count = mask.sum(1, keepdim=True, dtype=logits.dtype)
        gaps = logits - scores
        centred = torch.where(mask, gaps - gaps.sum(1, keepdim=True) / count, 0.0)
        return divergence + self.margin * (centred.square().sum(1) / count[:, 0])
