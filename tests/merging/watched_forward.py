"""A real forward that a test can watch, hold up, and let fail for chosen pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from secondpass import CrossEncoder
from secondpass.batches import Batch
from secondpass.scoring import Forward, TransformersForward

WAIT_S = 20.0


class WatchedForward:
    """The forward of transformers behind a gate.

    `lengths` has the token counts of every batch that was asked for; while `gate` is cleared a batch waits in front
    of the model, and `entered` tells that one is there; `fault` may raise or change logits.
    """

    def __init__(self, forward: Forward, fault: Callable[[Batch, torch.Tensor], torch.Tensor] | None = None) -> None:
        self._forward = forward
        self._fault = fault
        self.lengths: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    @property
    def device(self) -> torch.device:
        return self._forward.device

    @property
    def dtype(self) -> torch.dtype:
        return self._forward.dtype

    @property
    def pads(self) -> bool:
        return self._forward.pads

    def __call__(self, batch: Batch, *, full_precision: bool = False) -> torch.Tensor:
        self.lengths.append([len(item) for item in batch.inputs])
        self.entered.set()
        if not self.gate.wait(WAIT_S):
            raise AssertionError("the test did not open the gate")
        logits = self._forward(batch, full_precision=full_precision)
        return logits if self._fault is None else self._fault(batch, logits)

    def hold(self) -> None:
        """Let the next batch stop in front of the model."""
        self.entered.clear()
        self.gate.clear()

    def wait_for_entry(self) -> None:
        """Return when a batch is in front of the model."""
        assert self.entered.wait(WAIT_S)


def watched(
    encoder: CrossEncoder, fault: Callable[[Batch, torch.Tensor], torch.Tensor] | None = None
) -> WatchedForward:
    """Put a watched forward into an encoder."""
    forward = WatchedForward(
        TransformersForward(encoder.model, encoder.tokenizer.model_input_names, encoder.padding), fault
    )
    encoder.use_forward(forward)
    return forward
