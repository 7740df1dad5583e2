"""The architectures that are computed by our own forwards, a family a file; all others are transformers' own.

A new architecture is a line in its family's file, a new family one file and one line here. Decoders are computed by
torch alone, so their file is read when a model of torch is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from secondpass.forwards.description import (
    Array,
    Broken,
    Encoder,
    NotDescribed,
    Readout,
    StoredConfig,
    StoredEncoder,
    StoredModule,
    StoredWeights,
    is_plain,
)
from secondpass.forwards.families import bert, deberta, modernbert
from secondpass.forwards.family import Description, Family, TrainableModules

if TYPE_CHECKING:
    from torch import nn

ENCODERS: tuple[Family[Any], ...] = (bert.FAMILY, deberta.FAMILY, modernbert.FAMILY)


@cache
def families() -> tuple[Family[Any], ...]:
    """Every family there is."""
    from secondpass.forwards.families import decoder

    return (*ENCODERS, decoder.FAMILY)


def body_of(model: Any) -> Any:
    """What transformers made of a model: what stands below a readout, or the model itself."""
    from secondpass.forwards.readout import ReadoutModel

    return model.body if isinstance(model, ReadoutModel) else model


def architecture_of(model: nn.Module) -> str | None:
    """The name of transformers' class that a model is of, or its body's below a readout; None for another's class."""
    kind = type(body_of(model))
    return kind.__name__ if kind.__module__.startswith("transformers.models.") else None


def family_of(model: nn.Module) -> Family[Any] | None:
    """The family of a model's architecture; None for one that we have not."""
    name = architecture_of(model)
    return next((family for family in families() if name in family.architectures), None)


def describe(model: nn.Module) -> Description | None:
    """The weights of a sequence-classification model of transformers, or of a body and its readout.

    Descriptions share the model's memory where torch's layout allows it; only the joined projection of query, key and
    value is a copy. `module.Watch` tells when one has grown old.

    Args:
        model: of any class.

    Returns:
        What its family has; None for one that is not covered, and for a model that was changed: adapters, hooks,
        quantised layers, a head of its own, weights of several types or on several devices.
    """
    import torch

    family = family_of(model)
    if family is None or not is_plain(model):
        return None
    kinds = {(weight.device, weight.dtype) for weight in model.parameters()}
    if len(kinds) != 1 or not next(iter(kinds))[1].is_floating_point or next(iter(kinds))[0].type == "meta":
        return None
    with torch.no_grad():
        try:
            made: Description = family.architectures[str(architecture_of(model))].describe(model)
        except (AttributeError, NotDescribed):
            return None
    return made


# ---- A folder's arrays, without torch.
#
# What classes kept beside their weights once, and transformers passes over.
BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids)$")
# What values of a config.json that are of another kind than they should be end in.
ODD = (TypeError, ValueError, LookupError, ArithmeticError)
POOLER = re.compile(rf"{BUFFERS.pattern}|^pooler\.")


def stored_family(architecture: str, model_type: object) -> Family[Any] | None:
    """The family whose folders are read without torch by these two names of a config.json; None where torch reads."""
    for family in ENCODERS:
        known = family.architectures.get(architecture)
        if known is not None and known.model_type is not None and known.model_type == model_type:
            return family
    return None


def weights_prefix(architecture: str) -> str | None:
    """What the names of weights below the head of one of our classes begin with; None for other classes."""
    known = [
        (family, family.architectures[architecture]) for family in ENCODERS if architecture in family.architectures
    ]
    return next((family.stored[own.model_type].prefix for family, own in known if own.model_type is not None), None)


def describe_stored(
    family: Family[Any],
    architecture: str,
    settings: Mapping[str, Any],
    weights: Mapping[str, Array],
    readout: Readout | None = None,
) -> tuple[Encoder, list[str]]:
    """A folder's model as plain weights, as `describe` has it of the model that transformers makes of the folder.

    Args:
        family: of `stored_family`.
        architecture: the class that config.json says the weights are of.
        settings: the content of config.json.
        weights: arrays float32 by name.
        readout: what a chain's modules compute of the last hidden states; None for a classification head.

    Returns:
        The description, and the names of weights that have no place in it.

    Raises:
        Broken: weights are missing, or of other shapes than config.json gives them.
        NotDescribed: it is not exactly what the class makes of such a config; the message says what is other.
    """
    own = family.architectures[architecture]
    kind = family.stored[str(own.model_type)]
    read_settings = {key: value for key, value in settings.items() if key not in kind.passed_over}
    config = StoredConfig(read_settings, kind.defaults, kind.aliases)
    read = StoredWeights(weights)
    try:
        functions = {
            place: name.removeprefix("=") if name.startswith("=") else str(getattr(config, name))
            for place, name in kind.functions.items()
        }
        model = StoredEncoder(read, config, functions, "" if readout is not None else kind.prefix, readout)
        encoder: Encoder = own.describe(model)
        _check_parts(encoder, config, kind.defaults)
        _check_sizes(encoder, config)
    except Broken:
        raise
    except (AttributeError, NotDescribed, *ODD) as error:
        reason = str(error) if isinstance(error, (AttributeError, NotDescribed)) else ""
        if isinstance(error, AttributeError) and isinstance(error.obj, StoredModule):
            raise Broken(reason, f"{error.obj.prefix}{error.name}") from None
        raise NotDescribed(reason or f"config.json says something of {architecture} that is not known") from None
    # a body below a readout has a pooler that nobody reads
    over = BUFFERS if readout is None else POOLER
    return encoder, sorted(name for name in weights if name not in read.read and not over.search(name))


def _check_parts(encoder: Encoder, config: StoredConfig, defaults: Mapping[str, Any]) -> None:
    """What one class has and another has not is there where the class has it, and nowhere else."""
    own = encoder.embeddings
    narrower = "embedding_size" in defaults and config.embedding_size != encoder.hidden
    biased = encoder.gated or all(layer.qkv.bias is not None for layer in encoder.layers)
    if (own.types is not None, own.projection is not None, biased) != ("type_vocab_size" in defaults, narrower, True):
        raise NotDescribed("token types, a projection of the embeddings or biases are missing, or nobody reads them")


def _check_sizes(encoder: Encoder, config: StoredConfig) -> None:
    """Every weight has the shape that the config gives it."""
    hidden, inner = config.count("hidden_size"), config.count("intermediate_size")
    own = encoder.embeddings
    width = hidden if own.projection is None else config.count("embedding_size")
    up = inner * (2 if encoder.gated else 1)
    wanted = [
        ("the embeddings", own.words, (config.count("vocab_size"), width)),
        ("their norm", own.norm.weight, (width,)),
    ]
    if own.positions is not None:
        wanted.append(("the positions", own.positions, (config.count("max_position_embeddings"), width)))
    if own.types is not None:
        wanted.append(("the token types", own.types, (config.count("type_vocab_size"), width)))
    if own.projection is not None:
        wanted.append(("their projection", own.projection.weight, (hidden, width)))
    norms = [encoder.final_norm, *(layer.attention_norm for layer in encoder.layers)]
    wanted += [("norms", norm.weight, (hidden,)) for norm in norms if norm is not None]
    for layer in encoder.layers:
        wanted += [
            ("query, key and value", layer.qkv.weight, (3 * hidden, hidden)),
            ("the attention's output", layer.attention_out.weight, (hidden, hidden)),
            ("the inner layer", layer.up.weight, (up, hidden)),
            ("the outer layer", layer.down.weight, (hidden, inner)),
            ("the outer norm", layer.output_norm.weight, (hidden,)),
        ]
    for name, array, shape in wanted:
        if tuple(array.shape) != shape:
            raise Broken(f"{name} have shape {list(array.shape)}, where config.json says {list(shape)}")
    _check_chain(encoder, hidden)
    whole = [encoder.heads, own.first_position, *(layer.window or 0 for layer in encoder.layers)]
    odd = not isinstance(config.layer_norm_eps, float) or any(type(one) is not int or one < 0 for one in whole)
    if odd or encoder.heads < 1 or hidden % encoder.heads:
        raise NotDescribed("config.json has heads, a window or an epsilon that cannot be")


def _check_chain(encoder: Encoder, hidden: int) -> None:
    """Biases and norms go with what they stand behind, and each step reads what the one before it gives."""
    width = hidden
    for step in encoder.readout.steps:
        if step.linear is not None:
            if step.linear.weight.shape[1] != width:
                raise Broken(f"the head reads {step.linear.weight.shape[1]} numbers of {width}")
            width = step.linear.weight.shape[0]
        if step.norm is not None and tuple(step.norm.weight.shape) != (width,):
            raise Broken(f"a norm of the head has shape {list(step.norm.weight.shape)}, where {width} numbers come in")
    parts = [part for layer in encoder.layers for part in (layer.qkv, layer.attention_out, layer.up, layer.down)]
    others = [*(step.linear for step in encoder.readout.steps), encoder.embeddings.projection]
    parts += [part for part in others if part is not None]
    norms = [layer.attention_norm for layer in encoder.layers] + [layer.output_norm for layer in encoder.layers]
    short = [part for part in parts if part.bias is not None and part.bias.shape != part.weight.shape[:1]]
    norms += [encoder.final_norm, encoder.embeddings.norm, *(step.norm for step in encoder.readout.steps)]
    uneven = [one for one in norms if one is not None and one.bias is not None and one.bias.shape != one.weight.shape]
    if short or uneven:
        raise Broken("a bias has another length than what it is added to")


def trainable(model: nn.Module) -> TrainableModules | None:
    """A model's modules for training without padding; None where its architecture is trained in padded rectangles."""
    family = family_of(model)
    reads = None if family is None else family.architectures[str(architecture_of(model))].trainable
    return None if reads is None else reads(model)


def below(model_type: str) -> Mapping[str, int]:
    """Weights that are registered above the layers and work below them, by their name in the encoder."""
    return next((family.below[model_type] for family in families() if model_type in family.below), {})
