"""Bounds of a run."""

from __future__ import annotations

import pytest

from secondpass.errors import InvalidInput
from secondpass_indexing.settings import IndexingSettings


@pytest.mark.parametrize(
    "given",
    [{"max_documents": 0}, {"in_flight": True}, {"max_bytes": 1.5}, {"patience": -1.0}, {"first_wait": float("nan")}],
)
def test_what_could_not_work_is_refused_by_name(given: dict[str, object]) -> None:
    """At once, not at the first request."""
    with pytest.raises(InvalidInput, match=next(iter(given))):
        IndexingSettings(**given)
