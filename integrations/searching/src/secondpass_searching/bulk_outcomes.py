"""What an engine says of one document of a bulk request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secondpass_indexing.sink import Outcome
from secondpass_searching.failures import told

# Statuses of one document that may pass by themselves: too busy, or a shard that moves.
LATER = (429, 502, 503, 504)


def outcome_of(document_id: str, answer: Mapping[str, Any]) -> Outcome:
    """Indexed, refused with the reason, or refused for now; an answer without a status is a refusal for good."""
    error, status = answer.get("error"), int(answer.get("status", 500))
    if error is None and 200 <= status < 300:
        return Outcome(document_id, replaced=answer.get("result") == "updated")
    reason = told(error) if error else f"status {status}"
    return Outcome(document_id, reason, again=status in LATER)
