"""The architectures that are computed by our own forwards, a family a file; all others are transformers' own.

A new architecture is a line in its family's file, a new family one file and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from secondpass.forwards.description import Description, Family, NotDescribed, TrainableModules, is_plain
from secondpass.forwards.families import bert, deberta, decoder, modernbert
from secondpass.forwards.readout import ReadoutModel

FAMILIES: tuple[Family[Any], ...] = (bert.FAMILY, deberta.FAMILY, modernbert.FAMILY, decoder.FAMILY)


def body_of(model: Any) -> Any:
    """What transformers made of a model: what stands below a readout, or the model itself."""
    return model.body if isinstance(model, ReadoutModel) else model


def architecture_of(model: nn.Module) -> str | None:
    """The name of transformers' class that a model is of, or its body's below a readout; None for another's class."""
    kind = type(body_of(model))
    return kind.__name__ if kind.__module__.startswith("transformers.models.") else None


def family_of(model: nn.Module) -> Family[Any] | None:
    """The family of a model's architecture; None for one that we have not."""
    name = architecture_of(model)
    return next((family for family in FAMILIES if name in family.architectures), None)


def describe(model: nn.Module) -> Description | None:
    """The weights of a sequence-classification model of transformers, or of a body and its readout.

    Descriptions share the model's memory where torch's layout allows it; only the joined projection of query, key and
    value is a copy. `choosing.Watch` tells when one has grown old.

    Args:
        model: of any class.

    Returns:
        What its family has; None for one that is not covered, and for a model that was changed: adapters, hooks,
        quantised layers, a head of its own, weights of several types or on several devices.
    """
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


def trainable(model: nn.Module) -> TrainableModules | None:
    """A model's modules for training without padding; None where its architecture is trained in padded rectangles."""
    family = family_of(model)
    reads = None if family is None else family.architectures[str(architecture_of(model))].trainable
    return None if reads is None else reads(model)


def below(model_type: str) -> Mapping[str, int]:
    """Weights that are registered above the layers and work below them, by their name in the encoder."""
    return next((family.below[model_type] for family in FAMILIES if model_type in family.below), {})
