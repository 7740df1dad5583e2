"""The keywords of calls, under the names that each generation of sentence-transformers gave them."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypedDict, TypeVar

from secondpass.activations import Activation
from secondpass.errors import InvalidInput
from secondpass.forwards.precision import Precision
from secondpass.inputs import ModelTemplate, PromptTemplate, Truncation
from secondpass.record import CallRecord
from secondpass.text import checked
from secondpass.windows import Windows

if TYPE_CHECKING:
    import torch

    from secondpass.forwards.workers import Workers

    Devices = str | int | torch.device | Sequence[str | int | torch.device]

P = ParamSpec("P")
R = TypeVar("R")

# The names that sentence-transformers 4 to 6 gave to the same arguments, accepted as keywords.
SCORING = {"inputs": "sentences", "activation_fn": "activation_fct"}
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
# Theirs that nothing here has a place for, and what does the same.
ELSEWHERE = {
    "keep_in_fp32_modules": "precision= says in which type is computed",
    "model_card_data": "save() writes README.md of what evaluators leave in the attribute model_card_data",
    "modules": "a module chain is loaded from its folder",
}

# Methods of sentence-transformers 3.4 that subclasses override and nothing here calls, and what there is instead.
OVERRIDDEN = {
    "predict": "rank does not call it: override rank too, or put another forward behind both by use_forward",
    "smart_batching_collate": "fit makes its inputs by collate",
    "smart_batching_collate_text_only": "predict makes its inputs by itself",
    "_eval_during_training": "fit calls its evaluator by itself, and its callback after that",
}


class Construction(TypedDict, total=False):
    """Keywords of `CrossEncoder` as sentence-transformers 6 names them, and our own."""

    num_labels: int | None
    max_length: int | None
    max_seq_length: int | None
    device: Devices | None
    model_kwargs: dict[str, Any] | None
    tokenizer_kwargs: dict[str, Any] | None
    processor_kwargs: dict[str, Any] | None
    config_kwargs: dict[str, Any] | None
    cache_folder: str | None
    trust_remote_code: bool
    revision: str | None
    local_files_only: bool
    activation_fn: Activation | None
    classifier_dropout: float | None
    truncation: Truncation | Windows | None
    max_batch_tokens: int | None
    max_documents: int | None
    token: str | None
    precision: Precision | None
    template: str | PromptTemplate | ModelTemplate | None
    true_token: str | None
    false_token: str | None
    instruction: str | None
    prompts: Mapping[str, str] | None
    default_prompt_name: str | None
    backend: Literal["torch"]


class Newer(TypedDict, total=False):
    """Keywords that `rank` and `rank_many` take beside their signature."""

    activation_fn: Activation | None


class CallOptions(TypedDict, total=False):
    """What `predict` takes by keyword only."""

    prompt: str | None
    prompt_name: str | None
    instruction: str | None
    pool: Workers | None
    chunk_size: int | None
    device: Devices | None
    records: list[CallRecord] | None
    truncation: Truncation | Windows | None


class Scoring(CallOptions, Newer, total=False):
    """All keywords of `predict` but those that decide about the returned type."""

    batch_size: int
    show_progress_bar: bool | None
    num_workers: int
    activation_fct: Activation | None
    apply_softmax: bool


class AnyScoring(Scoring, total=False):
    """`Scoring` with those two, where the type is not told."""

    convert_to_numpy: bool
    convert_to_tensor: bool


def accepts_renamed(names: dict[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be called with new names (keys) for its parameters (values).

    Its signature may have `**newer` for type checkers, which is always empty when it is called.

    Raises (when called):
        TypeError: both names of one parameter are given, or a name that is none.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known = inspect.signature(function).parameters.keys() - {"newer"}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for new, old in names.items():
                if new in kwargs:
                    if old in kwargs:
                        raise TypeError(f"{function.__qualname__}() got both {old!r} and {new!r}, its newer name")
                    kwargs[old] = kwargs.pop(new)
            if not kwargs.keys() <= known:
                name = min(kwargs.keys() - known)
                told = f": {ELSEWHERE[name]}" if name in ELSEWHERE else ""
                raise TypeError(f"{function.__qualname__}() got an unexpected keyword argument {name!r}{told}")
            return function(*args, **kwargs)

        return call

    return decorate


def accepts_overloads(names: dict[str, str]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """The same for a function whose overloads tell type checkers which arguments it takes."""
    return accepts_renamed(names)


def accepts_construction(function: Callable[..., None]) -> Callable[..., None]:
    """`accepts_overloads` of a model's constructor, with what sentence-transformers 5 and 6 have besides.

    `prompts` stand beside the stored ones, of one name in their place; `backend` says nothing else than it does anyway.

    Raises (when called):
        InvalidInput: one of the prompts is no str, the default one is none of them, or another backend is asked for.
    """
    renamed = accepts_overloads(CONSTRUCTOR)(function)

    @functools.wraps(function)
    def call(
        model: Any,
        /,
        *args: Any,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        backend: str = "torch",
        **kwargs: Any,
    ) -> None:
        if backend != "torch":
            raise InvalidInput(
                f"backend={backend!r}: the kernel or torch computes; export_onnx() is for other runtimes"
            )
        if not isinstance(prompts, Mapping | None):
            raise InvalidInput(f"prompts is {type(prompts).__name__}, not a dict of texts by name")
        if default_prompt_name is not None and kwargs.get("instruction") is not None:
            raise InvalidInput("default_prompt_name and instruction are given, where one is put before queries")
        own = {name: checked(text, f"prompts[{name!r}]") for name, text in (prompts or {}).items()}
        renamed(model, *args, **kwargs)
        model.prompts |= own
        if default_prompt_name is not None and default_prompt_name not in model.prompts:
            raise InvalidInput(f"default_prompt_name={default_prompt_name!r} is none of {list(model.prompts)}")
        model.default_prompt_name = default_prompt_name or model.default_prompt_name

    return call


def warn_of_overridden(model: type) -> None:
    """Warn of methods that a class defines in vain."""
    own = vars(model)
    for name, told in OVERRIDDEN.items():
        if name in own and not (name == "predict" and "rank" in own):
            warnings.warn(f"{model.__name__}.{name}: {told}", UserWarning, stacklevel=3)
