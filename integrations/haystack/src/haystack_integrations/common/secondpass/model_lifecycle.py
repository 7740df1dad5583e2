"""From parameters to a model and back: loading on demand, dropping, and copies that take no weights along."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any

from haystack import logging
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.common.secondpass.free_arguments import engine_arguments
from haystack_integrations.common.secondpass.shared_model import SharedModel

from secondpass import CrossEncoder
from secondpass.cuts import Truncation
from secondpass.precision import Precision

logger = logging.getLogger(__name__)


class ModelLifecycle:
    """The part of a component that holds a model; the component states which one."""

    model: str
    device: ComponentDevice | str | None
    token: Secret | None
    model_kwargs: dict[str, Any] | None
    tokenizer_kwargs: dict[str, Any] | None
    config_kwargs: dict[str, Any] | None
    truncation: Truncation
    raise_on_failure: bool
    precision: Precision | None
    _shared: SharedModel[CrossEncoder]

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

    async def warm_up_async(self) -> None:
        """Load the model in a thread; the event loop goes on meanwhile."""
        await asyncio.to_thread(self.warm_up)

    def close(self) -> None:
        """Drop the model. Calls under way finish on it; the next `run` or `warm_up` loads it again."""
        self._shared.close()

    async def close_async(self) -> None:
        """Drop the model in a thread; the event loop goes on meanwhile."""
        await asyncio.to_thread(self.close)

    def lent_model(self) -> AbstractContextManager[CrossEncoder]:
        """Give the model for the length of a `with` block, loaded if there is none."""
        return self._shared.lend(self._load)

    def _load(self) -> CrossEncoder:
        requested = ComponentDevice.from_str(self.device) if isinstance(self.device, str) else self.device
        return CrossEncoder(
            self.model,
            device=ComponentDevice.resolve_device(requested).to_torch_str(),
            token=self.token.resolve_value() if self.token is not None else None,
            truncation=self.truncation,
            precision=self.precision,
            **engine_arguments(self.model_kwargs, self.tokenizer_kwargs, self.config_kwargs),
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy is no member of the original's pipeline, and locks and weights cannot or should not be copied.
        return {key: value for key, value in self.__dict__.items() if key != "_shared"} | {
            "__haystack_added_to_pipeline__": None
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shared = SharedModel()
