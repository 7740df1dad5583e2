"""What is imported only when it is asked for: public names, since torch takes seconds, and optional libraries."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from secondpass.errors import MissingExtra

# What the extra `torch` brings, and the oldest of each that will do, as pyproject.toml has it.
TORCH = {"torch": "2.10", "transformers": "5.3"}

# Public names of sentence-transformers 4 to 6 that nothing here has, and what does the same.
ELSEWHERE = {
    "CrossEncoderTrainer": "secondpass.training.train trains, and CrossEncoder.fit",
    "CrossEncoderTrainingArguments": "secondpass.training.TrainingSettings says how",
    "CrossEncoderClassificationEvaluator": "CEBinaryClassificationEvaluator, or CESoftmaxAccuracyEvaluator for classes",
    "CrossEncoderCorrelationEvaluator": "CECorrelationEvaluator",
    "CrossEncoderNanoBEIREvaluator": "`secondpass compare --dataset` takes folders in BEIR's format",
    "CrossEncoderRerankingEvaluator": "CERerankingEvaluator",
}


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the `__getattr__` of a package: `homes` names the module inside it that each public name is in."""

    def load(name: str) -> Any:
        if name in ELSEWHERE:  # `from ... import` would leave out the message of an AttributeError
            raise ImportError(f"{package} has no {name}: {ELSEWHERE[name]}")
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
    if lacking_torch() is not None:
        return MissingExtra(f"{what} {needs_torch()}")
    return MissingExtra(f'{what} needs {error.name}, which is not installed: pip install "secondpass[torch]"')


@cache
def lacking_torch() -> str | None:
    """Why torch and transformers cannot be used: one is not installed, or too old; neither is imported.

    Newer ones than pyproject.toml allows are tried.
    """
    # the front of the package needs none of it
    from importlib.metadata import PackageNotFoundError, version

    for name, oldest in TORCH.items():
        if find_spec(name) is None:
            return f"{name} is not installed"
        try:
            there = version(name)
        except PackageNotFoundError:  # a folder on the path, which nobody installed
            continue
        if there and _release(there) < _release(oldest):
            return f"{name} {there} is too old ({oldest} is needed)"
    return None


def _release(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def needs_torch() -> str:
    """What a message says of something that cannot be done without torch and transformers, and what helps."""
    lacking = lacking_torch()
    told = f", and {lacking}" if lacking else ""
    return f'needs torch and transformers{told}: pip install "secondpass[torch]"'


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
