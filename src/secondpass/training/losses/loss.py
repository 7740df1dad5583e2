"""What a loss is given and gives back, and what losses over groups of uneven size are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, Protocol, runtime_checkable

import torch

from secondpass.errors import InvalidInput

Tensor = torch.Tensor

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

    scores: Tensor
    weights: Tensor
    label_weights: Tensor


@runtime_checkable
class Loss(Protocol):
    """Scores of whole groups and their labels to one value per unit that is judged.

    A unit is a document (pointwise), a pair of documents (pairwise) or a list (listwise). The loop averages over all
    units of a step, so cutting a step into micro-batches, or sharing it among processes, changes nothing.

    A loss whose attribute `taught` is True is called with a fourth argument, the `Teachings` of the micro-batch. Where
    `needs_negative` is True a group without a document of label 0 teaches nothing; where `reads_labels` is False labels
    may all be equal, and the model may have several.

    Attributes:
        labels: which labels it can read.
        shortest: documents that a group needs to give a unit: 1 for pointwise losses.
        needs_contrast: True if a group whose labels are all equal teaches nothing.
    """

    labels: LabelKind
    shortest: int = 2
    needs_contrast: bool = False

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Judge a micro-batch.

        Args:
            logits: float32 [groups, documents]; for the label kind "class" [groups, documents, classes].
            labels: float32 [groups, documents].
            mask: bool [groups, documents]; False where a group has fewer documents than the widest one. What stands
                there must not count, and gets no gradient.

        Returns:
            float32 [units], not averaged; empty if no group gives a unit. Always depends on `logits`.
        """


def described(loss: Loss) -> str:
    """A loss by its `repr`, without the place in memory that Python's own has: the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(loss))


# ---- Groups of uneven size side by side: what counts, what is compared with what, and who stands where.
#
# Everything is quadratic in the documents of a group and needs no sort: beside the forward of as many documents that is
# nothing, and ties are broken alike on every device.
def cleaned(logits: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels with 0 where nothing stands, in the dtype of `logits`; no gradient reaches such places.

    A loss picks its units out of these by a bool index, so that no units are an empty tensor that still depends on
    `logits`: the gradient of its sum is 0 everywhere.

    Raises:
        InvalidInput: the three are not all [groups, documents].
    """
    if logits.dim() != 2 or not logits.shape == labels.shape == mask.shape:
        given = {"logits": logits, "labels": labels, "mask": mask}
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in given.items())
        raise InvalidInput(f"not all [groups, documents]: {shapes}")
    return torch.where(mask, logits, 0.0), torch.where(mask, labels.to(logits.dtype), 0.0)


def differences(values: Tensor) -> Tensor:
    """[groups, documents] to [groups, documents, documents]: at [i, j] the value of i less that of j."""
    return values[:, :, None] - values[:, None, :]


def better(labels: Tensor, mask: Tensor) -> Tensor:
    """Bool [groups, documents, documents]: True at [i, j] where both stand and i has the higher label."""
    return (labels[:, :, None] > labels[:, None, :]) & both(mask)


def both(mask: Tensor) -> Tensor:
    """Bool [groups, documents, documents]: True at [i, j] where both stand."""
    return mask[:, :, None] & mask[:, None, :]


def others(mask: Tensor) -> Tensor:
    """`both` without a document and itself."""
    return both(mask) & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)


def several(mask: Tensor) -> Tensor:
    """Bool [groups]: those with two documents or more."""
    return mask.sum(1) >= 2


def contrasted(labels: Tensor, mask: Tensor) -> Tensor:
    """Bool [groups]: those whose labels are not all equal."""
    return better(labels, mask).flatten(1).any(1)


def ahead(values: Tensor, mask: Tensor) -> Tensor:
    """Bool [groups, documents, documents]: True at [i, j] where j stands, and before i by falling value.

    Documents of equal value stand in the group's order.
    """
    mine, other = values[:, :, None], values[:, None, :]
    number = torch.arange(values.shape[1], device=values.device)
    earlier = number[None, :] < number[:, None]
    return ((other > mine) | ((other == mine) & earlier)) & mask[:, None, :]


def places(values: Tensor, mask: Tensor) -> Tensor:
    """[groups, documents] in the dtype of `values`: the place of each by falling value, from 1; ties as in `ahead`."""
    return 1 + ahead(values, mask).sum(2, dtype=values.dtype)


def any_first(logits: Tensor, wanted: Tensor, mask: Tensor) -> Tensor:
    """[groups]: minus the logarithm of the chance that one of the `wanted` documents is drawn by softmax of the logits.

    Args:
        logits: [groups, documents], finite.
        wanted: bool [groups, documents], some True in each group, none of them where `mask` is False.
        mask: bool [groups, documents].
    """
    everything = torch.where(mask, logits, -torch.inf).logsumexp(1)
    return everything - torch.where(wanted, logits, -torch.inf).logsumexp(1)


def log_shares(values: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of the softmax over the documents that stand, 0 at the others.

    Args:
        values: [groups, documents], finite.
        mask: bool [groups, documents], some True in each group.
    """
    shares = torch.where(mask, values, -torch.inf).log_softmax(1)
    return torch.where(mask, shares, 0.0)


def chosen(value: object, known: Iterable[str], argument: str) -> str:
    """Return the one of `known` that `value` names, whatever its case, hyphens, underscores and spaces.

    Raises:
        InvalidInput: none of them; the message names `argument`, lists them and suggests the nearest.
    """
    names = {plain(name): name for name in known}
    wanted = plain(value) if isinstance(value, str) else ""
    if wanted in names:
        return names[wanted]
    near = get_close_matches(wanted, names, n=1)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    raise InvalidInput(f"{argument}={value!r} is none of {', '.join(names.values())}{hint}")


def plain(name: str) -> str:
    """Lower case without hyphens, underscores and spaces: what two spellings of a name have in common."""
    return "".join(sign for sign in name.lower() if sign not in "-_ ")
