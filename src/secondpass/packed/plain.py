"""Whether a model is what its class says, and still the one that was looked at.

A packed forward computes from weights alone, so it may stand in for a model only while nobody has put anything else
into it: adapters, hooks, quantised layers, replaced modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

# Where the modules of an unchanged model come from.
SOURCES = ("torch.nn.modules.", "transformers.models.", "transformers.activations")

# Elements of each weight that `Watch` looks at.
PROBES = 16


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


class Watch:
    """Tells whether a model changed since `Watch(model)`: weights, modules or hooks.

    Weights are compared by place in memory, by torch's count of in-place changes, and by a few elements of each: fused
    optimizers and changes through `weight.data` are not counted. It takes about a tenth of a millisecond for a model of
    six layers. A change through `weight.data` that spares all of these elements is not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = tuple(model.modules())
        # Held, so that no other tensor can come to lie where one of these was.
        self._weights = tuple(model.parameters())
        self._probes = _probes(self._weights)
        self._marks = self._look()
        self._elements = self._read()

    def unchanged(self) -> bool:
        """Whether all is as it was."""
        return self._look() == self._marks and all(map(torch.equal, self._read(), self._elements))

    def _read(self) -> list[torch.Tensor]:
        """The bits of the probed elements, uint8: NaN is equal to itself there."""
        with torch.inference_mode():
            return [torch.cat(probes).view(torch.uint8) for probes in self._probes]

    def _look(self) -> list[Any]:
        marks: list[Any] = []
        for module in self._modules:
            marks += [
                _is_hooked(module),
                *map(id, module._modules.values()),
                *(
                    # tensors made in inference mode have no count, and cannot be changed outside of it
                    (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
                    for weight in module._parameters.values()
                    if weight is not None
                ),
            ]
        return marks


def _probes(weights: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Views of evenly spaced elements of each weight, together by device and type."""
    groups: dict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = {}
    for weight in weights:
        if weight.is_contiguous() and weight.numel():
            flat = weight.detach().view(-1)
            probe = flat[:: max(1, len(flat) // PROBES)]
            groups.setdefault((weight.device, weight.dtype), []).append(probe)
    return list(groups.values())
