"""A relevant document against those that are not: a unit is a relevant document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional as F

from secondpass.limits import positive_number, whole_number
from secondpass.training.losses.contract import Loss
from secondpass.training.losses.masks import any_first, cleaned


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
    labels = "grade"
    shortest = 2
    needs_contrast = True

    def __post_init__(self) -> None:
        positive_number(self.temperature, "temperature")
        if whole_number(self.in_batch_negatives, "in_batch_negatives"):
            object.__setattr__(self, "shortest", 1)
            object.__setattr__(self, "needs_contrast", False)

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
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

    labels = "grade"
    shortest = 2
    needs_contrast = True

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """One unit per group with a relevant document and another."""
        logits, labels = cleaned(logits, labels, mask)
        relevant = mask & (labels > 0)
        groups = relevant.any(1) & (mask & ~relevant).any(1)
        return any_first(logits[groups], relevant[groups], mask[groups])
