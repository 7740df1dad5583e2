"""LabelledExamples pairs to trained weights: what `CrossEncoder.fit` does.

Keeps the contract of sentence-transformers 3.4's `fit`; docs/compatibility.md lists what differs. Examples are checked
(`labelled`), a loss judges their logits (`Objective`), and training's own loop does the rest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.text import checked, is_row
from secondpass.training.running.loop import Evaluation, Gradients, Trainable, TrainingRun, claimed
from secondpass.training.running.run_watch import make_folder
from secondpass.training.weights.layers import parameter_groups
from secondpass.training.weights.optimisation import (
    NO_SCORE,
    BestWeights,
    Optimisation,
    make_schedule,
    trainable_weights,
)

logger = logging.getLogger(__name__)

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Activation = Callable[[torch.Tensor], torch.Tensor]

IDENTITY = nn.Identity()
OPTIMIZER_PARAMS: Mapping[str, Any] = MappingProxyType({"lr": 2e-5})
LARGEST = float(torch.finfo(torch.float32).max)
LARGEST_CLASS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class HeadLabels:
    """What a label may be.

    One label: a finite number, within [0, 1] for the default loss. Several: the index of a class, one that the
    head has for the default loss. A loss of the caller's own may give other values a meaning, and lists of finite
    numbers, of one length in a batch.
    """

    num_labels: int
    default_loss: bool


@dataclass(frozen=True, slots=True)
class LabelledExamples:
    """`labels` on the CPU: float32 [examples] for a head of one label, else int64 [examples]; of lists see `fit`."""

    texts: list[list[str]]
    labels: torch.Tensor
    guids: tuple[str, ...]


def labelled(batch: object, rule: HeadLabels, where: str) -> LabelledExamples:
    """Check a batch of examples: any objects with `texts`, `label` and perhaps `guid`.

    Raises:
        InvalidInput: no examples, or one with other texts or another label than `rule` allows; the message
            begins with `where` and names the example's position in the batch and its guid.
    """
    if not isinstance(batch, (list, tuple)) or not batch:
        given = "an empty batch" if isinstance(batch, (list, tuple)) else type(batch).__name__
        raise InvalidInput(f"{where}: train_dataloader gave {given}, not a batch of InputExample")
    texts: list[list[str]] = []
    labels: list[int | float | list[int | float]] = []
    for position, example in enumerate(batch):
        guid = getattr(example, "guid", "")
        name = f"{where}: examples[{position}]" + (f" (guid {guid!r})" if guid else "")
        if not hasattr(example, "texts") or not hasattr(example, "label"):
            raise InvalidInput(f"{name} is {type(example).__name__}, not an InputExample")
        texts.append(_texts(example.texts, name))
        if len(texts[-1]) != len(texts[0]):
            raise InvalidInput(f"{name} has {len(texts[-1])} texts where examples[0] has {len(texts[0])}")
        labels.append(_label(example.label, rule, name))
        if (shape := np.shape(labels[-1])) != (first := np.shape(labels[0])):
            raise InvalidInput(f"{name} has a label of shape {shape} where that of examples[0] has {first}")
    numbers = [number for label in labels for number in (label if isinstance(label, list) else [label])]
    whole = all(isinstance(number, int) and abs(number) <= LARGEST_CLASS for number in numbers)
    dtype = torch.int64 if whole and rule.num_labels > 1 else torch.float32
    guids = tuple(str(getattr(example, "guid", "")) for example in batch)
    return LabelledExamples(texts, torch.tensor(labels, dtype=dtype), guids)


def _texts(texts: object, name: str) -> list[str]:
    if not is_row(texts):
        raise InvalidInput(f"{name} has texts of type {type(texts).__name__}, not a list of str")
    if len(texts) not in (1, 2):
        raise InvalidInput(f"{name} has {len(texts)} texts, not one or two")
    return [checked(text, f"{name}.texts[{number}]") for number, text in enumerate(texts)]


def _number(value: Any, name: str, what: str) -> int | float:
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)) and math.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(value, (int, float)):
        raise InvalidInput(f"{name} has a {what} of type {type(value).__name__}, not a number")
    # said so that NaN is refused too
    if not -LARGEST <= value <= LARGEST:
        raise InvalidInput(f"{name} has {what} {value}, not a finite float32 number")
    return value


def _label(label: Any, rule: HeadLabels, name: str) -> int | float | list[int | float]:
    if not rule.default_loss and isinstance(label, (torch.Tensor, np.ndarray)) and math.prod(label.shape) > 1:
        label = list(label)
    if not rule.default_loss and isinstance(label, (list, tuple)) and label:
        return [_number(number, name, f"label[{place}]") for place, number in enumerate(label)]
    label = _number(label, name, "label")
    if rule.num_labels == 1:
        if rule.default_loss and not 0 <= label <= 1:
            raise InvalidInput(f"{name} has label {label}: the default loss takes labels in [0, 1]")
        return float(label)
    if label != int(label) or abs(label) > LARGEST_CLASS:
        raise InvalidInput(f"{name} has label {label}, not the index of a class")
    if rule.default_loss and not 0 <= label < rule.num_labels:
        raise InvalidInput(f"{name} has label {label}: the model has classes 0 to {rule.num_labels - 1}")
    return int(label)


class Objective:
    """The loss of a batch: forward, activation, `loss_fct(logits, labels)`.

    Logits are float32, [examples] for one label, else [examples, labels]; labels float32 or int64 [examples].

    Args:
        model: a transformers sequence-classification model.
        loss_fct, activation_fct, use_amp: as in `fit`; the activation gets logits [examples, labels].

    Raises:
        InvalidInput: `loss_fct` is a class.
    """

    def __init__(self, model: Any, loss_fct: Loss | None, activation_fct: Activation, use_amp: bool) -> None:
        if isinstance(loss_fct, type):
            raise InvalidInput(f"loss_fct is the class {loss_fct.__name__}: give an object of it")
        self._model = model
        self._num_labels: int = model.config.num_labels
        self._activation = activation_fct
        self._use_amp = use_amp
        if loss_fct is None:  # an empty module is false, and a loss all the same
            loss_fct = nn.BCEWithLogitsLoss() if self._num_labels == 1 else nn.CrossEntropyLoss()
        self._loss: Loss = loss_fct
        if isinstance(self._loss, nn.Module):
            self._loss.to(model.device)
            if any(weight.requires_grad for weight in self._loss.parameters()):
                logger.warning("loss_fct has parameters of its own: fit trains only the model's")

    def __call__(self, features: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss.

        Raises:
            InvalidInput: `loss_fct` gives no scalar tensor that depends on the weights.
        """
        device = self._model.device.type
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        with torch.autocast(device, dtype=dtype, enabled=self._use_amp):
            logits = self._model(**features, return_dict=True).logits
            logits = self._activation(logits.float())
            if self._num_labels == 1:
                logits = logits.reshape(-1)
            loss = self._loss(logits, labels)
        if not isinstance(loss, torch.Tensor):
            raise InvalidInput(f"loss_fct(logits, labels) gives {type(loss).__name__}, not a scalar tensor")
        if loss.numel() != 1:
            raise InvalidInput(f"loss_fct(logits, labels) gives a tensor of shape {tuple(loss.shape)}, not a scalar")
        if not loss.requires_grad:
            raise InvalidInput("loss_fct(logits, labels) gives a tensor that does not depend on the model's weights")
        return loss.reshape(())


def fit(
    encoder: Trainable,
    train_dataloader: Any,
    evaluator: Any = None,
    epochs: int = 1,
    loss_fct: Loss | None = None,
    activation_fct: Activation = IDENTITY,
    scheduler: Any = "WarmupLinear",
    warmup_steps: int = 10000,
    optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    optimizer_params: Mapping[str, Any] = OPTIMIZER_PARAMS,
    weight_decay: float = 0.01,
    evaluation_steps: int = 0,
    output_path: str | None = None,
    save_best_model: bool = True,
    max_grad_norm: float = 1,
    use_amp: bool = False,
    callback: Callable[[float, int, int], object] | None = None,
    show_progress_bar: bool = True,
) -> None:
    """Train `encoder` on batches of `InputExample`.

    Args:
        encoder: the cross-encoder; afterwards it has the best weights (with an evaluator), else the last.
        train_dataloader: gives lists of examples, and has a length; its `collate_fn` is ours meanwhile.
        evaluator: called as `evaluator(encoder, output_path=, epoch=, steps=)`; gives a float, higher is better.
        epochs: how often to go through the loader.
        loss_fct: gets logits float32 [examples] and labels float32 [examples] for one label, else logits
            [examples, labels] and labels int64 [examples], or of labels that are lists [examples, numbers], float32
            where one of a batch's numbers is a float; None takes BCEWithLogitsLoss or CrossEntropyLoss.
        activation_fct: applied to the logits before the loss.
        scheduler: a name of `optimisation.SCHEDULES`, or an object whose `step()` is called after each step.
        warmup_steps: steps in which the learning rate rises.
        optimizer_class: makes the optimizer from two parameter groups.
        optimizer_params: its keyword arguments.
        weight_decay: of all weights but biases and those of normalisation, see `layers.parameter_groups`.
        evaluation_steps: evaluate after each so many steps of an epoch too; 0 only at its end (steps=-1).
        output_path: folder for the best model, or for the last if there is no evaluator; made if missing.
        save_best_model: False neither saves nor restores the best weights.
        max_grad_norm: longer gradients are shortened to this; infinity leaves them.
        use_amp: mixed precision: float16 with loss scaling on CUDA, bfloat16 elsewhere.
        callback: called with (score, epoch, steps) after each evaluation.
        show_progress_bar: show bars over epochs and steps.

    Raises:
        InvalidInput: an argument, or an example's texts or label; the message names it.
        TrainingError: the loss or the gradient is not finite; weights and saved model are as before that step.
        CheckpointError: `output_path` is no folder.
    """
    if not max_grad_norm > 0:
        raise InvalidInput(f"max_grad_norm={max_grad_norm!r} is not positive; float('inf') clips nothing")
    total = _total_steps(train_dataloader, epochs)
    with claimed(encoder), _examples_of(train_dataloader):
        model = encoder.model
        weights = trainable_weights(model)
        make_folder(output_path)
        encoder.best_score = NO_SCORE
        rule = HeadLabels(encoder.config.num_labels, loss_fct is None)
        objective = Objective(model, loss_fct, activation_fct, use_amp)
        optimizer = optimizer_class(parameter_groups(model, weight_decay=weight_decay, frozen=True), **optimizer_params)
        schedule = make_schedule(scheduler, optimizer, warmup_steps, total)
        scaler = torch.amp.GradScaler(encoder.device.type, enabled=use_amp and encoder.device.type == "cuda")
        optimisation = Optimisation(weights, optimizer, schedule, scaler, max_grad_norm)
        evaluation = Evaluation(evaluator, evaluation_steps, callback, output_path, save_best_model)
        save = None if output_path is None else lambda: encoder.save(output_path)
        best = BestWeights(model, save_best_model, save)
        learner = ExampleLearner(encoder, rule, objective, optimisation)
        run = TrainingRun(encoder, learner, optimisation, evaluation, best)
        run.train(lambda epoch, step: train_dataloader, epochs, show_progress_bar)


@dataclass(frozen=True, slots=True)
class ExampleLearner:
    """A batch of `InputExample` to gradients."""

    encoder: Trainable
    rule: HeadLabels
    objective: Objective
    optimisation: Optimisation

    def __call__(self, batch: object, where: str) -> Gradients:
        """Check the batch, and leave clipped gradients."""
        examples = labelled(batch, self.rule, where)
        features = self.encoder.collate(examples.texts)
        loss = self.objective(features, examples.labels.to(self.encoder.device))
        norm = self.optimisation.backward(loss)
        return Gradients(loss, norm, examples.guids, len(examples.texts), int(features["attention_mask"].sum()))


def _total_steps(loader: Any, epochs: int) -> int:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise InvalidInput(f"epochs={epochs!r} is not a number of epochs")
    try:
        steps = len(loader)
    except TypeError:
        raise InvalidInput("train_dataloader has no length, which the learning rate's schedule needs") from None
    if not steps:
        raise InvalidInput("train_dataloader is empty: no examples, or fewer than one batch with drop_last")
    return steps * epochs


def _as_they_are(batch: object) -> object:
    return batch


@contextmanager
def _examples_of(loader: Any) -> Iterator[None]:
    """Let the loader give examples, tokenised later by us: worker processes shall not touch the device."""
    if not hasattr(loader, "collate_fn"):
        yield
        return
    before = loader.collate_fn
    loader.collate_fn = _as_they_are
    _forget_workers(loader)
    try:
        yield
    finally:
        loader.collate_fn = before
        _forget_workers(loader)


def _forget_workers(loader: Any) -> None:
    """Stop persistent workers: they keep the `collate_fn` they were started with."""
    if getattr(loader, "persistent_workers", False):
        loader._iterator = None
