"""One request to Elasticsearch, as it is sent and as it may be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REDACTED = "***"
SECRETS = ("api_key",)


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request to Elasticsearch; `body` may hold secrets, `shown` does not."""

    method: str
    path: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)

    def shown(self) -> str:
        """The request as Kibana's console takes it, every secret as ***."""
        head = f"{self.method} {self.path}"
        return head if self.body is None else f"{head}\n{json.dumps(_redacted(self.body), indent=2)}"


def _redacted(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _redacted(inner, key) for key, inner in value.items()}
    return REDACTED if name in SECRETS else value
