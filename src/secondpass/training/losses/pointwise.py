"""Each document judged by itself: a unit is a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch.nn import functional as F

from secondpass.errors import InvalidInput
from secondpass.text import finite_number, positive_number
from secondpass.training.losses.loss import Loss, Tensor, cleaned


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """How unlikely the label is under the sigmoid of the logit: -(w y log p + (1 - y) log(1 - p)).

    The mean over units is that of torch's BCEWithLogitsLoss. Nogueira and Cho 2019, "Passage Re-ranking with BERT",
    arXiv:1901.04085.

    Attributes:
        pos_weight: w, what a positive counts beside a negative; None is 1. "balanced" is what makes both count alike
            over all the training data: the loss that `balanced` returns, for which the counts must be known.
    """

    pos_weight: float | Literal["balanced"] | None = None

    labels = "relevance"
    shortest = 1

    def __post_init__(self) -> None:
        if self.pos_weight is not None and self.pos_weight != "balanced":
            positive_number(self.pos_weight, "pos_weight")

    def balanced(self, positives: float, negatives: float) -> BinaryCrossEntropy:
        """Return the loss with pos_weight = negatives / positives.

        Args:
            positives: sum of all labels of the training data.
            negatives: sum of 1 - label.

        Raises:
            InvalidInput: one of them is not above 0: there is nothing to balance.
        """
        weight = positive_number(negatives, "negatives") / positive_number(positives, "positives")
        return replace(self, pos_weight=weight)

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per document.

        Raises:
            InvalidInput: pos_weight is still "balanced".
        """
        if self.pos_weight == "balanced":
            needed = "needs the counts of the labels: use the loss that balanced() gives"
            raise InvalidInput(f'pos_weight="balanced" {needed}')
        logits, labels = (values[mask] for values in cleaned(logits, labels, mask))
        weight = 1.0 if self.pos_weight is None else float(self.pos_weight)
        return -(weight * labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits))


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """How unlikely the class is under the softmax of its logits: -w_y log p_y.

    The mean over units divides by their number, where torch's CrossEntropyLoss with weights divides by the sum of
    the weights met in the batch: then what a document counts would depend on its neighbours. Without weights both are
    the same. Devlin et al. 2019, "BERT", arXiv:1810.04805.

    Attributes:
        weights: w, what a document of each class counts; None is 1 for all.
    """

    weights: Sequence[float] | None = None

    labels = "class"
    shortest = 1

    def __post_init__(self) -> None:
        if self.weights is None:
            return
        if isinstance(self.weights, str) or not isinstance(self.weights, Sequence):
            raise InvalidInput(f"weights={self.weights!r} is not a list of numbers")
        checked = tuple(finite_number(weight, f"weights[{at}]") for at, weight in enumerate(self.weights))
        if min(checked, default=-1) < 0 or not any(checked):
            raise InvalidInput(f"weights={self.weights!r} has a number below 0, or none above")
        object.__setattr__(self, "weights", checked)

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per document; `logits` are [groups, documents, classes].

        Raises:
            InvalidInput: `logits` has another shape, or not as many classes as there are weights.
        """
        if logits.dim() != 3 or not logits.shape[:2] == labels.shape == mask.shape:
            raise InvalidInput(f"logits {list(logits.shape)} are not [groups, documents, classes]")
        if self.weights is not None and len(self.weights) != logits.shape[2]:
            raise InvalidInput(f"weights are {len(self.weights)}, the classes of the model {logits.shape[2]}")
        weights = None if self.weights is None else logits.new_tensor(self.weights)
        return F.cross_entropy(logits[mask], labels[mask].long(), weights, reduction="none")


@dataclass(frozen=True)
class MSE(Loss):
    """Squared error of the logit: (s - y)^2.

    The mean over units is that of torch's MSELoss. Cossock and Zhang 2006, "Subset Ranking Using Regression".
    """

    labels = "score"
    shortest = 1

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per document."""
        logits, labels = cleaned(logits, labels, mask)
        return (logits[mask] - labels[mask]).square()
