"""A name or folder to a complete, checked model: config, weights, tokenizer, stored activation, input limit.

Refuses whatever could run foreign code or score at random: pickles, remote code, a missing head, a tokenizer
of another model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from secondpass.errors import InvalidInput
from secondpass.persistence.fast_tokenizer import check_vocabulary, load_tokenizer, token_limit
from secondpass.persistence.model_config import load_config
from secondpass.persistence.quiet import quiet_transformers
from secondpass.persistence.sources import folder_of
from secondpass.persistence.storage import read_activation, read_prompts
from secondpass.persistence.weights import COMPACT, build_model

# Arguments that have a parameter of their own, and those that would open other files or run other code.
OWN_PARAMETER = ("cache_dir", "local_files_only", "num_labels", "revision", "trust_remote_code")
REFUSED = ("adapter_kwargs", "code_revision", "config", "gguf_file", "state_dict", "subfolder", "transformers_weights")
NATIVE_CODE = ("allow_all_kernels", "kernel_config", "use_kernels")


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load and how; the fields are `CrossEncoder`'s arguments of the same names."""

    source: str | os.PathLike[str]
    num_labels: int | None = None
    automodel_args: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_args: Mapping[str, Any] = field(default_factory=dict)
    config_args: Mapping[str, Any] = field(default_factory=dict)
    cache_dir: str | os.PathLike[str] | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    local_files_only: bool = False
    token: str | bool | None = field(default=None, repr=False)
    classifier_dropout: float | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to score.

    `config` is `model.config`; `stored_activation` a dotted name that nobody has trusted yet; `token_limit` the
    longest input in tokens; `placed` says that a device_map put the model where it is; `prompts` are stored by name.
    """

    config: Any = field(repr=False)
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    stored_activation: str | None
    token_limit: int
    placed: bool = False
    prompts: dict[str, str] = field(default_factory=dict)


def load(request: LoadRequest) -> Loaded:
    """Load a model.

    Raises:
        InvalidInput: an argument is refused; the message names it.
        ModelLoadError: the model cannot be had, is broken or incomplete, or would run foreign code.
    """
    check_arguments(request)
    automodel_args = _without(request.automodel_args, "token", "use_safetensors", "weights_only")
    folder = _folder(request, automodel_args.get("variant"))
    with quiet_transformers():
        config = load_config(
            folder,
            request.num_labels,
            request.classifier_dropout,
            _without(request.config_args, "token"),
            request.trust_remote_code,
        )
        model = _model(folder, config, automodel_args, request)
        tokenizer = load_tokenizer(
            folder, model.config, _without(request.tokenizer_args, "token"), request.trust_remote_code
        )
    check_vocabulary(folder, tokenizer, model)
    model.config.name_or_path = str(request.source)
    if getattr(model.config, "pad_token_id", None) is None:
        # Decoders score at the last token that is no padding, and refuse batches without this.
        model.config.pad_token_id = tokenizer.pad_token_id
    return Loaded(
        config=model.config,
        model=model,
        tokenizer=tokenizer,
        stored_activation=read_activation(folder),
        prompts=read_prompts(folder),
        token_limit=token_limit(tokenizer, model),
        placed=automodel_args.get("device_map") is not None,
    )


def _folder(request: LoadRequest, variant: str | None) -> Path:
    return folder_of(
        request.source,
        variant=variant,
        code=request.trust_remote_code,
        cache_dir=request.cache_dir,
        revision=request.revision,
        local_files_only=request.local_files_only,
        token=_token(request),
    )


def _model(folder: Path, config: Any, automodel_args: dict[str, Any], request: LoadRequest) -> Any:
    # float32 unless asked otherwise, as the seed: half precision on a CPU is slow, and overflows.
    dtype = automodel_args.pop("torch_dtype", None) or automodel_args.pop("dtype", None) or torch.float32
    if not (folder / COMPACT).is_file() or (folder / "model.safetensors").is_file():
        return build_model(folder, config, {**automodel_args, "dtype": dtype}, request.num_labels is not None)
    from secondpass.persistence.compact import load_compact

    if automodel_args:
        raise InvalidInput(f"automodel_args {sorted(automodel_args)} cannot be used with a compact model ({COMPACT})")
    return load_compact(folder, config).to(_dtype(dtype))


def _dtype(given: object) -> torch.dtype:
    """A dtype or its name; "auto" is what compact weights expand to."""
    named = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if given == "auto":
        return torch.float32
    if not isinstance(named, torch.dtype):
        raise InvalidInput(f"automodel_args: dtype={given!r} is no torch dtype")
    return named


def check_arguments(request: LoadRequest) -> None:
    """Refuse arguments that reach pickles, foreign code or other files by a side door.

    Raises:
        InvalidInput: naming the argument.
    """
    labels = request.num_labels
    if labels is not None and (not isinstance(labels, int) or isinstance(labels, bool) or labels < 1):
        raise InvalidInput(f"num_labels={labels!r} is not a positive int")
    for name in ("automodel_args", "tokenizer_args", "config_args"):
        given: object = getattr(request, name)
        if not isinstance(given, Mapping):
            raise InvalidInput(f"{name} is {type(given).__name__}, not a dict")
        _check_keys(name, given)
        if not request.trust_remote_code:
            _check_native(name, given)
    for key in ("use_safetensors", "weights_only"):
        if request.automodel_args.get(key, True) is not True:
            raise InvalidInput(f"automodel_args[{key!r}] must stay True: only safetensors are read")


def _check_keys(name: str, given: Mapping[str, Any]) -> None:
    for key in given:
        if key in OWN_PARAMETER:
            raise InvalidInput(f"{name}[{key!r}]: give {key}= itself")
        if key in REFUSED:
            raise InvalidInput(f"{name}[{key!r}] is not supported")


def _check_native(name: str, given: Mapping[str, Any]) -> None:
    for key in NATIVE_CODE:
        if given.get(key):
            raise InvalidInput(f"{name}[{key!r}] runs code from the model hub; that needs trust_remote_code=True")
    attention = given.get("attn_implementation")
    if attention is not None and "/" in str(attention):
        raise InvalidInput(
            f"{name}['attn_implementation']={attention!r} runs code from the model hub; that needs "
            "trust_remote_code=True"
        )


def _without(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in names}


def _token(request: LoadRequest) -> str | bool | None:
    """Find the token: the seed has no such argument, so its users put it into the dicts."""
    for given in (request.automodel_args, request.config_args, request.tokenizer_args):
        if request.token is None and "token" in given:
            token: str | bool | None = given["token"]
            return token
    return request.token
