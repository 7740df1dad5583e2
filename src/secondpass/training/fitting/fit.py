"""Labelled pairs to trained weights: what `CrossEncoder.fit` does.

Keeps the contract of sentence-transformers 3.4's `fit`; docs/compatibility.md lists what differs. The stages:
labelled (checked examples), objective (loss), optimisation (gradients, steps, learning rate), best_weights, and
training_loop, which runs them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.training.fitting.labelled import LabelRule, labelled
from secondpass.training.fitting.objective import Activation, Loss, Objective
from secondpass.training.running.claim import claimed, make_folder, trainable_weights
from secondpass.training.running.loop import Evaluation, Gradients, Run, Trainable
from secondpass.training.weights.best_weights import NO_SCORE, BestWeights
from secondpass.training.weights.optimisation import Optimisation
from secondpass.training.weights.parameter_groups import parameter_groups
from secondpass.training.weights.schedules import make_schedule

logger = logging.getLogger(__name__)

IDENTITY = nn.Identity()
OPTIMIZER_PARAMS: Mapping[str, Any] = MappingProxyType({"lr": 2e-5})


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
            [examples, labels] and labels int64 [examples]; None takes BCEWithLogitsLoss or CrossEntropyLoss.
        activation_fct: applied to the logits before the loss.
        scheduler: a name of `schedules.SCHEDULES`, or an object whose `step()` is called after each step.
        warmup_steps: steps in which the learning rate rises.
        optimizer_class: makes the optimizer from two parameter groups.
        optimizer_params: its keyword arguments.
        weight_decay: of all weights but biases and those of normalisation, see `weights.parameter_groups`.
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
        rule = LabelRule(encoder.config.num_labels, loss_fct is None)
        objective = Objective(model, loss_fct, activation_fct, use_amp)
        optimizer = optimizer_class(parameter_groups(model, weight_decay=weight_decay, frozen=True), **optimizer_params)
        schedule = make_schedule(scheduler, optimizer, warmup_steps, total)
        scaler = torch.amp.GradScaler(encoder.device.type, enabled=use_amp and encoder.device.type == "cuda")
        optimisation = Optimisation(weights, optimizer, schedule, scaler, max_grad_norm)
        evaluation = Evaluation(evaluator, evaluation_steps, callback, output_path, save_best_model)
        save = None if output_path is None else lambda: encoder.save(output_path)
        best = BestWeights(model, save_best_model, save)
        learner = ExampleLearner(encoder, rule, objective, optimisation)
        run = Run(encoder, learner, optimisation, evaluation, best)
        run.train(lambda epoch, step: train_dataloader, epochs, show_progress_bar)


@dataclass(frozen=True, slots=True)
class ExampleLearner:
    """A batch of `InputExample` to gradients."""

    encoder: Trainable
    rule: LabelRule
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
