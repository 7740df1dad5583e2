"""How a model is trained: every number in one place, checked when it is made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from secondpass.errors import InvalidInput
from secondpass.text import choice, positive_int, whole_number

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Train low-rank additions instead of the weights (Hu et al. 2021); needs the extra "train".

    Attributes:
        rank: of the additions.
        alpha: their weight is alpha / rank.
        dropout: in front of them.
        targets: names of the layers that get one; empty takes every linear layer of the encoder.
        merge: True adds them to the weights at the end; False saves them as an adapter beside the model.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    merge: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """All that decides what weights come out, given a model and groups.

    Attributes:
        loss: a name of `losses.LOSSES`.
        loss_options: its keyword arguments.
        epochs: how often every group is read.
        max_steps: exactly so many, over as many epochs as they take. None: as many as `epochs` have.
        minutes: end after so much time, all parts of the run counted, with the schedule stretched over what fits into
            it; how far a run gets is then the machine's matter. None: there is no such limit.
        groups_per_step: exactly so many groups a step, in random order; None takes `tokens_per_step`.
        tokens_per_step: groups of like length until they have so many real tokens.
        micro_batch_tokens: padded tokens of one forward; None takes what suits the device. Changes nothing but memory.
        cached: two passes a step: memory for one micro-batch whatever the loss couples (Gao et al. 2021, GradCache).
        learning_rate: the highest of the schedule.
        schedule: a name of `weights.optimisation.SCHEDULES`.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: of all weights but biases and those of normalisation.
        beta2: how slowly AdamW forgets the squares of gradients.
        layer_decay: the learning rate of each layer is so much that of the layer above; 1 is the same for all.
        frozen_layers: so many of the lowest layers, and the embeddings, stay as they are; 0 trains all.
        max_grad_norm: longer gradients are shortened to this.
        dropout: None: 0 on a CPU, where its random numbers cost a third of a step, else the model's own.
        precision: "auto": bfloat16 where the device multiplies faster in it (AMX, AMD's Zen 4 and 5), else float32.
        gradient_checkpointing: recompute activations instead of keeping them.
        averaging: decay of the moving average of the weights, which are then what is evaluated and saved; 0 is none.
        lora: None trains the weights themselves.
        evaluate_every: steps between evaluations; 0 only after each epoch.
        patience: stop after so many evaluations without a better score; 0 never.
        save_every: steps between checkpoints; 0 only after each epoch.
        keep: how many checkpoints are kept, also when the run is done. None: two while it runs, none when it is done.
        log_every: steps between lines of the log.
        seed: of shuffling, dropout and in-batch negatives.
    """

    loss: str = "binary_cross_entropy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 1
    max_steps: int | None = None
    minutes: float | None = None
    groups_per_step: int | None = None
    tokens_per_step: int = 8192
    micro_batch_tokens: int | None = None
    cached: bool = False
    learning_rate: float = 2e-5
    schedule: str = "warmuplinear"
    warmup: float = 0.1
    weight_decay: float = 0.01
    beta2: float = 0.999
    layer_decay: float = 1.0
    frozen_layers: int = 0
    max_grad_norm: float = 1.0
    dropout: float | None = None
    precision: Precision = "auto"
    gradient_checkpointing: bool = False
    averaging: float = 0.0
    lora: LoraSettings | None = None
    evaluate_every: int = 0
    patience: int = 0
    save_every: int = 0
    keep: int | None = None
    log_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "tokens_per_step", "log_every"):
            positive_int(getattr(self, name), name)
        for name in ("max_steps", "groups_per_step", "micro_batch_tokens", "keep"):
            if getattr(self, name) is not None:
                positive_int(getattr(self, name), name)
        for name in ("evaluate_every", "patience", "save_every", "frozen_layers", "seed"):
            whole_number(getattr(self, name), name)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and low <= value <= high):
                raise InvalidInput(f"{name}={value!r} is not a number from {low:g} to {high:g}")
        if self.minutes is not None and not self.minutes > 0:
            raise InvalidInput(f"minutes={self.minutes!r} is not above 0")
        if self.learning_rate <= 0 or self.max_grad_norm <= 0 or self.layer_decay <= 0:
            raise InvalidInput("learning_rate, max_grad_norm and layer_decay are above 0")
        choice(self.precision, get_args(Precision), "precision")

    def as_json(self) -> dict[str, Any]:
        """Plain values, for the manifest of a checkpoint and the card."""
        made = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        made["loss_options"] = dict(self.loss_options)
        if self.lora is not None:
            made["lora"] = asdict(self.lora) | {"targets": list(self.lora.targets)}
        return made


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("learning_rate", 0.0, 1.0),
    ("minutes", 0.0, math.inf),
    ("warmup", 0.0, 1.0),
    ("weight_decay", 0.0, 1.0),
    ("beta2", 0.0, 0.99999),
    ("layer_decay", 0.0, 1.0),
    ("max_grad_norm", 0.0, math.inf),
    ("dropout", 0.0, 0.9),
    ("averaging", 0.0, 0.99999),
)


# ---- A fault is said in the words of the interface that was used: Python's, a configuration's, or a command's options.
Interface = Literal["python", "configuration", "options"]
_INTERFACE: ContextVar[Interface] = ContextVar("interface", default="python")
_KEYS = {
    "join": "data.join",
    "dev_share": "data.dev_share",
    "loss": "settings.loss",
    "num_labels": "model.num_labels",
    "storage": "output.storage",
}


@contextmanager
def words_of(interface: Interface) -> Iterator[None]:
    """Let `worded` speak so meanwhile."""
    before = _INTERFACE.set(interface)
    try:
        yield
    finally:
        _INTERFACE.reset(before)


def worded(name: str, value: object) -> str:
    """What to write: "join=True", "data.join: true", or "--column label=NAME" for columns={"label": "NAME"}."""
    interface = _INTERFACE.get()
    if interface == "options" and name == "columns" and isinstance(value, Mapping):
        return " ".join(f"--column {role}={column or ''}" for role, column in value.items())
    if interface != "configuration":
        return f"{name}={value!r}"
    return "--no-resume" if name == "resume" else f"{_KEYS.get(name, name)}: {json.dumps(value, ensure_ascii=False)}"
