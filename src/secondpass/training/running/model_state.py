"""A cross-encoder made ready to learn, and ready to score again afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from secondpass.errors import InvalidInput, TrainingError
from secondpass.training.cpu.dropout import cheap_dropout
from secondpass.training.cpu.forward import TrainingForward, has_amx_bf16, training_forward
from secondpass.training.cpu.masks import DropoutSource
from secondpass.training.cpu.memory import give_back_memory, keep_freed_memory
from secondpass.training.running.loop import Trainable
from secondpass.training.running.preparation import (
    autocast_for,
    dropout_for,
    dropout_set_to,
    recomputed_activations,
    seeded,
)
from secondpass.training.running.steps import Tokeniser
from secondpass.training.settings import LoraSettings, TrainingSettings
from secondpass.training.survival.random_state import Generator, random_state, restore_random_state
from secondpass.training.weights.layers import freeze
from secondpass.training.weights.lora import Lora, add_lora

# Padded tokens of one forward with its gradients.
MICRO_TOKENS = {"cpu": 8192, "mps": 8192}
MICRO_TOKENS_ELSEWHERE = 32768


@dataclass(frozen=True, slots=True)
class Ready:
    """A model ready to learn.

    Attributes:
        tokenised: gives the model inputs of (query, document) pairs, cut to the encoder's window.
        forward: model inputs to float32 logits [pairs, labels], with gradients.
        autocast: makes the context of the forward pass.
        scaler: of the loss, for float16.
        micro_tokens: padded tokens of one forward that suit the device.
        generators: random numbers beside torch's.
        lora: the low-rank additions, if that is what is trained.
    """

    tokenised: Tokeniser
    forward: TrainingForward
    autocast: Callable[[], AbstractContextManager[object]]
    scaler: torch.amp.GradScaler
    micro_tokens: int
    generators: Mapping[str, Generator]
    lora: Lora | None

    def rewinding(self) -> Callable[[], None]:
        """Remember where the random numbers are; the function that comes back puts them there again."""
        tensors, state = random_state(self.generators)
        return lambda: restore_random_state(tensors, state, self.generators)


@contextmanager
def ready_to_learn(encoder: Trainable, settings: TrainingSettings, rank: int) -> Iterator[Ready]:
    """Prepare `encoder` as the settings say; afterwards dropout and frozen layers are as before, additions merged."""
    device = encoder.device
    dtype = precision_for(settings, device)
    with ExitStack() as stack:
        stack.enter_context(seeded(settings.seed + rank, device))
        stack.enter_context(dropout_set_to(encoder.model, dropout_for(settings, device)))
        stack.enter_context(recomputed_activations(encoder.model, settings.gradient_checkpointing))
        if settings.frozen_layers:
            stack.enter_context(freeze(encoder.model, settings.frozen_layers))
        lora = None if settings.lora is None else stack.enter_context(low_rank(encoder.model, settings.lora))
        source = DropoutSource((settings.seed, rank))
        if device.type == "cpu":
            stack.enter_context(cheap_dropout(encoder.model, source))
            keep_freed_memory()
            stack.callback(give_back_memory)
        names = encoder.tokenizer.model_input_names
        yield Ready(
            tokenised=encoder.tokens,
            forward=training_forward(encoder.model, names, encoder.padding, source),
            autocast=autocast_for(dtype, device),
            scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            micro_tokens=MICRO_TOKENS.get(device.type, MICRO_TOKENS_ELSEWHERE),
            generators={"dropout": source.generator},
            lora=lora,
        )


@contextmanager
def low_rank(model: Any, settings: LoraSettings) -> Iterator[Lora]:
    """Put additions into `model`; afterwards they are part of its weights."""
    lora = add_lora(model, settings)
    try:
        yield lora
    except BaseException:
        with suppress(TrainingError):  # weights that are not finite, which is why we are here
            lora.merge()
        raise
    lora.merge()


def precision_for(settings: TrainingSettings, device: torch.device) -> torch.dtype:
    """The type that products are computed in.

    Raises:
        InvalidInput: float16 without CUDA: nothing else scales its loss.
    """
    wish = settings.precision
    if wish == "fp16" and device.type != "cuda":
        raise InvalidInput("precision='fp16' needs a CUDA device: take 'bf16'")
    if wish == "auto":
        suits = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and has_amx_bf16()
        return torch.bfloat16 if suits else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wish]
