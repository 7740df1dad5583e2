"""Not there yet."""

from typing import Any


def digest_of(paths: Any) -> str:
    return "x"


def remembered(key: str) -> Any:
    return None


def remember(key: str, value: Any) -> None:
    return None
