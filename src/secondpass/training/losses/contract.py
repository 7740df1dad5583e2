"""What a loss is given and gives back."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch

LabelKind = Literal["relevance", "grade", "score", "class"]
"""relevance: in [0, 1]. grade: finite and not negative. score: any finite number. class: 0 to labels - 1."""


@runtime_checkable
class Loss(Protocol):
    """Scores of whole groups and their labels to one value per unit that is judged.

    A unit is a document (pointwise), a pair of documents (pairwise) or a list (listwise). The loop averages over all
    units of a step, so cutting a step into micro-batches, or sharing it among processes, changes nothing.

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
