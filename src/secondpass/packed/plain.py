"""Whether a model is what its class says.

A packed forward computes from weights alone, so it may stand in for a model only while nobody has put anything else
into it: adapters, hooks, quantised layers, replaced modules.
"""

from __future__ import annotations

from torch import nn

# Where the modules of an unchanged model come from.
SOURCES = ("torch.nn.modules.", "transformers.models.", "transformers.activations")


def is_plain(model: nn.Module) -> bool:
    """Whether every module is one of torch's or transformers' own, with nothing attached that changes its result."""
    return all(
        (type(module).__module__.startswith(SOURCES) or isinstance(module, nn.Dropout)) and not _is_hooked(module)
        for module in model.modules()
    )


def _is_hooked(module: nn.Module) -> bool:
    # training puts other random numbers into dropout, which does nothing here
    replaced = "forward" in module.__dict__ and not isinstance(module, nn.Dropout)
    return bool(module._forward_hooks or module._forward_pre_hooks or replaced)
