"""A component as the dictionary of a YAML file, and back without importing anything that the file names."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from haystack import default_from_dict, default_to_dict
from haystack.utils.hf import deserialize_hf_model_kwargs, serialize_hf_model_kwargs

from secondpass.errors import InvalidInput

FREE_ARGUMENTS = ("model_kwargs", "tokenizer_kwargs", "config_kwargs")
NESTED: Mapping[str, tuple[str, ...]] = {"token": ("env_var",), "device": ("single", "multiple")}

ComponentT = TypeVar("ComponentT")


def to_dict(instance: object) -> dict[str, Any]:
    """Return the component's type and its parameters, each read from the attribute of its name."""
    names = [name for name in inspect.signature(type(instance).__init__).parameters if name != "self"]
    parameters = {name: copy.deepcopy(getattr(instance, name)) for name in names}
    for name in FREE_ARGUMENTS:
        if parameters.get(name) is not None:
            serialize_hf_model_kwargs(parameters[name])
    return default_to_dict(instance, **parameters)


def from_dict(component: type[ComponentT], data: dict[str, Any]) -> ComponentT:
    """Make a component from such a dictionary, which is left as it is except for a token that must not be in it.

    Raises:
        InvalidInput: a parameter has a wrong type or value.
    """
    parameters = dict(data.get("init_parameters") or {})
    _refuse_nested(parameters, data)
    for name in FREE_ARGUMENTS:
        if isinstance(parameters.get(name), dict):
            parameters[name] = copy.deepcopy(parameters[name])
            deserialize_hf_model_kwargs(parameters[name])
    return default_from_dict(component, {**data, "init_parameters": parameters})


class SerializedComponent:
    """The part that components of plain parameters have in common: to a dictionary, back, and warming up."""

    def warm_up(self) -> None:
        """Do nothing; a component that has something to read or to load overrides this."""

    async def warm_up_async(self) -> None:
        """Do what `warm_up` does, in a thread; the event loop goes on meanwhile."""
        await asyncio.to_thread(self.warm_up)

    def to_dict(self) -> dict[str, Any]:
        """Serialize the component to a dictionary.

        :returns:
            The component's type and parameters.
        """
        return to_dict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Deserialize the component from a dictionary.

        :param data: The dictionary that `to_dict` made.
        :returns:
            The component.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name.
        """
        return from_dict(cls, data)


def _refuse_nested(parameters: Mapping[str, Any], data: dict[str, Any]) -> None:
    """Haystack would import and make any allowed class that stands in place of a plain value."""
    for name, value in parameters.items():
        kind = value.get("type") if isinstance(value, dict) else None
        if kind is not None and kind not in NESTED.get(name, ()):
            if name == "token":
                _remove_token(data)
                raise InvalidInput(
                    "token must be {type: env_var, env_vars: [...], strict: false}, never a token itself"
                )
            raise InvalidInput(f"{name} is an object with a type ({kind}), not a plain value")
    if isinstance(parameters.get("token"), str):
        _remove_token(data)
        raise InvalidInput("token must be {type: env_var, env_vars: [...], strict: false}, never a token itself")


def _remove_token(data: dict[str, Any]) -> None:
    # Pipeline.from_dict prints the dictionary in its error message, and messages go to logs.
    data["init_parameters"]["token"] = "(removed)"  # noqa: S105
