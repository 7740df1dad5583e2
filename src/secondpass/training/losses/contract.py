"""What a loss is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

LabelKind = Literal["relevance", "grade", "score", "class"]
"""relevance: in [0, 1]. grade: finite and not negative. score: any finite number. class: 0 to labels - 1."""


@dataclass(frozen=True, slots=True)
class Teachings:
    """What a teacher thinks of a micro-batch, for a loss whose attribute `taught` is True.

    Attributes:
        scores: float32 [groups, documents]; 0 where the mask is False or nobody was asked.
        weights: float32 [groups], what they count in each group; 0 where nobody was asked.
        label_weights: float32 [groups], what the labels count beside them; 1 where nobody was asked.
    """

    scores: torch.Tensor
    weights: torch.Tensor
    label_weights: torch.Tensor


@runtime_checkable
class Loss(Protocol):
    """Scores of whole groups and their labels to one value per unit that is judged.

    A unit is a document (pointwise), a pair of documents (pairwise) or a list (listwise). The loop averages over all
    units of a step, so cutting a step into micro-batches, or sharing it among processes, changes nothing.

    A loss whose attribute `taught` is True is called with a fourth argument, the `Teachings` of the micro-batch.

    Attributes:
        labels: which labels it can read.
        shortest: documents that a group needs to give a unit: 1 for pointwise losses, else 2.
        needs_contrast: True if a group whose labels are all equal teaches nothing.
    """

    labels: LabelKind
    shortest: int
    needs_contrast: bool

    def __call__(self, logits: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Judge a micro-batch.

        Args:
            logits: float32 [groups, documents]; for the label kind "class" [groups, documents, classes].
            labels: float32 [groups, documents].
            mask: bool [groups, documents]; False where a group has fewer documents than the widest one. What stands
                there must not count, and gets no gradient.

        Returns:
            float32 [units], not averaged; empty if no group gives a unit. Always depends on `logits`.
        """
        ...
