"""Logits to scores in the form the caller asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from secondpass.errors import InvalidInput, NonFiniteScore
from secondpass.limits import positive_int

Scores = npt.NDArray[np.float32] | torch.Tensor | list[torch.Tensor]


def activated(logits: torch.Tensor, activation: Callable[[torch.Tensor], torch.Tensor], softmax: bool) -> torch.Tensor:
    """float32 [pairs, labels] -> scores [pairs, labels]; softmax after the activation, for several labels only.

    Raises:
        InvalidInput: the activation does not give one row per pair.
        NonFiniteScore: it gives NaN, which has no place in an order.
    """
    with torch.inference_mode():
        # an activation may work in place, and the ranking still needs the logits
        scores = activation(logits.clone())
        if not isinstance(scores, torch.Tensor) or scores.shape[:1] != logits.shape[:1]:
            raise InvalidInput(f"the activation {activation!r} does not give one row for each of {len(logits)} pairs")
        if softmax and logits.shape[1] > 1:
            scores = torch.softmax(scores, dim=1)
        if bool(torch.isnan(scores).any()):
            wrong = tuple(torch.isnan(scores).reshape(len(scores), -1).any(1).nonzero()[:, 0].tolist())
            raise NonFiniteScore(f"the activation {activation!r} gave NaN for pairs {list(wrong)}", wrong)
    # inference tensors cannot enter autograd later; a caller may do what it likes with a clone
    return scores.clone()


def by_label(scores: torch.Tensor, num_labels: int) -> torch.Tensor:
    """One number per pair for a head with one label, else the row of all labels."""
    return scores[:, 0] if num_labels == 1 and scores.ndim > 1 else scores


def converted(scores: torch.Tensor, device: torch.device, to_numpy: bool, to_tensor: bool) -> Scores:
    """The seed's precedence: a tensor on the device wins, then a float32 array, else a list of tensors."""
    if to_tensor:
        return scores.to(device)
    if to_numpy:
        array: npt.NDArray[np.float32] = scores.float().numpy()
        return array
    return list(scores.to(device))


def per_document(scores: torch.Tensor, device: torch.device, to_numpy: bool, to_tensor: bool) -> list[Any]:
    """One score per document: Python floats, which JSON takes, or tensors where the caller wants no numpy."""
    if to_numpy and not to_tensor:
        values: list[Any] = scores.float().tolist()
        return values
    return list(scores.to(device))


class Bar:
    """A progress bar over batches that hears only how many are left: halved batches make it longer."""

    def __init__(self, shown: bool) -> None:
        from tqdm.autonotebook import tqdm

        self._bar: Any = tqdm(desc="Batches", disable=not shown)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def __call__(self, remaining: int) -> None:
        """Move on: called once before the first batch, then after each."""
        if self._bar.total is None:
            self._bar.reset(total=remaining)
        else:
            self._bar.total = self._bar.n + 1 + remaining
            self._bar.update(1)


def top(items: Iterable[Any], top_k: int | None) -> list[Any]:
    """The first `top_k` items, all when None.

    Raises:
        InvalidInput: `top_k` is not a positive int.
    """
    return list(items)[: None if top_k is None else positive_int(top_k, "top_k")]
