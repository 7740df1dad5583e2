"""Which layer a weight belongs to; the lowest layers frozen; a learning rate for each.

Howard & Ruder, "Universal language model fine-tuning for text classification" (2018): lower layers know more of the
language and less of the task, so they change less. The layer-wise decay of the rate is ELECTRA's (Clark et al. 2020).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secondpass.errors import InvalidInput
from secondpass.forwards.families import below, body_of
from secondpass.forwards.readout import ReadoutModel


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a model.

    Attributes:
        count: of the encoder.
        numbers: every parameter's name to its layer: 0 for embeddings, 1 to `count`, `head` for all above them.
    """

    count: int
    numbers: Mapping[str, int]

    @property
    def head(self) -> int:
        """The number of what stands on the encoder: pooler and classifier."""
        return self.count + 1


def layers_of(model: nn.Module) -> Layers:
    """Number the layers of a sequence classifier of transformers, or of a body and its readout.

    Layers are the entries of the outermost `ModuleList` in the encoder; of several ones (encoder and decoder) one after
    the other; of several in the same module (XLM's attentions and norms) side by side. Embeddings, and what comes
    before the first layer, are 0; what is outside the encoder, its pooler and what comes after the last layer are the
    head. A vocabulary that is read with the weights of the embeddings is 0 like those.
    """
    base = str(getattr(model, "base_model_prefix", ""))
    prefix = f"{base}." if base and any(name == base for name, _ in model.named_modules()) else ""
    starts, count = _starts(model, prefix)
    known = below(str(getattr(getattr(model, "config", None), "model_type", "")))
    numbers: dict[str, int] = {}
    reached = 0
    for name, _ in model.named_parameters():
        start = next((start for start in starts if name.startswith(f"{start}.")), None)
        if start is not None:
            numbers[name] = starts[start] + int(name[len(start) + 1 :].partition(".")[0]) + 1
            reached = max(reached, numbers[name])
        elif not name.startswith(prefix):
            numbers[name] = count + 1
        else:
            told = (number for part, number in known.items() if name.startswith(f"{prefix}{part}."))
            numbers[name] = next(told, _beside(model.get_submodule(name.rpartition(".")[0]), name, reached, count))
    return Layers(count, numbers)


def _starts(model: nn.Module, prefix: str) -> tuple[dict[str, int], int]:
    """The outermost lists of layers by name, with the number of layers below each; and the number of all layers."""
    lists: dict[str, dict[str, int]] = {}
    taken: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{other}.") for other in taken)
        if isinstance(module, nn.ModuleList) and name.startswith(prefix) and not inside:
            if next(module.parameters(), None) is not None:
                taken.append(name)
                lists.setdefault(name.rpartition(".")[0], {})[name] = len(module)
    starts: dict[str, int] = {}
    count = 0
    for beside in lists.values():
        longest = max(beside.values())
        starts |= {name: count for name, length in beside.items() if length == longest}
        count += longest
    return starts, count


def _beside(owner: nn.Module, name: str, reached: int, count: int) -> int:
    """The layer of a weight of the encoder that is in none of its lists; `reached` is that of the one before."""
    if "pooler" in name:
        return count + 1
    if isinstance(owner, nn.Embedding) or "embed" in name:
        return 0
    return reached if reached < count else count + 1


class Frozen(AbstractContextManager["Frozen"]):
    """Weights that were frozen together; as a context manager it frees them at the end.

    Attributes:
        names: of those that were trainable before.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]) -> None:
        self.names = tuple(weights)
        self._weights = weights

    def undo(self) -> None:
        """Make these weights trainable again, and no others."""
        for weight in self._weights.values():
            weight.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        self.undo()


def freeze(model: nn.Module, layers: int) -> Frozen:
    """Let the embeddings and the lowest `layers` of the encoder stay as they are; 0 freezes nothing.

    Nothing else of the model is changed; gradients that frozen weights have are dropped.

    Raises:
        InvalidInput: `layers` is below 0 or more than the encoder has.
    """
    found = layers_of(model)
    if isinstance(layers, bool) or not isinstance(layers, int) or not 0 <= layers <= found.count:
        known = f"a whole number from 0 to {found.count}, the model's layers"
        raise InvalidInput(f"frozen_layers={layers!r} is not {known}")
    chosen = {
        name: weight
        for name, weight in model.named_parameters()
        if layers and weight.requires_grad and found.numbers[name] <= layers
    }
    for weight in chosen.values():
        weight.requires_grad_(False)
        weight.grad = None
    return Frozen(chosen)


def rates(model: nn.Module, learning_rate: float, layer_decay: float) -> dict[str, float]:
    """Give every weight's learning rate: `learning_rate` for the head, `layer_decay` times less a layer downwards.

    Raises:
        InvalidInput: `learning_rate` is not above 0, or `layer_decay` not above 0 and at most 1.
    """
    if not 0 < learning_rate < float("inf"):
        raise InvalidInput(f"learning_rate={learning_rate!r} is not a number above 0")
    if not 0 < layer_decay <= 1:
        raise InvalidInput(f"layer_decay={layer_decay!r} is not above 0 and at most 1")
    found = layers_of(model)
    return {name: learning_rate * layer_decay ** (found.head - number) for name, number in found.numbers.items()}


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the outermost modules, lists of them aside, that hold weights of the head and no others."""
    found = layers_of(model)

    def inside(name: str, module: nn.Module) -> Iterator[str]:
        start = f"{name}." if name else ""
        held = {number for weight, number in found.numbers.items() if weight.startswith(start)}
        if held == {found.head} and not isinstance(module, nn.ModuleList):
            if any(is_read(model, weight) for weight in found.numbers if weight.startswith(start)):
                yield name
        elif found.head in held:
            for child, below in module.named_children():
                yield from inside(f"{start}{child}", below)

    return tuple(inside("", model))


def is_read(model: nn.Module, name: str) -> bool:
    """Tell whether scores depend on a weight: a readout passes by the pooler that its encoder may have."""
    return not (isinstance(model, ReadoutModel) and name.startswith("body.pooler."))


def encoder_linears(model: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers that are no part of the head."""
    found = layers_of(model)
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and found.numbers.get(f"{name}.weight", found.head) < found.head
    )


# ---- Fewer layers of a transformer, and narrower ones: a student that begins as a part of its teacher.
#
# Sanh et al. 2019, "DistilBERT" (https://arxiv.org/abs/1910.01108), which starts from every second layer; Sajjad et al.
# 2020, "On the Effect of Dropping Layers" (https://arxiv.org/abs/2004.03844).
# What configurations call the number of layers.
COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
# And the number of units inside a feed-forward block.
INNER = ("hidden_dim", "intermediate_size")


def drop_layers(encoder: Any, keep: Sequence[int] | int) -> tuple[int, ...]:
    """Keep some of a model's transformer layers, in place; it scores with those from now on.

    The configuration is changed with it, so that what `save` writes loads everywhere. A forward that was put in with
    `CrossEncoder.use_forward` is the caller's to change, and no other thread may score meanwhile.

    Args:
        encoder: a `CrossEncoder`, or a transformers model with one stack of layers (BERT, RoBERTa, DistilBERT,
            ELECTRA, ModernBERT, DeBERTa and the like; Qwen, Llama, Mistral, Gemma and other decoders), with a head of
            its own or below a readout.
        keep: the layers' numbers, from 0, rising; or how many, which takes them evenly spaced with the first and the
            last among them (one alone is the first).

    Returns:
        The numbers of the layers that were kept.

    Raises:
        InvalidInput: `keep` names layers that there are not, the model has no such stack, or the model would not load
            again (ModernBERT's first layer has another shape than the others, so it has to stay); nothing is changed.
    """
    model = encoder if isinstance(encoder, nn.Module) else encoder.model
    owner, name = _stack(model)
    layers = getattr(owner, name)
    kept = _numbers(keep, len(layers))
    config = _smaller(model.config, kept, len(layers))
    remaining = nn.ModuleList(layers[number] for number in kept)
    setattr(owner, name, remaining)
    try:
        _check_loads(model, config, kept)
    except InvalidInput:
        setattr(owner, name, layers)
        raise
    for number, layer in enumerate(remaining):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):
                setattr(part, "layer_idx", number)  # noqa: B010 - torch's types allow only tensors
    _become(encoder, model.config, config)
    return kept


def narrow_layers(encoder: Any, size: int) -> None:
    """Keep some units inside every feed-forward block of a model's transformer layers, in place, as `drop_layers` does.

    Those stay whose weights on the way in (of a gated block both) and on the way out are longest, by the lengths'
    product: magnitude pruning of whole units (Han et al. 2015, "Learning both Weights and Connections"; Li et al. 2017,
    "Pruning Filters for Efficient ConvNets"). What is lost is to be learnt again, from the wide model as the teacher.

    Args:
        encoder: what `drop_layers` takes, where the two or three matrices of a block are `nn.Linear` of their own:
            BERT's kin, DeBERTa, Qwen, Llama, Mistral, Gemma; ModernBERT's are not.
        size: units of a block, at most as many as there are.

    Raises:
        InvalidInput: `size` is refused, or the model has no such blocks; nothing is changed.
    """
    model = encoder if isinstance(encoder, nn.Module) else encoder.model
    owner, name = _stack(model)
    named = {key: getattr(model.config, key) for key in INNER if hasattr(model.config, key)}
    width = next(iter(named.values()), 0)
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= width:
        raise InvalidInput(f"size={size!r}: the model's blocks have {width} units")
    blocks = [_block(layer, width, number) for number, layer in enumerate(getattr(owner, name))]
    config = copy.deepcopy(model.config)
    for key in named:
        setattr(config, key, size)
    with torch.no_grad():
        for ups, down in blocks:
            worth = down.weight.float().norm(dim=0)
            for up in ups:
                worth = worth * up.weight.float().norm(dim=1)
            kept = worth.topk(size).indices.sort().values
            for up in ups:
                up.weight = nn.Parameter(up.weight[kept], up.weight.requires_grad)
                if up.bias is not None:
                    up.bias = nn.Parameter(up.bias[kept], up.bias.requires_grad)
                up.out_features = size
            down.weight = nn.Parameter(down.weight[:, kept], down.weight.requires_grad)
            down.in_features = size
    _become(encoder, model.config, config)


def _block(layer: nn.Module, width: int, number: int) -> tuple[list[nn.Linear], nn.Linear]:
    """The matrices of a layer's feed-forward block: into its units, and out of them."""
    found = [part for part in layer.modules() if type(part) is nn.Linear]
    ups = [part for part in found if part.out_features == width]
    downs = [part for part in found if part.in_features == width]
    if not 1 <= len(ups) <= 2 or len(downs) != 1 or downs[0] in ups:
        raise InvalidInput(
            f"layer {number} has {len(ups)} matrices into {width} units and {len(downs)} out of them: no block is known"
        )
    return ups, downs[0]


def _become(encoder: Any, config: Any, wanted: Any) -> None:
    """Change a model's configuration in place, and forget what belonged to the scores that it gave."""
    for key, value in vars(wanted).items():
        # Every part of the model holds the old object, or reads a copy of it made in its constructor.
        if vars(config).get(key) != value:
            setattr(config, key, value)
    if getattr(encoder, "calibration", None) is not None:
        encoder.forget_calibration()


def _stack(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that has the layers, and what it calls them."""
    count = next((getattr(model.config, name) for name in COUNTS if hasattr(model.config, name)), None)
    lists = {name: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList)}
    found = [
        name
        for name, part in lists.items()
        if len(part) == count and name.rpartition(".")[2] in ("layer", "layers", "h")
    ]
    if len(found) != 1:
        raise InvalidInput(f"{type(model).__name__} has {len(found)} stacks of {count} layers, not one")
    parent, _, name = found[0].rpartition(".")
    return model.get_submodule(parent), name


def _numbers(keep: Sequence[int] | int, count: int) -> tuple[int, ...]:
    if isinstance(keep, int) and not isinstance(keep, bool):
        if not 1 <= keep <= count:
            raise InvalidInput(f"keep={keep}: the model has {count} layers")
        return tuple(round(place * (count - 1) / max(1, keep - 1)) for place in range(keep))
    numbers = tuple(keep) if isinstance(keep, Sequence) and not isinstance(keep, (str, bytes)) else ()
    if not numbers or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise InvalidInput(f"keep={keep!r} is neither a number of layers nor a list of their numbers")
    if list(numbers) != sorted(set(numbers)) or numbers[0] < 0 or numbers[-1] >= count:
        raise InvalidInput(f"keep={list(numbers)} is not a rising list of numbers from 0 to {count - 1}")
    return numbers


def _smaller(config: Any, kept: tuple[int, ...], count: int) -> Any:
    """A copy of the configuration for the layers that are kept, its lists of one entry a layer included."""
    made = copy.deepcopy(config)
    for name in COUNTS:
        if hasattr(made, name):
            setattr(made, name, len(kept))
    for name, value in list(vars(made).items()):
        if "layer" in name and isinstance(value, (list, tuple)) and len(value) == count:
            setattr(made, name, [value[number] for number in kept])
    return made


def _check_loads(model: nn.Module, config: Any, kept: tuple[int, ...]) -> None:
    """Make sure that a model made from the configuration has weights of the same names and shapes."""
    model = body_of(model)
    with torch.device("meta"):
        fresh = type(model)(config)
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in fresh.state_dict().items()}
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if wrong:
        name = type(model).__name__
        raise InvalidInput(f"keep={list(kept)}: {name} with these layers would not load again ({wrong[0]} differs)")


def parameter_groups(
    model: nn.Module,
    *,
    learning_rate: float | None = None,
    weight_decay: float,
    layer_decay: float = 1.0,
    frozen: bool = False,
) -> list[dict[str, Any]]:
    """Group the weights by learning rate and weight decay.

    Biases and the weights of normalisation, whatever the architecture calls it, are not decayed: they set scales, which
    the decay would pull to 0 (Loshchilov & Hutter 2019 decay all; BERT's authors left these out, and everyone since).

    Args:
        model: a transformers model, or any other without `layer_decay`.
        learning_rate: of the head; None leaves it to the optimizer, the same for all.
        weight_decay: of what is decayed.
        layer_decay: the rate of each layer is so much that of the layer above.
        frozen: take the weights that are not trainable too, so that they may be unfrozen on the way.

    Returns:
        Groups for any optimizer of torch, with `param_names`: the highest rate first, the decayed before the others,
        weights in the model's order. A weight that several modules share is in one group.

    Raises:
        InvalidInput: there is nothing to train, or a number is refused.
    """
    if not 0 <= weight_decay < float("inf"):
        raise InvalidInput(f"weight_decay={weight_decay!r} is not a number from 0 on")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    rate_of = {} if learning_rate is None else rates(model, learning_rate, layer_decay)
    for name, weight in model.named_parameters():
        if not weight.requires_grad and not frozen:
            continue
        kept = not is_decayed(model, name)
        rate = {"lr": rate_of[name]} if rate_of else {}
        group = groups.setdefault(
            (-rate.get("lr", 0.0), kept),
            {"params": [], "param_names": [], **rate, "weight_decay": 0.0 if kept else float(weight_decay)},
        )
        group["params"].append(weight)
        group["param_names"].append(name)
    if not groups:
        raise InvalidInput("every parameter of the model is frozen: there is nothing to train")
    return [group for _, group in sorted(groups.items())]


def is_decayed(model: nn.Module, name: str) -> bool:
    """Tell whether the weight of that name is neither a bias nor one of normalisation."""
    owner, _, own = name.rpartition(".")
    return not (own == "bias" or own.endswith("_bias") or "norm" in type(model.get_submodule(owner)).__name__.lower())
