"""A transport for opensearchpy that reads, but prints what it should write instead of sending it."""

from __future__ import annotations

import re
import sys
from typing import Any

from opensearchpy import Transport

from secondpass_searching.api_request import ApiRequest

READING = ("GET", "HEAD")
# Parameters of the client, which are not sent.
OURS = ("timeout", "request_timeout")
# What a request that was not sent would have answered; opensearchpy's callers take ids from it.
ANSWER = {
    "acknowledged": True,
    "connector_id": "<connector_id>",
    "model_group_id": "<model_group_id>",
    "model_id": "<model_id>",
    "task_id": "<task_id>",
}
MODEL = re.compile(r"/_plugins/_ml/models/([^/]+)(?:/_(deploy|undeploy))?")
AFTER = {"deploy": "DEPLOYED", "undeploy": "UNDEPLOYED"}


class PrintingTransport(Transport):
    """Sends GET, HEAD and searches; prints everything else on stdout, without secrets."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._states: dict[str, str] = {}

    def perform_request(
        self,
        method: str,
        url: str,
        params: Any = None,
        body: Any = None,
        timeout: Any = None,
        ignore: Any = (),
        headers: Any = None,
    ) -> Any:
        """Send a request that reads, print one that writes."""
        found = MODEL.fullmatch(url)
        if method in READING and found and found[1] in self._states:
            return {"model_state": self._states[found[1]]}
        if method in READING or url.endswith("/_search"):
            return super().perform_request(method, url, params, body, timeout, ignore, headers)
        if found and found[2]:
            self._states[found[1]] = AFTER[found[2]]
        print_request(method, url, body, params)
        return dict(ANSWER)


def print_request(method: str, url: str, body: Any, params: Any = None) -> None:
    """Print a request, every secret as ***, and a blank line."""
    shown = {key: value for key, value in (params or {}).items() if key not in OURS}
    sys.stdout.write(ApiRequest(method, url, body, shown).shown() + "\n\n")
