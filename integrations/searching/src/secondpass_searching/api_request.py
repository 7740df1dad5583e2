"""One request to a server, as it is sent and as it may be shown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

REDACTED = "***"
# Whatever stands under these names is a secret.
SECRETS = ("api_key", "credential")


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request; `body` may hold secrets, `shown` does not."""

    method: str
    path: str
    body: Any = field(default=None, repr=False)
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> str:
        """The request as Kibana's console and OpenSearch's Dev Tools take it, every secret as ***."""
        head = f"{self.method} {self.path}"
        head = f"{head}?{urlencode(self.parameters)}" if self.parameters else head
        if self.body is None:
            return head
        return f"{head}\n{json.dumps(redacted(self.body), indent=2, ensure_ascii=False)}"


def redacted(value: Any) -> Any:
    """A copy of a JSON value in which whatever stands under a secret's name is starred out."""
    if isinstance(value, Mapping):
        return {key: _starred(each) if key in SECRETS else redacted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [redacted(each) for each in value]
    return value


def _starred(value: Any) -> Any:
    return dict.fromkeys(value, REDACTED) if isinstance(value, Mapping) else REDACTED
