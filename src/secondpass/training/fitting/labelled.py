"""One batch of `InputExample`s, checked: texts to tokenise and a tensor of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from secondpass.errors import InvalidInput
from secondpass.text import checked

LARGEST = float(torch.finfo(torch.float32).max)
LARGEST_CLASS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What a label may be.

    One label: a finite number, within [0, 1] for the default loss. Several: the index of a class, one that the
    head has for the default loss. A loss of the caller's own may give other values a meaning.
    """

    num_labels: int
    default_loss: bool


@dataclass(frozen=True, slots=True)
class Labelled:
    """`labels` are float32 [examples] for a head with one label, else int64 [examples]; on the CPU."""

    texts: list[list[str]]
    labels: torch.Tensor
    guids: tuple[str, ...]


def labelled(batch: object, rule: LabelRule, where: str) -> Labelled:
    """Check a batch of examples: any objects with `texts`, `label` and perhaps `guid`.

    Raises:
        InvalidInput: no examples, or one with other texts or another label than `rule` allows; the message
            begins with `where` and names the example's position in the batch and its guid.
    """
    if not isinstance(batch, (list, tuple)) or not batch:
        raise InvalidInput(f"{where}: train_dataloader gave {_described(batch)}, not a batch of InputExample")
    texts: list[list[str]] = []
    labels: list[int | float] = []
    for position, example in enumerate(batch):
        guid = getattr(example, "guid", "")
        name = f"{where}: examples[{position}]" + (f" (guid {guid!r})" if guid else "")
        if not hasattr(example, "texts") or not hasattr(example, "label"):
            raise InvalidInput(f"{name} is {type(example).__name__}, not an InputExample")
        texts.append(_texts(example.texts, name))
        if len(texts[-1]) != len(texts[0]):
            raise InvalidInput(f"{name} has {len(texts[-1])} texts where examples[0] has {len(texts[0])}")
        labels.append(_label(example.label, rule, name))
    dtype = torch.float32 if rule.num_labels == 1 else torch.int64
    guids = tuple(str(getattr(example, "guid", "")) for example in batch)
    return Labelled(texts, torch.tensor(labels, dtype=dtype), guids)


def _described(batch: object) -> str:
    return "an empty batch" if isinstance(batch, (list, tuple)) else type(batch).__name__


def _texts(texts: object, name: str) -> list[str]:
    if isinstance(texts, (str, bytes)) or not isinstance(texts, (Sequence, np.ndarray)):
        raise InvalidInput(f"{name} has texts of type {type(texts).__name__}, not a list of str")
    if len(texts) not in (1, 2):
        raise InvalidInput(f"{name} has {len(texts)} texts, not one or two")
    return [checked(text, f"{name}.texts[{number}]") for number, text in enumerate(texts)]


def _label(label: Any, rule: LabelRule, name: str) -> int | float:
    if isinstance(label, (torch.Tensor, np.ndarray, np.generic)) and math.prod(label.shape) == 1:
        label = label.item()
    if not isinstance(label, (int, float)):
        raise InvalidInput(f"{name} has a label of type {type(label).__name__}, not a number")
    # said so that NaN is refused too
    if not -LARGEST <= label <= LARGEST:
        raise InvalidInput(f"{name} has label {label}, not a finite float32 number")
    if rule.num_labels == 1:
        if rule.default_loss and not 0 <= label <= 1:
            raise InvalidInput(f"{name} has label {label}: the default loss takes labels in [0, 1]")
        return float(label)
    if label != int(label) or abs(label) > LARGEST_CLASS:
        raise InvalidInput(f"{name} has label {label}, not the index of a class")
    if rule.default_loss and not 0 <= label < rule.num_labels:
        raise InvalidInput(f"{name} has label {label}: the model has classes 0 to {rule.num_labels - 1}")
    return int(label)
