"""The names that sentence-transformers 4 to 6 gave to the same arguments, accepted as keywords."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

CONSTRUCTOR = {
    "model_name_or_path": "model_name",
    "model_kwargs": "automodel_args",
    "tokenizer_kwargs": "tokenizer_args",
    "processor_kwargs": "tokenizer_args",
    "config_kwargs": "config_args",
    "cache_folder": "cache_dir",
    "activation_fn": "default_activation_function",
    "max_seq_length": "max_length",
}
SCORING = {"inputs": "sentences", "activation_fn": "activation_fct"}


def accepts_renamed(names: dict[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be called with new names (keys) for its parameters (values).

    Raises (when called):
        TypeError: both names of one parameter are given.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for new, old in names.items():
                if new in kwargs:
                    if old in kwargs:
                        raise TypeError(f"{function.__qualname__}() got both {old!r} and {new!r}, its newer name")
                    kwargs[old] = kwargs.pop(new)
            return function(*args, **kwargs)

        return call

    return decorate
