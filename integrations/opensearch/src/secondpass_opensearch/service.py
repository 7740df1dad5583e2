"""The rerank service that OpenSearch shall ask: where it is, by what key, and how it may be reached."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from secondpass.errors import InvalidInput
from secondpass.limits import positive_int
from secondpass_searching.rerank_service import WHAT, check_model, service_address, service_key

ROUTE = "/v1/rerank"
TIMEOUT = 10


@dataclass(frozen=True, slots=True)
class RerankService:
    """A service with the Cohere shape of /v1/rerank.

    Attributes:
        endpoint: full URL that OpenSearch posts to.
        key: API key; empty sends none. Never in the repr.
        model: name of a model of the service; empty leaves the choice to it.
        timeout: whole seconds OpenSearch waits for an answer.
    """

    endpoint: str
    key: str = field(default="", repr=False)
    model: str = ""
    timeout: int = TIMEOUT

    @classmethod
    def from_environment(
        cls, url: str, model: str = "", timeout: int = TIMEOUT, environment: Mapping[str, str] | None = None
    ) -> RerankService:
        """The service at `url`, its key from SECONDPASS_API_KEY; a URL without a route gets /v1/rerank.

        Raises:
            InvalidInput: the URL has another form or credentials in it, or the key cannot be sent in a header.
        """
        key = service_key(environment) or ""
        check_model(model)
        return cls(_endpoint(url), key, model, positive_int(timeout, "timeout"))

    @property
    def pattern(self) -> str:
        """A Java regular expression that this endpoint alone matches, for the list of trusted endpoints."""
        escaped = re.sub(r"([^a-zA-Z0-9/:_-])", r"\\\1", self.endpoint)
        return f"^{escaped}$"

    @property
    def is_private(self) -> bool:
        """Whether its address is private or loopback, which OpenSearch refuses unless told otherwise.

        A name that is not known on this machine is taken for one that only the servers' network knows.
        """
        host = urlsplit(self.endpoint).hostname or ""
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return True
        return any(not ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_global for entry in found)


def _endpoint(url: str) -> str:
    parts = service_address(url)
    if not re.fullmatch(r"[\w./:\[\]-]+", parts.netloc + parts.path, re.ASCII):
        raise InvalidInput(f"{WHAT} has more than letters, digits and . / : _ - in it: {parts.netloc}")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc.lower()}{path if path.endswith('/rerank') else path + ROUTE}"
