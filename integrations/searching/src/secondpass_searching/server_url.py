"""Where a server is and how to log in, out of the environment; no message repeats what may be a secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from secondpass.errors import InvalidInput

LOCAL = "http://localhost:9200"
PORTS = {"http": 9200, "https": 443}
OPTION = "--url"


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
