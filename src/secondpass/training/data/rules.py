"""What one group must be before anything is learnt from it: no text empty, and labels that the loss reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int
from secondpass.text import is_blank
from secondpass.training.data.groups import Group, checked_teaching

if TYPE_CHECKING:
    from secondpass.training.losses.contract import LabelKind, Loss

LARGEST = 3.4028234663852886e38
"""Of float32, in which labels are compared with logits."""
KINDS = ("relevance", "grade", "score", "class")


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What a loss can read.

    Attributes:
        kind: of its labels.
        classes: of the model; counts for the kind "class" alone.
        shortest: documents that a group needs.
        needs_contrast: whether a group whose labels are all equal teaches nothing.
        borrows: whether documents of other groups of the step are added, as in-batch negatives.
        taught: whether a teacher's scores count beside the labels.
    """

    kind: LabelKind
    classes: int
    shortest: int
    needs_contrast: bool
    borrows: bool
    taught: bool = False


def rule_of(loss: Loss, num_labels: int) -> LabelRule:
    """What `loss` can read on a model with `num_labels` outputs.

    Raises:
        InvalidInput: the loss has other attributes than `losses.contract.Loss` says, or it reads classes and the model
            has fewer than two.
    """
    kind: Any = getattr(loss, "labels", None)
    if kind not in KINDS:
        raise InvalidInput(f"loss.labels is {kind!r}, none of {', '.join(KINDS)}")
    if positive_int(num_labels, "num_labels") == 1 and kind == "class":
        raise InvalidInput(f"{type(loss).__name__} reads classes, and a model with num_labels=1 has none")
    shortest = positive_int(loss.shortest, "loss.shortest")
    return LabelRule(
        kind,
        num_labels,
        shortest,
        bool(loss.needs_contrast),
        bool(getattr(loss, "in_batch_negatives", 0)),
        bool(getattr(loss, "taught", False)),
    )


def sound(group: object, rule: LabelRule, name: str) -> Group:
    """`group` with tuples of Python's own numbers, if it keeps the rule.

    Args:
        group: to check.
        rule: for its labels.
        name: what the message calls it if it has no source.

    Raises:
        InvalidInput: the first thing that is wrong; the message begins with the group's source.
    """
    if not isinstance(group, Group):
        raise InvalidInput(f"{name} is {type(group).__name__}, not a Group")
    name = group.source or name
    documents, labels, ids = (
        _listed(values, f"{name}: {what}")
        for what, values in (
            ("documents", group.documents),
            ("labels", group.labels),
            ("document_ids", group.document_ids),
        )
    )
    if not documents:
        raise InvalidInput(f"{name}: no document")
    if len(labels) != len(documents):
        raise InvalidInput(f"{name}: {len(documents)} documents and {len(labels)} labels")
    if ids and len(ids) != len(documents):
        raise InvalidInput(f"{name}: {len(documents)} documents and {len(ids)} document_ids")
    _check_text(group.query, f"{name}: the query")
    for index, document in enumerate(documents):
        _check_text(document, f"{name}: {called(group, index)}")
    numbers = tuple(_label(label, rule, f"{name}: {called(group, index)}") for index, label in enumerate(labels))
    teaching = checked_teaching(group.teaching, len(documents), name)
    return Group(group.query, documents, numbers, group.source, group.query_id, ids, teaching)


def called(group: Group, index: int) -> str:
    """What a message calls a document: by its id if it has one, else by position."""
    name = group.document_ids[index] if index < len(group.document_ids) else ""
    return f"document {name!r}" if name else f"documents[{index}]" if len(group.documents) > 1 else "the document"


def _listed(values: object, name: str) -> tuple[Any, ...]:
    if isinstance(values, tuple):
        return values
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise InvalidInput(f"{name} is {type(values).__name__}, not a tuple")
    return tuple(values)


def _check_text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is {type(value).__name__}, not a text")
    if is_blank(value):
        raise InvalidInput(f"{name} is empty")


def _label(label: Any, rule: LabelRule, name: str) -> float:
    if not isinstance(label, Real):
        raise InvalidInput(f"{name} has a label of type {type(label).__name__}, not a number")
    try:
        number = float(label)
    except OverflowError:
        number = math.inf
    # said so that NaN is refused too
    if not -LARGEST <= number <= LARGEST:
        raise InvalidInput(f"{name} has label {number:g}, not a finite number of float32")
    if rule.kind == "relevance" and not 0 <= number <= 1:
        raise InvalidInput(f"{name} has label {number:g}, not within [0, 1] (for grades: relevant_from)")
    if rule.kind == "grade" and number < 0:
        raise InvalidInput(f"{name} has label {number:g}, below 0: no grade")
    if rule.kind == "class" and not (number.is_integer() and 0 <= number < rule.classes):
        raise InvalidInput(f"{name} has label {number:g}, no class: the model has 0 to {rule.classes - 1}")
    return number
