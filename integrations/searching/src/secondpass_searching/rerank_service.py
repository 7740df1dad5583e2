"""The rerank service that an engine shall ask: its address as the engine sees it, and its key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import SplitResult

from secondpass.errors import InvalidInput
from secondpass_searching.server_url import split_url

KEY = "SECONDPASS_API_KEY"
WHAT = "the service's address"
EXAMPLE = "http://127.0.0.1:8000"
# Both engines replace ${...} wherever it stands.
REPLACED = "${"


def service_key(environment: Mapping[str, str] | None = None) -> str | None:
    """The service's key out of SECONDPASS_API_KEY, None if it is not set.

    Raises:
        InvalidInput: no HTTP header takes it, or the engine would replace a part of it.
    """
    key = (os.environ if environment is None else environment).get(KEY, "").strip() or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidInput(f"{KEY} holds a character that no HTTP header takes")
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
