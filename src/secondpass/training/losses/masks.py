"""Groups of uneven size side by side: what counts, what is compared with what, and who stands where.

Everything is quadratic in the documents of a group and needs no sort: beside the forward of as many documents that is
nothing, and ties are broken alike on every device.
"""

from __future__ import annotations

import torch

from secondpass.errors import InvalidInput

Tensor = torch.Tensor


def cleaned(logits: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and labels with 0 where nothing stands, in the dtype of `logits`; no gradient reaches such places.

    A loss picks its units out of these by a bool index, so that no units are an empty tensor that still depends on
    `logits`: the gradient of its sum is 0 everywhere.

    Raises:
        InvalidInput: the three are not all [groups, documents].
    """
    if logits.dim() != 2 or not logits.shape == labels.shape == mask.shape:
        shapes = ", ".join(
            f"{name} {list(value.shape)}" for name, value in (("logits", logits), ("labels", labels), ("mask", mask))
        )
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
