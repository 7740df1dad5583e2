"""Single modules of torch and transformers as plain weights."""

from __future__ import annotations

import torch
from torch import nn

from secondpass.packed.encoder import HiddenActivation, Linear, Norm

# transformers' classes by the function they compute.
ACTIVATIONS: dict[str, HiddenActivation] = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}


class NotDescribed(Exception):
    """A part is not what its family has."""


def only(activations: set[HiddenActivation]) -> HiddenActivation:
    """The one activation that all layers have."""
    if len(activations) != 1:
        raise NotDescribed
    return next(iter(activations))


def hidden_activation(module: nn.Module) -> HiddenActivation:
    """Which function a module computes."""
    if type(module).__name__ not in ACTIVATIONS:
        raise NotDescribed
    return ACTIVATIONS[type(module).__name__]


def linear(module: nn.Module) -> Linear:
    """A linear layer with a bias."""
    if type(module) is not nn.Linear or module.bias is None:
        raise NotDescribed
    return Linear(module.weight.detach().contiguous(), module.bias.detach())


def joined(*modules: nn.Module) -> Linear:
    """Linear layers of one input as one layer, outputs side by side."""
    parts = [linear(module) for module in modules]
    return Linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))


def norm(module: nn.Module) -> Norm:
    """A layer normalisation with weight and bias."""
    if type(module) is not nn.LayerNorm or module.weight is None or module.bias is None:
        raise NotDescribed
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)


def table(module: nn.Module) -> torch.Tensor:
    """The rows of an embedding."""
    if type(module) is not nn.Embedding or module.max_norm is not None:
        raise NotDescribed
    return module.weight.detach().contiguous()
