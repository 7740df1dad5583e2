"""API keys: from the environment or a file, never from the command line, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from secondpass.errors import InvalidInput

VARIABLE = "SECONDPASS_API_KEYS"
SHORTEST = 16
SCHEME = "bearer"


class ApiKeys:
    """The keys that open the service; only their SHA-256 digests are kept, and they are never shown."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        """Take `keys`.

        Raises:
            InvalidInput: a key is short or is not printable ASCII; the message gives its number, never the key.
        """
        self._digests = tuple(_digest(_checked(key, number)) for number, key in enumerate(keys, start=1))

    def __len__(self) -> int:
        return len(self._digests)

    def __repr__(self) -> str:
        return f"<{len(self)} API keys>"

    def allow(self, authorization: str | None) -> bool:
        """Tell whether an `Authorization: Bearer ...` header carries one of the keys; without keys all is allowed.

        Every key is compared, and digests have one length, so the time tells neither which key was near nor how
        long it is.
        """
        if not self._digests:
            return True
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == SCHEME and any(matches)


def read_keys(environment: Mapping[str, str], file: Path | None = None) -> ApiKeys:
    """Keys of SECONDPASS_API_KEYS (separated by commas or blanks) and of a file (one a line, # begins a comment).

    Raises:
        InvalidInput: a key is refused, the file cannot be read, or it holds no key.
    """
    keys = environment.get(VARIABLE, "").replace(",", " ").split()
    if file is not None:
        keys += _keys_of(file)
    return ApiKeys(dict.fromkeys(keys))


def _keys_of(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the file of API keys {file} cannot be read: {type(error).__name__}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise InvalidInput(f"the file of API keys {file} holds no key")
    return keys


def _checked(key: str, number: int) -> str:
    if len(key) < SHORTEST:
        raise InvalidInput(f"API key {number} has fewer than {SHORTEST} characters: make one with openssl rand -hex 32")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InvalidInput(f"API key {number} has characters other than printable ASCII without blanks")
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
