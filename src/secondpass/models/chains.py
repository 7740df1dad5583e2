"""A chain's parts to modules of torch, and back to folders that sentence-transformers 6 reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from secondpass.activations import as_torch, full_name, named_activation
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.forwards.readout import (
    Dense,
    Dropout,
    LateInteraction,
    LayerNorm,
    ModuleChain,
    Normalize,
    Pooling,
    ReadoutModel,
    VocabularyRows,
)
from secondpass.models.building import read_weights
from secondpass.models.config import LISTED, TRANSFORMER_FILE, Task, write_json
from secondpass.models.modules import (
    LATE,
    OUTPUTS,
    WEIGHTS,
    CheckedPart,
    DensePart,
    DropoutPart,
    LatePart,
    LayerNormPart,
    Modules,
    Part,
    PoolingPart,
    checked_parts,
    part_weights,
)

# Whose token types say whose a token is, and whose positions begin at 0.
READ_APART = ("bert", "electra")


def make_readout(modules: Modules, body: Any, trust_remote_code: bool = False) -> ModuleChain | VocabularyRows:
    """What makes logits of a body's states, with the weights of its folders, in the type of the body.

    Raises:
        ModelLoadError: a setting cannot be, weights are missing, or what a module reads is not there.
    """
    if modules.task == "text-generation":
        return _stored_rows(modules.parts[0], body)
    made = []
    checked = checked_parts(modules, int(body.config.get_text_config().hidden_size))
    for part, own in zip(modules.parts, checked, strict=True):
        if isinstance(own, LatePart) and body.config.model_type not in READ_APART:
            raise ModelLoadError(
                f"{part.folder}: {LATE} is for {' and '.join(READ_APART)}, not {body.config.model_type}"
            )
        if isinstance(own, LatePart) and own.vocabulary != body.config.vocab_size:
            raise part.wrong("vocabulary_size", f"and the model in front of it has {body.config.vocab_size} words")
        module = _module(part, own, trust_remote_code)
        tensors = _stored(part) if module.state_dict() else {}
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ModelLoadError(f"{part.folder}: {reason}") from error
        made.append(module)
    return ModuleChain(made).to(body.dtype).eval()


def readout_weights(modules: Modules) -> dict[str, torch.Tensor]:
    """The weights in a chain's folders by their names in a `ModuleChain`; raises ModelLoadError for a broken file."""
    held = [(place, part) for place, part in enumerate(modules.parts) if (part.folder / WEIGHTS).is_file()]
    return {f"{place}.{name}": tensor for place, part in held for name, tensor in _stored(part).items()}


def _module(part: Part, own: CheckedPart, trust_remote_code: bool) -> nn.Module:
    if isinstance(own, PoolingPart):
        return Pooling(own.dimension, own.modes, own.include_prompt)
    if isinstance(own, LayerNormPart):
        return LayerNorm(own.width)
    if isinstance(own, DropoutPart):
        return Dropout(own.share)
    if isinstance(own, LatePart):
        return LateInteraction(own.vocabulary, own.sharpness)
    if not isinstance(own, DensePart):
        return Normalize(own.reads, own.writes)
    activation = named_activation(own.activation, trust_remote_code)
    if activation is None:
        raise part.wrong("activation_function", "no activation of torch.nn (trust_remote_code=True imports others)")
    made = as_torch(activation)
    function = made if isinstance(made, nn.Module) else _Called(made)
    return Dense(own.sizes, own.bias, function, own.reads, own.writes, own.residual)


def vocabulary_rows(folder: Path, body: Any, true_token_id: int, false_token_id: int | None) -> VocabularyRows:
    """Two rows, or one, of a causal language model's vocabulary.

    Raises:
        ModelLoadError: there is no such row, or both are one, so that every score would be 0.
    """
    most = body.get_output_embeddings().weight.shape[0]
    for key, number in (("true_token_id", true_token_id), ("false_token_id", false_token_id)):
        if number is not None and number >= most:
            raise ModelLoadError(f"{folder}: {key} is {number}, and the vocabulary has {most} rows")
    if true_token_id == false_token_id:
        raise ModelLoadError(f"{folder}: true_token_id and false_token_id are both {true_token_id}: every score is 0")
    return VocabularyRows(true_token_id, false_token_id)


def _stored_rows(part: Part, body: Any) -> VocabularyRows:
    other = None if part.settings.get("false_token_id") is None else part.whole("false_token_id", 0)
    if part.text("module_input_name", OUTPUTS["text-generation"][1]) != OUTPUTS["text-generation"][1]:
        raise part.wrong("module_input_name")
    return vocabulary_rows(part.folder, body, part.whole("true_token_id", 0), other)


class _Called(nn.Module):
    """An activation that is no module of torch."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _stored(part: Part) -> dict[str, torch.Tensor]:
    return read_weights((part_weights(part),))


# ---- And back: what sentence-transformers 6 reads.
TYPES: dict[type[nn.Module], str] = {
    Pooling: "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    Dense: "sentence_transformers.base.modules.dense.Dense",
    LayerNorm: "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    Normalize: "sentence_transformers.base.modules.normalize.Normalize",
    Dropout: "sentence_transformers.sentence_transformer.modules.dropout.Dropout",
    LateInteraction: "secondpass.forwards.readout.LateInteraction",
    VocabularyRows: "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
}
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"


def write_modules(folder: Path, model: Any, settings: Mapping[str, Any] | None = None, chat: bool = False) -> None:
    """Write modules.json, the first module's settings and a folder for each other module.

    `settings` are those that the first module's file had when the model was loaded; `chat` says that the tokenizer's
    chat template is one for query and document.
    """
    task: Task = "sequence-classification"
    parts: list[nn.Module] = []
    if isinstance(model, ReadoutModel):
        own = model.readout
        task = "feature-extraction" if isinstance(own, ModuleChain) else "text-generation"
        parts = list(own) if isinstance(own, ModuleChain) else [own]
    output, name = OUTPUTS[task]
    read = {"method": "forward", "method_output_name": output}
    first = {
        "transformer_task": task,
        "modality_config": {"text": read} | ({"message": {**read, "format": "flat"}} if chat else {}),
        "module_output_name": name,
    }
    listed = [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER}]
    for place, module in enumerate(parts, 1):
        kind = TYPES[type(module)]
        path = f"{place}_{kind.rpartition('.')[2]}"
        listed.append({"idx": place, "name": str(place), "path": path, "type": kind})
        _write_part(folder / path, module)
    write_json(folder / LISTED, listed)
    write_json(folder / TRANSFORMER_FILE, first | dict(settings or {}))


def _write_part(folder: Path, module: Any) -> None:
    folder.mkdir()
    settings: dict[str, Any] = {}
    if isinstance(module, Pooling):
        modes = module.modes[0] if len(module.modes) == 1 else list(module.modes)
        settings = {"embedding_dimension": module.dimension, "pooling_mode": modes}
        settings |= {"include_prompt": module.include_prompt}
    elif isinstance(module, Dense):
        own = module.linear
        settings = {"in_features": own.in_features, "out_features": own.out_features, "bias": own.bias is not None}
        settings |= {"activation_function": _activation_name(module.activation_function)}
        settings |= {"module_input_name": module.reads, "module_output_name": module.writes}
        settings |= {"use_residual": True} if module.use_residual else {}
    elif isinstance(module, LayerNorm):
        settings = {"dimension": module.norm.normalized_shape[0]}
    elif isinstance(module, Normalize):
        settings = {"module_input_name": module.reads, "module_output_name": module.writes}
    elif isinstance(module, Dropout):
        settings = {"dropout": module.dropout_layer.p}
    elif isinstance(module, LateInteraction):
        settings = {"vocabulary_size": len(module.importance), "sharpness": module.sharpness}
    else:
        settings = {"true_token_id": module.true_token_id, "false_token_id": module.false_token_id}
        settings |= {"module_input_name": OUTPUTS["text-generation"][1]}
    write_json(folder / "config.json", settings)
    tensors = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    if tensors:
        save_file(tensors, folder / WEIGHTS)


def _activation_name(activation: nn.Module) -> str:
    """The name that brings an activation of a Dense back; its weights, if it has some, are stored with those."""
    given = getattr(activation, "function", activation)
    made: Any = type(given)
    with suppress(TypeError):
        if repr(made()) == repr(given):
            return full_name(made)
    raise InvalidInput(
        f"the activation {given!r} of a Dense cannot be stored: its class has no such settings by itself"
    )
