"""A real forward that a test can watch, hold up, and let fail for chosen pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from secondpass import CrossEncoder
from secondpass.forwards.contract import Computation, Compute, Forward, Logits
from secondpass.forwards.padded import TransformersForward
from secondpass.tokens import Tokens

Fault = Callable[[Sequence[Tokens], Logits], Logits]

WAIT_S = 20.0


class WatchedForward:
    """The forward of transformers behind a gate.

    `lengths` has the token counts of every batch that was asked for; while `gate` is cleared a batch waits in front
    of the model, and `entered` tells that one is there; `fault` may raise or change logits.
    """

    def __init__(self, forward: Forward, fault: Fault | None = None) -> None:
        self._forward = forward
        self._fault = fault
        self.lengths: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def ready(self) -> Computation:
        own = self._forward.ready()
        full_precision = None if own.full_precision is None else self._watched(own.full_precision)
        return replace(own, logits=self._watched(own.logits), full_precision=full_precision)

    def _watched(self, compute: Compute) -> Compute:
        def logits(inputs: Sequence[Tokens]) -> Logits:
            self.lengths.append([len(item) for item in inputs])
            self.entered.set()
            if not self.gate.wait(WAIT_S):
                raise AssertionError("the test did not open the gate")
            made = compute(inputs)
            return made if self._fault is None else self._fault(inputs, made)

        return logits

    def hold(self) -> None:
        """Let the next batch stop in front of the model."""
        self.entered.clear()
        self.gate.clear()

    def wait_for_entry(self) -> None:
        """Return when a batch is in front of the model."""
        assert self.entered.wait(WAIT_S)


def watched(encoder: CrossEncoder, fault: Fault | None = None) -> WatchedForward:
    """Put a watched forward into an encoder."""
    forward = WatchedForward(
        TransformersForward(encoder.model, encoder.tokenizer.model_input_names, encoder.padding), fault
    )
    encoder.use_forward(forward)
    return forward
