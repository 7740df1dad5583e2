"""Logits to scores in the form the caller asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secondpass.activations import MODULE_OF_FUNCTION, Activation
from secondpass.errors import InvalidInput, NonFiniteScore

Scores = npt.NDArray[np.float32] | torch.Tensor | list[torch.Tensor]

# Numbers a function gets at a time. Libraries compute whole vectors in one way and what is left over in another, and
# share out long arrays among threads: in pieces of one size no number is at a place where it comes out otherwise.
BLOCK = 256

# Applied to each number by itself, whatever their settings.
ELEMENTWISE: frozenset[type[nn.Module]] = frozenset({nn.Identity, *MODULE_OF_FUNCTION.values()})
# Never falling; those below only with some settings.
RISING: frozenset[type[nn.Module]] = frozenset(
    {
        nn.Identity,
        nn.Sigmoid,
        nn.Tanh,
        nn.LogSigmoid,
        nn.Softsign,
        nn.SELU,
        nn.ReLU,
        nn.ReLU6,
        nn.Hardtanh,
        nn.Hardsigmoid,
        nn.Tanhshrink,
    }
)
# From here on torch's Softplus is a straight line, which must not lie below the curve by more than rounding.
SOFTPLUS_LINE = 20.0


def is_elementwise(activation: Activation) -> bool:
    """Whether this is a function of torch that treats every number by itself (also several in a row, or none)."""
    return all(type(step) in ELEMENTWISE or _module_of(step) is not None for step in _steps(activation))


def rises(activation: Activation) -> bool:
    """Whether a higher logit is known to have no lower score, so that documents can be ordered by their logits."""
    return all(_module_of(step) in RISING or type(step) in RISING or _rises_so_set(step) for step in _steps(activation))


def _steps(activation: Activation) -> list[Activation]:
    if type(activation) is nn.Sequential:
        return [inner for step in activation for inner in _steps(step)]
    return [activation]


def _module_of(activation: Activation) -> type[nn.Module] | None:
    return MODULE_OF_FUNCTION.get(activation) if inspect.isroutine(activation) else None


def _rises_so_set(activation: Activation) -> bool:
    if type(activation) is nn.LeakyReLU:
        return activation.negative_slope >= 0
    if type(activation) is nn.ELU or type(activation) is nn.CELU:
        return activation.alpha > 0
    if type(activation) is nn.Softplus:
        return activation.beta > 0 and activation.threshold >= SOFTPLUS_LINE
    return False


def in_blocks(function: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Apply a function of columns, so that a column's result depends neither on its place nor on their number.

    It is computed in float64 and rounded once: what rises in real numbers does so in float32.

    Args:
        function: float64 [rows, BLOCK] -> [any rows, BLOCK], each column by itself.
        values: float32 [rows, columns].

    Returns:
        float32 [any rows, columns].
    """
    rows, columns = values.shape
    padded = torch.zeros((max(1, -(-columns // BLOCK)), rows, BLOCK), dtype=torch.float64)
    for number, block in enumerate(padded):
        part = values[:, number * BLOCK : (number + 1) * BLOCK]
        block[:, : part.shape[1]] = part
    return torch.cat([function(block) for block in padded], dim=1)[:, :columns].float()


def activated(
    logits: torch.Tensor, activation: Activation, softmax: bool, rows: Sequence[int] | None = None
) -> torch.Tensor:
    """float32 [pairs, labels] -> scores [pairs, labels]; softmax after the activation, for several labels only.

    Equal logits have equal scores. For elementwise activations of torch a score depends on nothing but its logit; any
    other callable is called once with all logits.

    Args:
        logits: left as they are.
        activation: of `secondpass.activations`, or any callable that keeps the rows.
        softmax: whether to normalise over the labels.
        rows: what an error calls the pairs; None counts them.

    Raises:
        InvalidInput: the activation does not give one row per pair.
        NonFiniteScore: it gives NaN, which has no place in an order.
    """
    with torch.inference_mode():
        if is_elementwise(activation):
            scores = in_blocks(activation, logits.reshape(1, -1)).reshape(logits.shape)
        else:
            scores = _called(activation, logits)
        if softmax and logits.shape[1] > 1:
            scores = in_blocks(lambda block: torch.softmax(block, dim=0), scores.T).T
        if bool(torch.isnan(scores).any()):
            found = torch.isnan(scores).reshape(len(scores), -1).any(1).nonzero()[:, 0].tolist()
            wrong = tuple(found if rows is None else [rows[row] for row in found])
            raise NonFiniteScore(f"the activation {activation!r} gave NaN for pairs {list(wrong)}", wrong)
    # inference tensors cannot enter autograd later; a caller may do what it likes with a clone
    return scores.clone()


def _called(activation: Activation, logits: torch.Tensor) -> torch.Tensor:
    """Scores by a callable of which nothing is known; of equal logits the first one's."""
    # it may work in place, and the ranking still needs the logits
    scores = activation(logits.clone())
    if not isinstance(scores, torch.Tensor) or scores.shape[:1] != logits.shape[:1]:
        raise InvalidInput(f"the activation {activation!r} does not give one row for each of {len(logits)} pairs")
    _, first, places = np.unique(logits.numpy(), axis=0, return_index=True, return_inverse=True)
    return scores if len(first) == len(logits) else scores[first[places.reshape(-1)].tolist()]


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
