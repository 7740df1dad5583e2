"""All documents of a group at once: a unit is a list, of two documents or more.

Lists of one document give no unit; sentence-transformers counts them as lists without loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from secondpass.errors import InvalidInput
from secondpass.limits import finite_number, positive_number
from secondpass.training.losses.contract import Loss, Teachings
from secondpass.training.losses.masks import (
    ahead,
    any_first,
    cleaned,
    contrasted,
    differences,
    log_shares,
    others,
    several,
)


@dataclass(frozen=True)
class ListNet(Loss):
    """Cross-entropy of the softmax of the logits to that of the labels: -sum_i softmax(y)_i log softmax(s)_i.

    The chances to stand first, by Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach".
    """

    labels = "score"
    shortest = 2
    needs_contrast = False

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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
    shortest = 2
    needs_contrast = False

    def __post_init__(self) -> None:
        positive_number(self.temperature, "temperature")

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One unit per list."""
        lists = several(mask)
        student, teacher = (
            log_shares(values[lists] / self.temperature, mask[lists]) for values in cleaned(logits, labels, mask)
        )
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
    shortest = 2
    needs_contrast = True

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One unit per list."""
        logits, labels = cleaned(logits, labels, mask)
        lists = contrasted(labels, mask)
        return _draws(logits[lists], ahead(labels[lists], mask[lists]), mask[lists]).sum(1)


@dataclass(frozen=True)
class PListMLE(Loss):
    """ListMLE with the first places counting most: place i of n by 2^(n - i) - 1, over the sum of these.

    Ties and lists without a unit as in `ListMLE`. Lan et al. 2014, "Position-Aware ListMLE: A Sequential Learning
    Process for Ranking"; there the weights are not divided by their sum, so that the longest list drowns the others.
    """

    labels = "score"
    shortest = 2
    needs_contrast = True

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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


def _draws(logits: torch.Tensor, before: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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
    shortest = 2
    needs_contrast = False

    def __post_init__(self) -> None:
        positive_number(self.alpha, "alpha")

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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
    scores t and the weights w and v of the group's `Teaching`, and MIL as in `contrastive.MILNCE`: at least one
    document of label above 0 must win. The squared error of centred logits is, but for a factor that depends on the
    length of the list, MarginMSE over all pairs (Hofstätter et al. 2020, arXiv:2010.02666). A group without a teaching
    has the third term alone, one without a label above 0 the others.

    Attributes:
        margin: what the squared error counts beside the divergence.
    """

    margin: float = 0.2

    taught: ClassVar[bool] = True
    labels = "grade"
    shortest = 2
    needs_contrast = False

    def __post_init__(self) -> None:
        if finite_number(self.margin, "margin") < 0:
            raise InvalidInput(f"margin={self.margin!r} is below 0")

    def __call__(
        self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, teachings: Teachings | None = None
    ) -> torch.Tensor:
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

    def _divergence(self, logits: torch.Tensor, scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[lists]: how far the student is from the teacher."""
        student, teacher = log_shares(logits, mask), log_shares(scores, mask)
        divergence = torch.where(mask, teacher.exp() * (teacher - student), 0.0).sum(1)
        count = mask.sum(1, keepdim=True, dtype=logits.dtype)
        gaps = logits - scores
        centred = torch.where(mask, gaps - gaps.sum(1, keepdim=True) / count, 0.0)
        return divergence + self.margin * (centred.square().sum(1) / count[:, 0])
