"""Each document judged by itself: a unit is a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from secondpass.errors import InvalidInput
from secondpass.forwards.late import texts_of
from secondpass.forwards.learning.attention import DropoutSource
from secondpass.forwards.learning.packed import TrainingForward, training_forward
from secondpass.forwards.readout import late_of
from secondpass.text import finite_number, positive_number
from secondpass.tokens import Tokens
from secondpass.training.losses.loss import Loss, Tensor, cleaned
from secondpass.training.weights.optimisation import fingerprint_of_weights

if TYPE_CHECKING:
    from secondpass.reranker import Reranker


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


# ---- A document by its states, not by a score: what a teacher knows of every token.
@dataclass(frozen=True, eq=False, repr=False)
class StateDistillation(Loss):
    """How far a student's last states are from its teacher's, by angle; labels are not read.

    A text's distance is the mean of 1 - cosine over its tokens, and 1 - cosine of their means; a pair's is that of both
    together, for a model of late interaction the mean of its two texts'. From 0 to 4. Cosines are a part of
    DistilBERT's loss (Sanh et al. 2019, arXiv:1910.01108); states before a task is learnt are the first half of
    TinyBERT's training (Jiao et al. 2020, arXiv:1909.10351). What reads or compares states stays as it is.

    For `train(loss=StateDistillation(teacher))`, on any groups: what is read counts, not who is relevant. The student
    begins best as a part of the teacher (`drop_layers`, `narrow_layers`, `trim_vocabulary`).

    Attributes:
        teacher: a `CrossEncoder` with states as wide as the student's, all words of the student's tokenizer, and a
            window that is no smaller; both or neither are of late interaction.
    """

    teacher: Reranker

    labels = "score"
    shortest = 1
    reads_labels: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"StateDistillation({fingerprint_of_weights(self._model)})"

    @property
    def _model(self) -> Any:
        if self.teacher.model is None:
            raise InvalidInput("loss: the teacher is closed, load it again")
        return self.teacher.model

    def __call__(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """One unit per document: its distance, which stands in the place of its logit (`distances`)."""
        distances, _ = cleaned(logits, labels, mask)
        return distances[mask]

    def distances(self, student: Any, forward: TrainingForward) -> TrainingForward:
        """What gives a pair's distance where `forward`, the student's, gives its logit.

        Raises:
            InvalidInput: the teacher is not one for this student; the message says why.
        """
        model = self._model
        if any(getattr(own.config, "is_encoder_decoder", False) for own in (student.model, model)):
            raise InvalidInput("loss: states of a model with a decoder of its own are not compared")
        widths = [own.config.get_text_config().hidden_size for own in (student.model, model)]
        if widths[0] != widths[1]:
            raise InvalidInput(f"loss: the student's states have {widths[0]} numbers and the teacher's {widths[1]}")
        late = late_of(model) is not None
        if (late_of(student.model) is not None) != late:
            raise InvalidInput("loss: of student and teacher one reads query and document apart, the other together")
        own, known = student.window, self.teacher.window
        if own > known:
            raise InvalidInput(f"loss: the student's window is {own} tokens, the teacher's only {known}")
        names = self.teacher.tokenizer.model_input_names
        read = training_forward(model, names, self.teacher.padding, DropoutSource(0))
        return _Distances(forward, read, _ids(student.tokenizer, self.teacher.tokenizer), late)


def _ids(student: Any, teacher: Any) -> npt.NDArray[np.int32]:
    """The teacher's id of each of the student's: int32 [the student's vocabulary]."""
    own, known = student.get_vocab(), teacher.get_vocab()
    missing = sorted(own.keys() - known.keys())
    if missing:
        raise InvalidInput(
            f"loss: the teacher has no token {missing[0]!r}, which the student has ({len(missing)} in all)"
        )
    made = np.zeros(max(own.values()) + 1, np.int32)
    made[list(own.values())] = [known[token] for token in own]
    return made


@dataclass(frozen=True, slots=True)
class _Distances:
    """Model inputs to the distances of their pairs, float32 [pairs, 1], in the place of logits."""

    student: TrainingForward
    teacher: TrainingForward
    ids: npt.NDArray[np.int32]
    late: bool

    def __call__(self, tokens: Sequence[Tokens]) -> torch.Tensor:
        texts, pairs = texts_of(tokens) if self.late else (list(tokens), np.arange(len(tokens))[:, None])
        own = self.student.states(texts)
        with torch.no_grad():
            known = self.teacher.states([Tokens(self.ids[text.ids], text.type_ids) for text in texts]).to(own.device)
        lengths = torch.tensor([len(text) for text in texts], device=own.device)
        number = torch.repeat_interleave(torch.arange(len(texts), device=own.device), lengths)

        def sums(rows: torch.Tensor) -> torch.Tensor:
            return rows.new_zeros(len(texts), *rows.shape[1:]).index_add(0, number, rows)

        tokenwise = sums(1 - F.cosine_similarity(own, known, dim=-1)) / lengths
        means = 1 - F.cosine_similarity(sums(own), sums(known), dim=-1)
        return (tokenwise + means)[torch.from_numpy(pairs).to(own.device)].mean(1)[:, None]

    def states(self, tokens: Sequence[Tokens]) -> torch.Tensor:
        """The student's."""
        return self.student.states(tokens)
