"""The names that sentence-transformers 4 to 6 gave to the same arguments, accepted as keywords.

A function that `accepts_renamed` takes any arguments as type checkers see it; overloads beside it say which, and the
dictionaries below are the keywords of those overloads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    import torch

    from secondpass.record import CallRecord

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


class Construction(TypedDict, total=False):
    """Keywords of `CrossEncoder` as sentence-transformers 6 names them, and our own."""

    num_labels: int | None
    max_length: int | None
    max_seq_length: int | None
    device: str | torch.device | None
    model_kwargs: dict[str, Any] | None
    tokenizer_kwargs: dict[str, Any] | None
    processor_kwargs: dict[str, Any] | None
    config_kwargs: dict[str, Any] | None
    cache_folder: str | None
    trust_remote_code: bool
    revision: str | None
    local_files_only: bool
    activation_fn: Callable[[torch.Tensor], torch.Tensor] | None
    classifier_dropout: float | None
    truncation: Literal["longest_first", "only_document", "error"]
    max_batch_tokens: int | None
    max_documents: int | None
    token: str | None
    precision: Literal["auto", "fp32", "bf16", "int8"] | None


class CallOptions(TypedDict, total=False):
    """What `predict` and `rank` take by keyword only."""

    prompt: str | None
    prompt_name: str | None
    pool: None
    chunk_size: None
    device: str | torch.device | None
    records: list[CallRecord] | None


class Scoring(CallOptions, total=False):
    """Keywords that `predict` and `rank` share, by the older and the newer names."""

    batch_size: int
    show_progress_bar: bool | None
    num_workers: int
    activation_fct: Callable[[torch.Tensor], torch.Tensor] | None
    activation_fn: Callable[[torch.Tensor], torch.Tensor] | None
    apply_softmax: bool


class AnyScoring(Scoring, total=False):
    """`Scoring` with the two that decide about the returned type, where it is not told."""

    convert_to_numpy: bool
    convert_to_tensor: bool


def accepts_renamed(names: dict[str, str]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Let a function be called with new names (keys) for its parameters (values).

    Raises (when called):
        TypeError: both names of one parameter are given.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> R:
            for new, old in names.items():
                if new in kwargs:
                    if old in kwargs:
                        raise TypeError(f"{function.__qualname__}() got both {old!r} and {new!r}, its newer name")
                    kwargs[old] = kwargs.pop(new)
            return function(*args, **kwargs)

        return call

    return decorate
