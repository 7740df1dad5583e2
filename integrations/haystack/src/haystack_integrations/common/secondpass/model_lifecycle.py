"""A component from parameters to a model and back: dictionaries of YAML files, and one model for many threads."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from functools import wraps
from threading import Lock
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar
from weakref import WeakValueDictionary

from haystack import default_from_dict, default_to_dict, logging
from haystack.utils import ComponentDevice, Secret
from haystack.utils.hf import deserialize_hf_model_kwargs, serialize_hf_model_kwargs
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.parameters import checked_arguments, engine_arguments

from secondpass.errors import InvalidInput
from secondpass.forwards.precision import PRECISIONS
from secondpass.inputs import TRUNCATIONS
from secondpass.models.opened import SharedModel
from secondpass.models.templates import check_alone
from secondpass.score_cache import ScoreCache, cache_named

if TYPE_CHECKING:
    from secondpass import CrossEncoder
    from secondpass.cascade import Cascade
    from secondpass.forwards.precision import Precision
    from secondpass.inputs import Truncation
    from secondpass.windows import Windows

logger = logging.getLogger(__name__)
FREE_ARGUMENTS = ("model_kwargs", "tokenizer_kwargs", "config_kwargs")
NESTED: Mapping[str, tuple[str, ...]] = {"token": ("env_var",), "device": ("single", "multiple")}
ComponentT = TypeVar("ComponentT")
Arguments = ParamSpec("Arguments")
Outputs = dict[str, Any]


def in_thread(
    run: Callable[Concatenate[Any, Arguments], Outputs],
) -> Callable[Concatenate[Any, Arguments], Coroutine[Any, Any, Outputs]]:
    """Make a component's `run_async` of its `run`, with the sockets that Haystack reads off that."""

    @wraps(run)
    async def run_async(self: Any, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Outputs:
        found: Outputs = await asyncio.to_thread(self.run, *args, **kwargs)
        return found

    run_async.__name__ = "run_async"
    run_async.__qualname__ = f"{run.__qualname__}_async"
    run_async.__doc__ = """Do what `run` does, in a thread, with the same parameters, outputs and errors.

        A cancelled call stops waiting; its thread finishes unheard and disturbs no other call.
        """
    return run_async


class SerializedComponent:
    """The part that components of plain parameters have in common: to a dictionary, back, and warming up."""

    def warm_up(self) -> None:
        """Do nothing; a component that has something to read or to load overrides this."""

    async def warm_up_async(self) -> None:
        """Do what `warm_up` does, in a thread; the event loop goes on meanwhile."""
        await asyncio.to_thread(self.warm_up)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is no member of the original's pipeline.
        return {**self.__dict__, "__haystack_added_to_pipeline__": None}

    def to_dict(self) -> dict[str, Any]:
        """Serialize the component to a dictionary.

        :returns:
            The component's type and parameters.
        """
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        # Each parameter is read from the attribute of its name.
        parameters = {name: copy.deepcopy(getattr(self, name)) for name in names}
        for name in FREE_ARGUMENTS:
            if parameters.get(name) is not None and sys.modules.get("torch"):
                serialize_hf_model_kwargs(parameters[name])
        return default_to_dict(self, **parameters)

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
            # Haystack's function is for torch's dtypes alone, and refuses everything where no torch is installed.
            if sys.modules.get("torch"):
                deserialize_hf_model_kwargs(parameters[name])
    return default_from_dict(component, {**data, "init_parameters": parameters})


def _refuse_nested(parameters: Mapping[str, Any], data: dict[str, Any]) -> None:
    """Haystack would import and make any allowed class that stands in place of a plain value."""
    for name, value in parameters.items():
        kind = value.get("type") if isinstance(value, dict) else None
        nested = kind is not None and kind not in NESTED.get(name, ())
        if name == "token" and (nested or isinstance(value, str)):
            # Pipeline.from_dict prints the dictionary in its error message, and messages go to logs.
            data["init_parameters"]["token"] = "(removed)"  # noqa: S105
            raise InvalidInput("token must be {type: env_var, env_vars: [...], strict: false}, never a token itself")
        if nested:
            raise InvalidInput(f"{name} is an object with a type ({kind}), not a plain value")


def torch_device(device: ComponentDevice | str | None) -> str:
    """The name that torch has for the requested device, or for the default one of this machine."""
    requested = ComponentDevice.from_str(device) if isinstance(device, str) else device
    return ComponentDevice.resolve_device(requested).to_torch_str()


_CACHES: WeakValueDictionary[tuple[str, int], ScoreCache] = WeakValueDictionary()
_CACHES_LOCK = Lock()


def shared_cache(path: str, megabytes: int) -> ScoreCache:
    """The cache of scores in this file, or in memory: one for all components of the process, while any of them is open.

    Raises:
        InvalidInput: the path cannot be a cache, or there is too little room.
    """
    key = (os.path.abspath(os.path.expanduser(path)), megabytes)
    with _CACHES_LOCK:
        held = _CACHES.get(key)
        if held is None:
            held = _CACHES[key] = cache_named(path, megabytes)
        return held


class ModelLifecycle(SerializedComponent):
    """The part of a component that holds a model; the component states which one."""

    model: str | list[str]
    device: ComponentDevice | str | None
    token: Secret | None
    model_kwargs: dict[str, Any] | None
    tokenizer_kwargs: dict[str, Any] | None
    config_kwargs: dict[str, Any] | None
    truncation: Truncation | None
    instruction: str | None = None
    raise_on_failure: bool
    precision: Precision | None
    score_cache: str | None
    score_cache_mb: int
    _shared: SharedModel

    def _keep_source(
        self,
        model: object,
        device: object,
        token: object,
        model_kwargs: object,
        tokenizer_kwargs: object,
        config_kwargs: object,
    ) -> None:
        """Check and keep where the model comes from and where it is put."""
        self.model = parameters.model_names("model", model)
        self.device = parameters.device("device", device)
        self.token = parameters.secret("token", token)
        self.model_kwargs = checked_arguments("model_kwargs", model_kwargs)
        check_alone([self.model] if isinstance(self.model, str) else self.model, self.model_kwargs or {})
        self.tokenizer_kwargs = checked_arguments("tokenizer_kwargs", tokenizer_kwargs)
        self.config_kwargs = checked_arguments("config_kwargs", config_kwargs)
        engine_arguments(self.model_kwargs, self.tokenizer_kwargs, self.config_kwargs)

    def _keep_scoring(
        self,
        truncation: object,
        precision: object,
        raise_on_failure: object,
        score_cache: object,
        score_cache_mb: object,
    ) -> None:
        """Check and keep how it reads and scores."""
        self.truncation = parameters.optional_choice("truncation", truncation, TRUNCATIONS)
        self.precision = parameters.optional_choice("precision", precision, PRECISIONS)
        self.raise_on_failure = parameters.flag("raise_on_failure", raise_on_failure)
        self.score_cache = parameters.optional_path("score_cache", score_cache)
        self.score_cache_mb = parameters.positive("score_cache_mb", score_cache_mb)
        self._shared = SharedModel()

    def warm_up(self) -> None:
        """Load the model; threads that call it together get one load. A loaded model is left alone.

        With `raise_on_failure=False` a failed load is logged and not raised, so that a pipeline still answers; every
        `run` tries again.
        """
        try:
            with self.lent_model():
                pass
        except Exception as error:
            if self.raise_on_failure:
                raise
            logger.warning(
                "The ranking model is not loaded ({kind}: {error}); it is tried again at the next run.",
                kind=type(error).__name__,
                error=error,
            )

    def close(self) -> None:
        """Drop the model. Calls under way finish on it; the next `run` or `warm_up` loads it again."""
        self._shared.close()

    async def close_async(self) -> None:
        """Drop the model in a thread; the event loop goes on meanwhile."""
        await asyncio.to_thread(self.close)

    def lent_model(self) -> AbstractContextManager[Any]:
        """Give the CrossEncoder, or Cascade, for the length of a `with` block, loaded if there is none."""
        return self._shared.lend(self._load)

    def _cut(self) -> Truncation | Windows | None:
        return self.truncation

    def _load(self) -> CrossEncoder | Cascade:
        return self._opened(str(self.model), self.instruction)

    def _opened(self, model: str, instruction: str | None) -> CrossEncoder:
        from secondpass import CrossEncoder

        cache = self._cache()
        encoder = CrossEncoder(model, instruction=instruction, **self._arguments())
        encoder.use_score_cache(cache)
        return encoder

    def _arguments(self) -> dict[str, Any]:
        """Those of `CrossEncoder` for every model of the component."""
        return {
            "device": torch_device(self.device),
            "token": None if self.token is None else self.token.resolve_value(),
            "truncation": self._cut(),
            "precision": self.precision,
            **engine_arguments(self.model_kwargs, self.tokenizer_kwargs, self.config_kwargs),
        }

    def _cache(self) -> ScoreCache | None:
        return None if self.score_cache is None else shared_cache(self.score_cache, self.score_cache_mb)

    def __getstate__(self) -> dict[str, Any]:
        # A copy loads a model of its own.
        return {key: value for key, value in super().__getstate__().items() if key != "_shared"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared = SharedModel()
