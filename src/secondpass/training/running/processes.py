"""Several processes, one run: torchrun or `accelerate launch` start them, accelerate joins them.

Each process reads its share of a step's micro-batches; gradients are summed, so the step is that of one process.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from secondpass.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class Processes:
    """One process among `count`; alone, everything is a no-op."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process evaluates, saves and prints."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""
        if self.count == 1 or not tensors:
            return
        from accelerate.utils import reduce

        flat = torch.cat([tensor.reshape(-1).float() for tensor in tensors])
        total: torch.Tensor = reduce(flat, "sum")
        sizes = [tensor.numel() for tensor in tensors]
        for tensor, part in zip(tensors, torch.split(total, sizes), strict=True):
            tensor.copy_(part.view_as(tensor))

    def from_first(self, value: Any) -> Any:
        """Give every process the first one's value."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def gathered(self, value: Any) -> list[Any]:
        """Give every process the values of all, by rank."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object

        made: list[Any] = gather_object([value])
        return made


ALONE = Processes()


def joined(device: torch.device) -> Processes:
    """Join the processes that a launcher started (WORLD_SIZE above 1), for a model on `device`.

    Raises:
        MissingExtra: accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return ALONE
    try:
        from accelerate import PartialState
    except ImportError:
        raise MissingExtra('training in several processes needs accelerate: pip install "secondpass[train]"') from None
    state = PartialState(cpu=device.type == "cpu")
    return Processes(state.process_index, state.num_processes)
