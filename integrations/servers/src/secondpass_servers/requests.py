"""Requests to a server: where it is and how to log in, out of the environment, and a request as it may be shown.

No message repeats what may be a secret.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from secondpass.errors import InvalidInput

LOCAL = "http://localhost:9200"
PORTS = {"http": 9200, "https": 443}
OPTION = "--url"
KEY = "SECONDPASS_API_KEY"
WHAT = "the service's address"
EXAMPLE = "http://127.0.0.1:8000"
# Both engines replace ${...} wherever it stands.
REPLACED = "${"
REDACTED = "***"
# Whatever stands under these names is a secret.
SECRETS = ("api_key", "credential")


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """`address` has a port, no credentials, and may be shown; `login` is user and password of the URL."""

    address: str
    login: tuple[str, str] | None = field(default=None, repr=False)


def server_url(known: Mapping[str, str], variable: str, url: str | None = None) -> ServerUrl:
    """Read the variable, or `url`, the option --url, in its place; without either it is the local server.

    Raises:
        InvalidInput: it is no URL of a server, or the option holds credentials.
    """
    name = variable if url is None else OPTION
    parts = split_url((known.get(variable) or LOCAL) if url is None else url, name, LOCAL)
    login = None
    if parts.username is not None or parts.password is not None:
        login = (unquote(parts.username or ""), unquote(parts.password or ""))
    if url is not None and login is not None:
        raise InvalidInput(f"{OPTION} holds a user or a password, which others can read: set them in the environment")
    host = str(parts.hostname)
    host = f"[{host}]" if ":" in host else host
    return ServerUrl(f"{parts.scheme}://{host}:{parts.port or PORTS[parts.scheme]}{parts.path.rstrip('/')}", login)


def split_url(value: str, name: str, example: str) -> SplitResult:
    """An address over HTTP in its parts; refusals do not repeat it, for it may hold a password.

    Raises:
        InvalidInput: it is none such as `example`; the message begins with `name`.
    """
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        raise InvalidInput(f"{name} is not a URL such as {example}: its host or port cannot be read") from None
    if parts.scheme not in PORTS or not parts.hostname or port == 0:
        raise InvalidInput(f"{name} is not a URL such as {example}")
    if parts.query or parts.fragment:
        raise InvalidInput(f"{name} has a part after '?' or '#', which no server's address has")
    return parts


def login_of(
    known: Mapping[str, str], username: str, password: str, in_url: tuple[str, str] | None
) -> tuple[str, str] | None:
    """User and password of the two variables, or those of the URL if neither variable is set.

    Raises:
        InvalidInput: one of the two alone, or a user with a colon, which HTTP does not allow.
    """
    found = known.get(username) or "", known.get(password) or ""
    if bool(found[0]) != bool(found[1]):
        raise InvalidInput(f"{username} and {password} are of use only together")
    if not found[0]:
        if in_url is None:
            return None
        found = in_url
    if not all(found):
        raise InvalidInput(f"the server's URL holds half a login: set {username} and {password}")
    if ":" in found[0]:
        raise InvalidInput(f"{username} has a colon in it, which HTTP does not allow")
    return found


def authority_file(known: Mapping[str, str], variable: str) -> Path | None:
    """The file of the certificates' authority that the variable names.

    Raises:
        InvalidInput: there is no such file.
    """
    value = known.get(variable)
    if not value:
        return None
    if not Path(value).is_file():
        raise InvalidInput(f"{variable}={value}: no such file")
    return Path(value)


def header_value(known: Mapping[str, str], variable: str) -> str | None:
    """A secret that goes into a header, without the white space or line end around it; None if it is not set.

    Raises:
        InvalidInput: no HTTP header takes it; HTTP clients repeat it in their own error.
    """
    value = known.get(variable, "").strip() or None
    if value is not None and not (value.isascii() and value.isprintable()):
        raise InvalidInput(f"{variable} holds a character that no HTTP header takes")
    return value


def service_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The service's key out of SECONDPASS_API_KEY, None if it is not set.

    Raises:
        InvalidInput: no HTTP header takes it, or the engine would replace a part of it.
    """
    key = header_value(os.environ if environment is None else environment, KEY)
    if key is not None and REPLACED in key:
        raise InvalidInput(f"{KEY} holds {REPLACED}, which the engine would replace")
    return key


def service_address(url: str) -> SplitResult:
    """The parts of the service's address.

    Raises:
        InvalidInput: it is no URL, or holds credentials or what the engine would replace.
    """
    parts = split_url(url, WHAT, EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise InvalidInput(f"{WHAT} holds a user or a password; put its key into {KEY}")
    if REPLACED in url:
        raise InvalidInput(f"{WHAT} holds {REPLACED}, which the engine would replace")
    return parts


def check_model(model: str | None) -> None:
    """Refuse a model's name that the engine would replace a part of.

    Raises:
        InvalidInput: it holds "${".
    """
    if model is not None and REPLACED in model:
        raise InvalidInput(f"model holds {REPLACED}, which the engine would replace")


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
