"""Checks of component parameters: a YAML file may put any object anywhere, so every value's type is proved.

Messages name the parameter and the type that came, never the value of something that could be secret.

`model_kwargs`, `tokenizer_kwargs` and `config_kwargs` end in transformers' `from_pretrained`, where some keys run
code from a model's repository, load pickled weights or import other libraries. A list of what is refused would
miss the next such key, so `ALLOWED` is a list of what is allowed.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack.utils import ComponentDevice, Secret

from secondpass.errors import InvalidInput
from secondpass.models.templates import ANSWER
from secondpass.text import Choice, checked, choice, positive_int, positive_number, whole_number
from secondpass.windows import Windows

if TYPE_CHECKING:
    import torch

    from secondpass.ranking import Relevance

Check = Callable[[object], bool]
DTYPES = ("auto", "float32", "float16", "bfloat16")
# No free name: transformers fetches "owner/kernel" names from the hub and runs them.
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
REMOTE_CODE = (
    "code from a model's repository is only run when asked for in Python: secondpass.CrossEncoder(name, "
    "trust_remote_code=True)"
)
_PICKLE = "pickled weights are never loaded, only safetensors"
_QUANTISED = "it makes transformers import and run another quantisation library"
_TOKEN = "state it as the parameter `token`, a Secret read from the environment"  # noqa: S105
REASONS: Mapping[str, str] = {
    "trust_remote_code": REMOTE_CODE,
    "code_revision": REMOTE_CODE,
    "auto_map": REMOTE_CODE,
    "weights_only": _PICKLE,
    "quantization_config": _QUANTISED,
    "load_in_8bit": _QUANTISED,
    "load_in_4bit": _QUANTISED,
    "token": _TOKEN,
    "use_auth_token": _TOKEN,
}


def _refuse(name: str, value: object, wanted: str) -> InvalidInput:
    return InvalidInput(f"{name} is {type(value).__name__}, not {wanted}")


def model_name(name: str, value: object) -> str:
    """Return a model's name or path as a str."""
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, str):
        raise _refuse(name, value, "str or Path")
    if not value.strip():
        raise InvalidInput(f"{name} is blank")
    return value


def model_names(name: str, value: object) -> str | list[str]:
    """Return a model's name as a str, or the names of a cascade's models, two at least, as a list of them."""
    if not isinstance(value, (list, tuple)):
        return model_name(name, value)
    if len(value) < 2:
        raise InvalidInput(f"{name} has {len(value)}, and a list is a cascade, which has two at least")
    return [model_name(f"{name}[{index}]", item) for index, item in enumerate(value)]


def keep(name: str, value: object, models: str | list[str]) -> int | list[int] | str | None:
    """Return how many documents go on from each of the models to the next, or the file that says it."""
    if value is None:
        return None
    if isinstance(models, str):
        raise InvalidInput(f"{name} is for a list of models")
    if isinstance(value, (str, Path)):
        return model_name(name, value)
    if not isinstance(value, (list, tuple)):
        return positive(name, value)
    if len(value) != len(models) - 1:
        raise InvalidInput(f"{name} has {len(value)}, and {len(models)} models have {len(models) - 1} steps")
    return [positive(f"{name}[{index}]", item) for index, item in enumerate(value)]


def optional_path(name: str, value: object) -> str | None:
    """Return None, or a path as a str; whether it exists is asked when it is read."""
    return None if value is None else model_name(name, value)


def flag(name: str, value: object) -> bool:
    """Return `value` if it is a bool; 0, 1 and "false" are not."""
    if not isinstance(value, bool):
        raise _refuse(name, value, "bool")
    return value


def positive(name: str, value: object) -> int:
    """Return `value` as an int above 0; a smaller one is refused in the words of Haystack's own rankers."""
    if isinstance(value, Integral) and not isinstance(value, bool) and value <= 0:
        raise InvalidInput(f"{name} must be > 0, but got {value}")
    return positive_int(value, name)


def optional_positive(name: str, value: object) -> int | None:
    """Return None, or `value` as an int above 0."""
    return None if value is None else positive(name, value)


def optional_number(name: str, value: object) -> float | None:
    """Return None, or `value` as a float that is not NaN: no score would ever reach NaN."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _refuse(name, value, "float")
    if math.isnan(value):
        raise InvalidInput(f"{name} is NaN")
    return float(value)


def optional_milliseconds(name: str, value: object) -> float | None:
    """Return None, or `value` as a finite float above 0; 0 is no "without limit"."""
    return None if value is None else positive_number(value, name)


def optional_share(name: str, value: object) -> float | None:
    """Return None, or `value` as a float from 0 to 1."""
    number = optional_number(name, value)
    if number is not None and not 0 <= number <= 1:
        raise InvalidInput(f"{name}={value!r} is not from 0 to 1")
    return number


def optional_choice(name: str, value: object, choices: Collection[Choice]) -> Choice | None:
    """Return None, or the one of `choices` that `value` is."""
    return None if value is None else choice(value, choices, name)


def windows(name: str, value: object) -> dict[str, Any] | None:
    """Return None, or a copy of a dictionary of arguments that `secondpass.windows.Windows` takes."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _refuse(name, value, "dict")
    known = [field.name for field in fields(Windows)]
    for key in value:
        if key not in known:
            raise InvalidInput(f"{name}[{key!r}] is none of {', '.join(known)}")
    made = Windows(**value)
    return {key: getattr(made, key) for key in value}


def relevance(name: str, value: object) -> Relevance | None:
    """Return None, "expected" or the index of a label; whether the model has that label is asked when it is loaded."""
    if value is None or value == "expected":
        return None if value is None else "expected"
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidInput(f"{name}={value!r} is neither 'expected' nor the index of a label")
    return whole_number(value, name)


def field_names(name: str, value: object) -> list[str]:
    """Return a list of str; None is the empty list, a plain str is refused."""
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise _refuse(name, value, "a list of str")
    return [checked(item, f"{name}[{index}]") for index, item in enumerate(value)]


def by_query(name: str, given: object, size: int | None = None, other: str = "") -> Sequence[object]:
    """Return a list or tuple with one entry a query: `size` of them, as `other` has; without `size` at least one.

    Raises:
        InvalidInput: it is no list, or of a wrong length.
    """
    if not isinstance(given, (list, tuple)):
        raise _refuse(name, given, "a list with an entry for each query")
    if size is None and not given:
        raise InvalidInput(f"{name} is empty")
    if size is not None and len(given) != size:
        raise InvalidInput(f"{name} has {len(given)} entries, {other} {size}")
    return given


def query_ids(given: object, size: int, other: str) -> list[str] | None:
    """Return None, or as many different ids as `other` has entries.

    Raises:
        InvalidInput: there are more or fewer, or one comes twice: what belongs to it would count twice.
    """
    if given is None:
        return None
    by_query("query_ids", given, size, other)
    ids = field_names("query_ids", given)
    if len(set(ids)) < size:
        again = next(name for place, name in enumerate(ids) if name in ids[:place])
        raise InvalidInput(f"query_ids has {again!r} twice")
    return ids


def secret(name: str, value: object) -> Secret | None:
    """Return None or a Secret; a plain token is refused without being shown."""
    if value is not None and not isinstance(value, Secret):
        raise _refuse(name, value, "a Secret such as {type: env_var, env_vars: [HF_TOKEN], strict: false}")
    return value


def device(name: str, value: object) -> ComponentDevice | str | None:
    """Return a request for one device as it was made: None, a ComponentDevice or a name like "cuda:0"."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            ComponentDevice.from_str(value)
            return value
        if isinstance(value, ComponentDevice):
            value.to_torch_str()
            return value
    except ValueError as error:
        raise InvalidInput(f"{name}: {error}") from error
    raise _refuse(name, value, "ComponentDevice or str")


def _kind(kind: type) -> Check:
    return lambda value: isinstance(value, kind)


def _among(*choices: object) -> Check:
    return lambda value: value in choices


def _true(value: object) -> bool:
    return value is True


def _one(value: object) -> bool:
    # A ranker needs one label; passed on, the number would make a random head where the checkpoint has none.
    return value == 1 and not isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _dtype(value: object) -> bool:
    torch = sys.modules.get("torch")
    return value in DTYPES if isinstance(value, str) else torch is not None and isinstance(value, torch.dtype)


def _device_map(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and isinstance(place, (str, int)) for name, place in value.items())
    return isinstance(value, str)


_text, _flag, _side = _kind(str), _kind(bool), _among("left", "right")
_SOURCE: Mapping[str, Check] = {"revision": _text, "local_files_only": _flag, "cache_dir": _text}
ALLOWED: Mapping[str, Mapping[str, Check]] = {
    "model_kwargs": {
        **_SOURCE,
        "attn_implementation": _among(*ATTENTIONS),
        "device_map": _device_map,
        "dtype": _dtype,
        "torch_dtype": _dtype,
        # arguments of `CrossEncoder` itself
        **dict.fromkeys(ANSWER, _text),
        "use_safetensors": _true,
        "variant": _text,
    },
    "tokenizer_kwargs": {
        **_SOURCE,
        "add_prefix_space": _flag,
        "do_lower_case": _flag,
        "model_max_length": _whole,
        "pad_token": _text,
        "padding_side": _side,
        "strip_accents": _flag,
        "tokenize_chinese_chars": _flag,
        "truncation_side": _side,
        "use_fast": _true,
    },
    "config_kwargs": {
        **_SOURCE,
        "attention_probs_dropout_prob": _share,
        "classifier_dropout": _share,
        "hidden_dropout_prob": _share,
        "max_position_embeddings": _whole,
        "num_labels": _one,
    },
}


def checked_arguments(parameter: str, given: object) -> dict[str, Any] | None:
    """Return a copy of `given` if every key is allowed for `parameter`; None stays None.

    Raises:
        InvalidInput: `given` is no dictionary, or a key is not allowed or has a value of the wrong kind; the
            message names the key, and the reason where there is a special one.
    """
    if given is None:
        return None
    if not isinstance(given, dict):
        raise InvalidInput(f"{parameter} is {type(given).__name__}, not dict")
    for key, value in given.items():
        _check(parameter, key, value)
    return copy.deepcopy(given)


def _check(parameter: str, key: object, value: object) -> None:
    allowed = ALLOWED[parameter]
    name = f"{parameter}[{key!r}]"
    if not isinstance(key, str) or key not in allowed:
        reason = REASONS.get(str(key), "allowed are " + ", ".join(sorted(allowed)))
        raise InvalidInput(f"{name} is refused: {reason}")
    if value is not None and not allowed[key](value):
        reason = f": {_PICKLE}" if key == "use_safetensors" else ""
        raise InvalidInput(f"{name} cannot be {value!r}{reason}")


def engine_arguments(
    model_kwargs: dict[str, Any] | None,
    tokenizer_kwargs: dict[str, Any] | None,
    config_kwargs: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return keyword arguments of `secondpass.CrossEncoder`; a null in YAML asks for nothing.

    Where a model comes from is one question: all its files are read from one revision and one cache.

    Raises:
        InvalidInput: two dictionaries state different sources.
    """
    made: dict[str, Any] = {}
    given = {"automodel_args": model_kwargs, "tokenizer_args": tokenizer_kwargs, "config_args": config_kwargs}
    for name, arguments in given.items():
        made[name] = {}
        for key, value in (arguments or {}).items():
            if value is None or key == "num_labels":
                continue
            if key in ANSWER:
                made[key] = value
            elif key not in _SOURCE:
                made[name][key] = _torch_dtype(value) if key in ("dtype", "torch_dtype") else value
            elif made.setdefault(key, value) != value:
                raise InvalidInput(f"{key} is {made[key]!r} and {value!r}: a model has one source")
    return made


def _torch_dtype(value: str | torch.dtype) -> Any:
    """A dtype by its name; where Haystack found no torch to import, the engine says what it needs it for."""
    torch = sys.modules.get("torch")
    return getattr(torch, value) if torch and isinstance(value, str) and value != "auto" else value
