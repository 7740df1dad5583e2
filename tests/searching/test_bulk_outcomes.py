"""What an engine says of one document of a bulk request."""

from __future__ import annotations

from typing import Any

import pytest

from secondpass_indexing.sink import Outcome
from secondpass_searching.bulk_outcomes import outcome_of


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ({"status": 201, "result": "created"}, Outcome("a")),
        ({"status": 200, "result": "updated"}, Outcome("a", replaced=True)),
        ({"status": 429, "error": {"reason": "full"}}, Outcome("a", "full", again=True)),
        ({"status": 503, "error": {"type": "moving"}}, Outcome("a", "moving", again=True)),
        (
            {"status": 400, "error": {"reason": "failed to parse", "caused_by": {"reason": "For input: x"}}},
            Outcome("a", "failed to parse: For input: x"),
        ),
        ({"status": 400, "error": "odd"}, Outcome("a", "odd")),
        ({"status": 400, "error": {}}, Outcome("a", "status 400")),
        ({}, Outcome("a", "status 500")),
    ],
)
def test_outcomes(answer: dict[str, Any], outcome: Outcome) -> None:
    """Indexed, refused for good with the reason, or refused for now; never silently lost."""
    assert outcome_of("a", answer) == outcome
