"""What is imported only when it is asked for: public names, since torch takes seconds, and optional libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from secondpass.errors import MissingExtra

# What the extra `torch` brings.
TORCH = ("torch", "transformers")


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package: `homes` names the module inside it that each public name is in."""

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            lacking = without_torch(f"{package}.{name}", error)
            if lacking is None:
                raise
            raise lacking from error
        setattr(sys.modules[package], name, value)
        return value

    return load


def optional(module: str, library: str, extra: str) -> Any:
    """Import a module that only an extra of ours brings; raises MissingExtra, which names library and extra.

    `library` may say what it is needed for, between commas: "torch, which has tensors,".
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(f'{library} is not installed: pip install "secondpass[{extra}]"') from error


def without_torch(what: str, error: ImportError) -> MissingExtra | None:
    """The error for `what` where `error` came of torch not being installed, else None."""
    if (error.name or "").partition(".")[0] not in TORCH:
        return None
    return MissingExtra(f'{what} needs {error.name}, which is not installed: pip install "secondpass[torch]"')


class Later:
    """A method of a class whose function stands in a module that is imported when somebody first asks for it.

    Args:
        module: where it stands.
        name: under which.
        purpose: what needs the module, for the message where a library is absent.
        extra: of ours, which brings that.
    """

    def __init__(self, module: str, name: str, purpose: str, extra: str) -> None:
        self._module, self._name, self._purpose, self._extra = module, name, purpose, extra

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner, self._attribute = owner, name

    def __get__(self, instance: object, owner: type) -> Any:
        function = optional(self._module, f"what {self._purpose} needs", self._extra).__dict__[self._name]
        setattr(self._owner, self._attribute, function)
        return function.__get__(instance, owner)
