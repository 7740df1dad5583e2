"""modules.json and the folders that it names: the chain of modules of which a reranker without a head consists.

The layout is that of sentence-transformers 5.4 and later (read and written), type names of earlier ones are read too.
Nothing is imported by the names in these files, and nothing is started at random: a chain that is not complete is no
model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import nn

from secondpass.activations import as_torch, full_name, named_activation
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.forwards.readout import (
    POOLED,
    POOLINGS,
    SCORES,
    STATES,
    Dense,
    Dropout,
    LayerNorm,
    ModuleChain,
    Normalize,
    Pooling,
    ReadoutModel,
    VocabularyRows,
)
from secondpass.models.config import (
    LISTED,
    NEWEST_FILE,
    TRANSFORMER_FILE,
    Task,
    read_if_present,
    read_json,
    read_list,
    write_json,
)
from secondpass.models.weights import PICKLES, read_weights

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
FOLDER = re.compile(r"[\w\-][\w.\-]*")
LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# What the first module hands on in each task, by the name of transformers' output and by its own.
OUTPUTS: dict[Task, tuple[str, str]] = {
    "sequence-classification": ("logits", SCORES),
    "feature-extraction": ("last_hidden_state", STATES),
    "text-generation": ("logits", "causal_logits"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One module behind the first: what its folder says."""

    kind: str
    folder: Path
    settings: Mapping[str, Any]

    def whole(self, key: str, least: int = 1) -> int:
        """The whole number under a key."""
        value = self.settings.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.wrong(key)
        return value

    def text(self, key: str, otherwise: str) -> str:
        """The name under a key, `otherwise` where it is absent or null."""
        value = self.settings.get(key)
        value = otherwise if value is None else value
        if not isinstance(value, str) or not value:
            raise self.wrong(key)
        return value

    def flag(self, key: str, otherwise: bool) -> bool:
        """The true or false under a key."""
        value = self.settings.get(key, otherwise)
        if not isinstance(value, bool):
            raise self.wrong(key)
        return value

    def wrong(self, key: str, reason: str = "which cannot be") -> ModelLoadError:
        """What is said of a value."""
        return ModelLoadError(f"{self.folder / 'config.json'}: {key} is {self.settings.get(key)!r}, {reason}")


@dataclass(frozen=True, slots=True)
class Modules:
    """What modules.json lists: the transformers model's `task`, and the parts that make logits of its states."""

    task: Literal["feature-extraction", "text-generation"]
    parts: tuple[Part, ...]


def read_modules(folder: Path, new_head: bool = False) -> Modules | None:
    """The chain of a folder, None for a model that transformers makes whole.

    Args:
        folder: of a model.
        new_head: the caller asked for a head of its own on an encoder.

    Raises:
        ModelLoadError: the folder has a chain that is not complete or gives no scores, or modules that are not known.
    """
    settings, kind = read_if_present(folder / TRANSFORMER_FILE), _model_type(folder)
    embeds = kind not in (None, "CrossEncoder")
    task, listed = settings.get("transformer_task"), folder / LISTED
    if not listed.is_file():
        lost = [path.parent.name for path in sorted(folder.glob("[0-9]*_*/config.json"))]
        if (lost or task in ("feature-extraction", "text-generation")) and not (embeds and new_head):
            of = f" of {', '.join(lost)}" if lost else ""
            raise ModelLoadError(f"{folder} lacks {LISTED}, which says in what order the modules{of} make a score")
        return None
    parts = parts_of(listed)
    if len(parts) == 0 and task in (None, "sequence-classification"):
        _refuse_unlisted(folder)
        return None
    scores = bool(parts) and (parts[-1].kind == "LogitScore" or parts[-1].settings.get("module_output_name") == SCORES)
    if embeds or (not scores and kind is None):
        if new_head:
            return None
        raise ModelLoadError(
            f"{folder} is an embedding model (model_type {kind or 'SentenceTransformer'}): it has no score of a pair; "
            "num_labels= makes a new head to train on its encoder"
        )
    causal = [part.kind for part in parts] == ["LogitScore"]
    wanted: Task = "text-generation" if causal else "feature-extraction"
    if not scores or (task is not None and task != wanted):
        names = ", ".join(["Transformer", *(part.kind for part in parts)])
        raise ModelLoadError(f"{listed}: the modules {names} (transformer_task {task!r}) end in no score of a pair")
    _check_output(folder / TRANSFORMER_FILE, settings, wanted)
    return Modules("text-generation" if causal else "feature-extraction", parts)


def _model_type(folder: Path) -> str | None:
    kind = read_if_present(folder / NEWEST_FILE).get("model_type")
    return kind if isinstance(kind, str) else None


def _refuse_unlisted(folder: Path) -> None:
    for path in sorted(folder.glob("[0-9]*_*/config.json")):
        if path.parent.name.partition("_")[2] in KINDS:
            raise ModelLoadError(f"{folder / LISTED} does not name {path.parent.name}, which is there")


def _check_output(path: Path, settings: Mapping[str, Any], task: Task) -> None:
    """The states that are read are those of transformers' `forward`, under the usual name."""
    output, name = OUTPUTS[task]
    modalities = settings.get("modality_config", {})
    entry = modalities.get("text", {}) if isinstance(modalities, dict) else modalities
    entry = {"method": "forward", "method_output_name": output} | entry if isinstance(entry, dict) else {}
    if (entry.get("method"), entry.get("method_output_name")) != ("forward", output):
        raise ModelLoadError(f"{path}: modality_config {modalities!r} is not known: only forward's {output} is read")
    if settings.get("module_output_name", name) != name:
        raise ModelLoadError(f"{path}: module_output_name is {settings['module_output_name']!r}, not {name!r}")
    if settings.get("do_lower_case"):
        raise ModelLoadError(f"{path}: do_lower_case is true; put the lower-casing into tokenizer.json")


def parts_of(listed: Path) -> tuple[Part, ...]:
    """The modules behind the first, which is the transformers model of the folder itself."""
    entries = read_list(listed)
    made = []
    for place, entry in enumerate(entries):
        kind, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ModelLoadError(f"{listed}: entry {place} has no type and path")
        package, _, name = kind.rpartition(".")
        if package.partition(".")[0] != "sentence_transformers" or (name not in KINDS and name != "Transformer"):
            known = ", ".join(["Transformer", *KINDS])
            raise ModelLoadError(f"{listed}: type {kind!r} of entry {place} is not known; modules are {known}")
        if (place == 0) != (name == "Transformer") or (place == 0) != (path == ""):
            raise ModelLoadError(f"{listed}: entry {place} is {kind!r} in {path!r}; the Transformer is first, in ''")
        if place:
            made.append(_part(listed, name, path))
    if not entries:
        raise ModelLoadError(f"{listed} names no module")
    return tuple(made)


def _part(listed: Path, kind: str, path: str) -> Part:
    folder = listed.parent / path
    if FOLDER.fullmatch(path) is None or not folder.resolve().is_relative_to(listed.parent.resolve()):
        raise ModelLoadError(f"{listed}: path {path!r} is no folder beside it")
    optional = kind in ("Normalize", "Dropout")  # early ones have no file
    read = read_if_present if optional else read_json
    return Part(kind, folder, read(folder / "config.json"))


def stored_limit(folder: Path) -> int | None:
    """The longest input in tokens that a folder's chain asks for, None where it says nothing.

    Raises:
        ModelLoadError: it is no positive whole number.
    """
    path = folder / TRANSFORMER_FILE
    settings = read_if_present(path)
    processing = settings.get("processing_kwargs") or {}
    text = processing.get("text") or {} if isinstance(processing, dict) else {}
    for value in (text.get("max_length") if isinstance(text, dict) else None, settings.get("max_seq_length")):
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelLoadError(f"{path}: the longest input is {value!r} tokens, which cannot be")
            return value
    return None


# ---- Parts to modules of torch.
def make_readout(modules: Modules, body: Any, trust_remote_code: bool = False) -> ModuleChain | VocabularyRows:
    """What makes logits of a body's states, with the weights of its folders, in the type of the body.

    Raises:
        ModelLoadError: a setting cannot be, weights are missing, or what a module reads is not there.
    """
    if modules.task == "text-generation":
        return _stored_rows(modules.parts[0], body)
    made = []
    # width of what goes by each name, and whether it is one row for a pair
    widths = {STATES: (int(body.config.get_text_config().hidden_size), False)}
    for part in modules.parts:
        module, widths = MAKERS[part.kind](part, widths, trust_remote_code)
        tensors = _tensors(part, module)
        try:
            module.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ModelLoadError(f"{part.folder}: {reason}") from error
        made.append(module)
    if not isinstance(made[-1], Dense) or not widths[SCORES][1]:
        raise ModelLoadError(f"{modules.parts[-1].folder}: the last module is no Dense that writes one row for a pair")
    return ModuleChain(made).to(body.dtype).eval()


def readout_weights(modules: Modules) -> dict[str, torch.Tensor]:
    """The weights in a chain's folders by their names in a `ModuleChain`; raises ModelLoadError for a broken file."""
    held = [(place, part) for place, part in enumerate(modules.parts) if (part.folder / WEIGHTS).is_file()]
    return {f"{place}.{name}": tensor for place, part in held for name, tensor in _stored(part).items()}


Widths = dict[str, tuple[int, bool]]


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


def _width(part: Part, widths: Widths, name: str) -> tuple[int, bool]:
    if name not in widths:
        raise ModelLoadError(f"{part.folder}: it reads {name!r}, which no module in front of it writes")
    return widths[name]


def _pooling(part: Part, widths: Widths, _: bool) -> tuple[nn.Module, Widths]:
    hidden, _pooled = _width(part, widths, STATES)
    size = "embedding_dimension" if "embedding_dimension" in part.settings else "word_embedding_dimension"
    if part.whole(size) != hidden:
        raise part.wrong(size, f"and the states in front of it have {hidden}")
    given = part.settings.get("pooling_mode")
    if given is None:
        given = [mode for key, mode in LEGACY_MODES.items() if part.flag(key, False)] or "mean"
    modes = [given] if isinstance(given, str) else given
    if not isinstance(modes, list) or not modes or not all(isinstance(m, str) and m in POOLINGS for m in modes):
        raise part.wrong("pooling_mode", f"not one or several of {', '.join(POOLINGS)}")
    return Pooling(hidden, modes, part.flag("include_prompt", True)), widths | {POOLED: (hidden * len(modes), True)}


def _dense(part: Part, widths: Widths, trust_remote_code: bool) -> tuple[nn.Module, Widths]:
    sizes = part.whole("in_features"), part.whole("out_features")
    reads = part.text("module_input_name", POOLED)
    writes = part.text("module_output_name", reads)
    width, pooled = _width(part, widths, reads)
    if sizes[0] != width:
        raise part.wrong("in_features", f"and what it reads has {width}")
    if _shape(part, "linear.weight") != (sizes[1], sizes[0]):
        raise part.wrong("out_features", f"and linear.weight has shape {list(_shape(part, 'linear.weight') or ())}")
    name = part.text("activation_function", "torch.nn.modules.activation.Tanh")
    activation = as_torch(named_activation(name, trust_remote_code))
    if activation is None:
        raise part.wrong("activation_function", "no activation of torch.nn (trust_remote_code=True imports others)")
    own = activation if isinstance(activation, nn.Module) else _Called(activation)
    residual = part.flag("use_residual", False)
    behind = _width_behind(own, sizes[1])
    if behind < 1 or (behind != sizes[1] and (residual or writes == SCORES)):
        raise part.wrong("activation_function", f"which makes {behind} of {sizes[1]}")
    made = Dense(sizes, part.flag("bias", True), own, reads, writes, residual)
    return made, widths | {writes: (behind, pooled)}


def _width_behind(activation: nn.Module, width: int) -> int:
    """What an activation makes of rows so wide: GLU halves them, and gives 0 here where it cannot."""
    if type(activation) is not nn.GLU:
        return width
    return 0 if width % 2 else width // 2


class _Called(nn.Module):
    """An activation that is no module of torch."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def _layer_norm(part: Part, widths: Widths, _: bool) -> tuple[nn.Module, Widths]:
    width, _pooled = _width(part, widths, POOLED)
    if part.whole("dimension") != width:
        raise part.wrong("dimension", f"and what it reads has {width}")
    return LayerNorm(width), widths


def _normalize(part: Part, widths: Widths, _: bool) -> tuple[nn.Module, Widths]:
    reads = part.text("module_input_name", POOLED)
    writes = part.text("module_output_name", reads)
    return Normalize(reads, writes), widths | {writes: _width(part, widths, reads)}


def _dropout(part: Part, widths: Widths, _: bool) -> tuple[nn.Module, Widths]:
    _width(part, widths, POOLED)
    share = part.settings.get("dropout", 0.2)
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise part.wrong("dropout")
    return Dropout(float(share)), widths


MAKERS: dict[str, Callable[[Part, Widths, bool], tuple[nn.Module, Widths]]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
}
KINDS = (*MAKERS, "LogitScore")


def _shape(part: Part, name: str) -> tuple[int, ...] | None:
    tensor = _stored(part).get(name)
    return None if tensor is None else tuple(tensor.shape)


def _tensors(part: Part, module: nn.Module) -> dict[str, torch.Tensor]:
    return _stored(part) if module.state_dict() else {}


def _stored(part: Part) -> dict[str, torch.Tensor]:
    path = part.folder / WEIGHTS
    if not path.is_file():
        pickles = any(next(part.folder.glob(pattern), None) for pattern in PICKLES)
        reason = "but pickle files, which can run code and are not read" if pickles else "and its weights are nowhere"
        raise ModelLoadError(f"{part.folder} holds no {WEIGHTS} {reason}")
    return read_weights((path,))


# ---- And back: what sentence-transformers 6 reads.
TYPES: dict[type[nn.Module], str] = {
    Pooling: "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    Dense: "sentence_transformers.base.modules.dense.Dense",
    LayerNorm: "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    Normalize: "sentence_transformers.base.modules.normalize.Normalize",
    Dropout: "sentence_transformers.sentence_transformer.modules.dropout.Dropout",
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
