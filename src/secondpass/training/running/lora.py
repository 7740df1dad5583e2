"""Low-rank additions to the linear layers of the encoder, through peft.

Hu et al., "LoRA: Low-rank adaptation of large language models" (2021). The encoder stays as it is; the head, which
the task makes, is trained in full. A reranker that reads its vocabulary has no such head: nothing but additions is
trained, and they are those of the causal language model, so that their folder is an adapter of that.
"""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from secondpass.errors import CheckpointError, InvalidInput, ModelLoadError, SecondPassError, TrainingError
from secondpass.forwards.families import body_of
from secondpass.forwards.readout import ReadoutModel, reads_vocabulary
from secondpass.lazy import optional
from secondpass.models.building import build_model, load_compact
from secondpass.models.chains import readout_weights
from secondpass.models.config import Task, read_json
from secondpass.models.loading import quiet_transformers
from secondpass.models.modules import read_modules
from secondpass.models.weights import COMPACT
from secondpass.text import finite_number, positive_int, positive_number
from secondpass.training.checkpoints.checkpoints import sync
from secondpass.training.settings import LoraSettings
from secondpass.training.weights.layers import encoder_linears, head_modules

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True, slots=True)
class TrainedShare:
    """How many weights are trained."""

    trained: int
    total: int

    def __str__(self) -> str:
        return f"{self.trained:,} of {self.total:,} weights are trained ({self.trained / max(1, self.total):.1%})"


def trained_share(model: Any) -> TrainedShare:
    """Count a model's weights, shared ones once, and not the head's that LoRA keeps beside those it trains."""
    weights = [weight for name, weight in model.named_parameters() if ".original_module." not in name]
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return TrainedShare(trained, sum(weight.numel() for weight in weights))


class Lora:
    """A model with low-rank additions in it; made by `add_lora` or `load_lora`.

    Attributes:
        model: the very object that was given; it scores and trains as before, with the additions.
    """

    def __init__(self, model: Any, adapted: Any, trainable: frozenset[str]) -> None:
        self.model = model
        self._adapted: Any = adapted
        self._trainable = trainable

    def merge(self) -> None:
        """Add the additions to the weights; `model` is the plain class again, and trainable where it was before.

        Raises:
            SecondPassError: they are merged already.
            TrainingError: an addition is not finite; nothing is changed.
        """
        adapted = self._checked()
        broken = [name for name, weight in self.model.named_parameters() if not bool(weight.isfinite().all())]
        if broken:
            raise TrainingError(f"{broken[0]} is not finite: it is not merged")
        training = self.model.training
        adapted.merge_and_unload()
        self._adapted = None
        for name, weight in self.model.named_parameters():
            weight.requires_grad_(name in self._trainable)
        self.model.train(training)

    def merged_copy(self) -> Any:
        """Give a plain model of the same scores, to be saved or evaluated while this one trains on."""
        self._checked()
        twin = copy.deepcopy(self)
        twin.merge()
        return twin.model

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the additions and the head as an adapter folder of peft: two files, other files stay.

        Raises:
            SecondPassError: they are merged already.
            CheckpointError: the folder cannot be written; an adapter that was there is still there.
        """
        adapted, target = self._checked(), Path(folder)
        unfinished: Path | None = None
        try:
            target.mkdir(parents=True, exist_ok=True)
            unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=target))
            # "auto" would ask the hub about the size of the vocabulary
            adapted.save_pretrained(str(unfinished), safe_serialization=True, save_embedding_layers=False)
            for name in (CONFIG, WEIGHTS):
                (unfinished / name).chmod((unfinished / CONFIG).stat().st_mode)
                sync(unfinished / name)
            for name in (CONFIG, WEIGHTS):
                (unfinished / name).replace(target / name)
            sync(target)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"the adapter cannot be saved to {target}: {' '.join(str(error).split())}") from error
        finally:
            if unfinished is not None:
                shutil.rmtree(unfinished, ignore_errors=True)

    def _checked(self) -> Any:
        if self._adapted is None:
            raise SecondPassError("the additions are merged already")
        return self._adapted


def add_lora(model: Any, settings: LoraSettings) -> Lora:
    """Put additions into a sequence classifier or a body and its readout, in place, at random but so that scores stay.

    Random numbers are torch's. Afterwards the additions and the head are trainable, and nothing else.

    Raises:
        MissingExtra: peft is not installed.
        InvalidInput: a setting is refused, or a target is the name of no linear layer of the encoder.
    """
    positive_int(settings.rank, "lora.rank")
    positive_number(settings.alpha, "lora.alpha")
    if not 0 <= finite_number(settings.dropout, "lora.dropout") < 1:
        raise InvalidInput(f"lora.dropout={settings.dropout!r} is not a number from 0 to below 1")
    if isinstance(settings.targets, str):
        raise InvalidInput(f"lora.targets={settings.targets!r} is a str, not a list of names")
    changed = _changed(model)
    targets = lora_targets(changed, settings.targets)
    config = optional("peft", "peft", "train").LoraConfig(
        task_type="SEQ_CLS" if changed is model else "CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(targets),
        modules_to_save=list(head_modules(model)) if changed is model else None,
        bias="none",
    )
    with _undone_on_error(model) as trainable:
        adapted = _adapted(model, config)
    logger.info("LoRA of rank %d: %s", settings.rank, trained_share(model))
    return Lora(model, adapted, trainable)


def _changed(model: Any) -> Any:
    """What additions are put into: the model, or the causal language model below the rows that are read of it."""
    return body_of(model) if reads_vocabulary(model) else model


@contextmanager
def low_rank(model: Any, settings: LoraSettings) -> Iterator[Lora]:
    """Put additions into `model`; afterwards they are part of its weights."""
    lora = add_lora(model, settings)
    try:
        yield lora
    except BaseException:
        with suppress(TrainingError):  # weights that are not finite, which is why we are here
            lora.merge()
        raise
    lora.merge()


def load_lora(model: Any, folder: str | os.PathLike[str], trainable: bool = False) -> Lora:
    """Put the additions and the head of an adapter folder into the model they were made for, in place.

    Args:
        model: the base model; its head may be a new one.
        folder: on this machine; only safetensors are read.
        trainable: True to train on.

    Raises:
        MissingExtra: peft is not installed.
        InvalidInput: the model has an adapter already.
        ModelLoadError: the folder holds no whole LoRA adapter, or one of another model; the model is as it was.
    """
    peft, source = optional("peft", "peft", "train"), Path(folder)
    config, tensors = _read_adapter(peft, source)
    config.inference_mode = not trainable
    with _undone_on_error(model) as before:
        try:
            adapted = _adapted(model, config)
            wanted = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
            _check_fit(tensors, wanted)
            peft.set_peft_model_state_dict(adapted, tensors)
        except (ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
            if isinstance(error, SecondPassError):
                raise
            raise ModelLoadError(f"{source} does not fit the model: {' '.join(str(error).split())}") from error
    return Lora(model, adapted, before)


def load_trained(model: Any, folder: Path, adapter: str | None = None) -> None:
    """Put the weights that a run has left in its folder into the model that it began with; `adapter`: a folder in it.

    Raises:
        ModelLoadError: they are not there, broken or of another model.
    """
    if adapter is not None:
        load_lora(model, folder / adapter).merge()
        return
    with quiet_transformers():
        found = _readout_state(model, folder) if isinstance(model, ReadoutModel) else _stored_state(model, folder)
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise ModelLoadError(f"{folder} does not fit the model: {' '.join(str(error).split())}") from error


def _stored_state(model: Any, folder: Path, task: Task = "sequence-classification") -> dict[str, torch.Tensor]:
    """Of what transformers makes of the folder."""
    if (folder / COMPACT).is_file():
        stored = load_compact(folder, model.config, task)
    else:
        stored = build_model(folder, model.config, {"dtype": model.dtype}, new_head=False, task=task)
    state: dict[str, torch.Tensor] = stored.state_dict()
    return state


def _readout_state(model: ReadoutModel, folder: Path) -> dict[str, torch.Tensor]:
    modules = read_modules(folder)
    if modules is None:
        raise ModelLoadError(f"{folder} holds no module chain, and no rows of a vocabulary that are read")
    named = {"body": _stored_state(model, folder, modules.task), "readout": readout_weights(modules)}
    return {f"{part}.{name}": tensor for part, state in named.items() for name, tensor in state.items()}


def lora_targets(model: Any, names: Sequence[str] = ()) -> tuple[str, ...]:
    """Full names of the linear layers of the encoder that have one of `names`, or end in one; of all if it is empty.

    Raises:
        InvalidInput: a name fits none of them.
    """
    present = encoder_linears(model)
    for name in names:
        if not _fits(name, present):
            last = ", ".join(sorted({layer.rpartition(".")[2] for layer in present}))
            raise InvalidInput(f"lora.targets has {name!r}: the encoder's linear layers are named {last or 'nothing'}")
    if not present:
        raise InvalidInput(f"{type(model).__name__} has no linear layer in its encoder: LoRA has nothing to add to")
    return tuple(layer for layer in present if not names or any(_fits(name, (layer,)) for name in names))


def _fits(name: object, layers: Sequence[str]) -> bool:
    return isinstance(name, str) and bool(name) and any(f".{layer}".endswith(f".{name}") for layer in layers)


def _read_adapter(peft: Any, source: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    from safetensors.torch import load_file

    for name in (CONFIG, WEIGHTS):
        if not (source / name).is_file():
            raise ModelLoadError(f"{source} holds no {name}, so it is no adapter that can be read (no pickles are)")
    stored = read_json(source / CONFIG)  # ModelLoadError if it is no JSON object
    if stored.get("peft_type") != "LORA":
        raise ModelLoadError(f"{source} holds an adapter of type {stored.get('peft_type')}, not LORA")
    try:
        return peft.LoraConfig.from_pretrained(str(source)), load_file(source / WEIGHTS)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelLoadError(f"{source} is broken: {' '.join(str(error).split())}") from error


def _check_fit(stored: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    for name in sorted(stored.keys() | wanted.keys()):
        if name not in stored:
            raise ValueError(f"it lacks {name}")
        if name not in wanted:
            raise ValueError(f"the model has no place for {name}")
        if stored[name].shape != wanted[name].shape:
            raise ValueError(f"{name} has shape {list(stored[name].shape)}, in the model {list(wanted[name].shape)}")


def _adapted(model: Any, config: Any) -> Any:
    training = model.training
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft still asks transformers by an old name
        adapted = optional("peft", "peft", "train").get_peft_model(_changed(model), config)
    model.train(training)  # what peft adds begins in training mode
    return adapted


@contextmanager
def _undone_on_error(model: Any) -> Iterator[frozenset[str]]:
    """Put the model's own modules back if the block fails; peft leaves them half replaced. Gives what is trainable."""
    changed = _changed(model)
    if getattr(changed, "peft_config", None):
        raise InvalidInput("the model has an adapter already: merge it first")
    modules = [(module, dict(module._modules)) for module in model.modules()]
    trainable = frozenset(name for name, weight in model.named_parameters() if weight.requires_grad)
    try:
        yield trainable
    except BaseException:
        for module, children in modules:
            module._modules.clear()
            module._modules.update(children)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in trainable)
        if hasattr(changed, "peft_config"):
            del changed.peft_config
        raise
