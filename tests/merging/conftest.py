"""A shared reranker whose model a test can hold up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from secondpass import CrossEncoder
from secondpass.merging import SharedReranker
from tests.merging.watched_forward import WatchedForward, watched


@pytest.fixture
def forward(own_tiny: CrossEncoder) -> WatchedForward:
    """The forward behind `own_tiny`, for a test to hold up."""
    return watched(own_tiny)


@pytest.fixture
def shared(own_tiny: CrossEncoder, forward: WatchedForward) -> Iterator[SharedReranker]:
    """A shared reranker on it, closed afterwards whatever happened."""
    made = SharedReranker(own_tiny)
    yield made
    forward.gate.set()
    made.close(drain=False)
