"""modules.json and the folders that it names: the chain of modules of which a reranker without a head consists.

The layout is that of sentence-transformers 5.4 and later (read and written), type names of earlier ones are read too.
Nothing is imported by the names in these files, and nothing is started at random: a chain that is not complete is no
model.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secondpass.errors import ModelLoadError
from secondpass.forwards.description import (
    PLAIN_POOLINGS,
    POOLED,
    SCORES,
    STATES,
    Array,
    LateComparison,
    Linear,
    Norm,
    NotDescribed,
    Readout,
    ReadoutStep,
    StepActivation,
    fewer,
)
from secondpass.models.config import (
    LISTED,
    NEWEST_FILE,
    TRANSFORMER_FILE,
    Task,
    read_if_present,
    read_json,
    read_list,
    read_processing,
)
from secondpass.models.weights import COMPACT, PICKLES, is_compact, stored_sizes, weight_files

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
# Ours, which sentence-transformers has none like.
LATE, LATE_WEIGHTS = "LateInteraction", ("importance", "scales")
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
    scores = bool(parts) and (
        parts[-1].kind in ("LogitScore", LATE) or parts[-1].settings.get("module_output_name") == SCORES
    )
    if embeds or (not scores and kind is None):
        if new_head:
            return None
        raise ModelLoadError(
            f"{folder} is an embedding model (model_type {kind or 'SentenceTransformer'}): it has no score of a pair; "
            "num_labels= makes a new head to train on its encoder"
        )
    causal = [part.kind for part in parts] == ["LogitScore"]
    wanted: Task = "text-generation" if causal else "feature-extraction"
    rows_behind = not causal and any(part.kind == "LogitScore" for part in parts)
    if not scores or rows_behind or (task is not None and task != wanted):
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
        owner = "secondpass" if name == LATE else "sentence_transformers"
        if package.partition(".")[0] != owner or (name not in KINDS and name != "Transformer"):
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


def stored_limit(folder: Path, modules: Modules | None) -> int | None:
    """The longest input in tokens that a folder of `modules` asks for, None where it says nothing.

    None are those of a model with a head, which has such a folder where modules.json names the Transformer alone.
    `truncation` that is another than ours is told in a warning.

    Raises:
        ModelLoadError: it is no positive whole number, or the tokenizer's special tokens are to be left out.
    """
    path, listed = folder / TRANSFORMER_FILE, folder / LISTED
    if modules is None and (not listed.is_file() or parts_of(listed)):
        return None
    settings, given = read_if_present(path), read_processing(path)
    modalities = settings.get("modality_config")
    chat = isinstance(modalities, dict) and "message" in modalities
    # as sentence-transformers 6.2 lays them over each other (`_call_processor`, `_process_chat_messages`)
    order = ("common", "text", "chat_template") if chat else ("text", "common")
    asked = {key: value for name in order for key, value in given.get(name, {}).items()}
    if not chat and asked.get("add_special_tokens") is False:
        raise ModelLoadError(f"{path}: processing_kwargs: add_special_tokens is False, which is not supported")
    if asked.get("truncation") not in (None, True, "longest_first"):
        logger.warning("%s: truncation %r is not applied: truncation= says what is cut", path, asked["truncation"])
    for value in (asked.get("max_length"), settings.get("max_seq_length")):
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelLoadError(f"{path}: the longest input is {value!r} tokens, which cannot be")
            return value
    return None


# ---- Parts, checked one behind the other: each reads what one in front of it writes.
Widths = dict[str, tuple[int, bool]]
"""Width of what goes by each name, and whether it is one row for a pair."""


@dataclass(frozen=True, slots=True)
class PoolingPart:
    """Rows of `dimension` numbers, by each of the modes."""

    dimension: int
    modes: tuple[str, ...]
    include_prompt: bool


@dataclass(frozen=True, slots=True)
class DensePart:
    """A linear layer [in, out] and the activation of that dotted name."""

    sizes: tuple[int, int]
    bias: bool
    activation: str
    reads: str
    writes: str
    residual: bool


@dataclass(frozen=True, slots=True)
class LayerNormPart:
    """Layer normalisation of rows so wide."""

    width: int


@dataclass(frozen=True, slots=True)
class NormalizePart:
    """To length 1."""

    reads: str
    writes: str


@dataclass(frozen=True, slots=True)
class DropoutPart:
    """Of that share, in training."""

    share: float


@dataclass(frozen=True, slots=True)
class LatePart:
    """Query and document compared at last, of a vocabulary so large."""

    vocabulary: int
    sharpness: float


CheckedPart = PoolingPart | DensePart | LayerNormPart | NormalizePart | DropoutPart | LatePart


def checked_parts(modules: Modules, hidden: int) -> list[CheckedPart]:
    """The settings of a chain's parts behind states of `hidden` numbers.

    Raises:
        ModelLoadError: a setting cannot be, weights are missing, or what a module reads is not there.
    """
    widths, made = {STATES: (hidden, False)}, list[CheckedPart]()
    for part in modules.parts:
        own, widths = CHECKS[part.kind](part, widths)
        made.append(own)
    if isinstance(made[0], LatePart) and len(made) == 1:
        return made
    if not isinstance(made[-1], DensePart) or not widths[SCORES][1]:
        raise ModelLoadError(f"{modules.parts[-1].folder}: the last module is no Dense that writes one row for a pair")
    return made


def stored_readout(modules: Modules, hidden: int, weights: Sequence[Mapping[str, Array]]) -> Readout:
    """What a chain computes, with the weights of each part by name.

    Raises:
        ModelLoadError: as `checked_parts`.
        NotDescribed: a part is another than those that families compute.
    """
    parts = checked_parts(modules, hidden)
    first = parts[0]
    if isinstance(first, LatePart):
        importance, scales = (weights[0][name] for name in LATE_WEIGHTS)
        return Readout("tokens", (), LateComparison(importance, scales, first.sharpness))
    if not isinstance(first, PoolingPart) or first.modes not in PLAIN_POOLINGS:
        raise NotDescribed("the pooling is computed by torch")
    steps, name = list[ReadoutStep](), POOLED
    for part, own in zip(parts[1:], weights[1:], strict=True):
        if isinstance(part, DropoutPart):
            continue
        if getattr(part, "reads", POOLED) != name:
            raise NotDescribed(f"a module reads {getattr(part, 'reads', POOLED)!r} behind one that writes {name!r}")
        name = getattr(part, "writes", POOLED)
        steps.append(_step(part, own))
    return Readout(PLAIN_POOLINGS[first.modes], tuple(fewer(steps)))


STEP_ACTIVATIONS: dict[str, StepActivation] = {
    "Identity": "none",
    "ReLU": "relu",
    "SiLU": "silu",
    "Tanh": "tanh",
    "GELU": "gelu",
}


def _step(part: CheckedPart, weights: Mapping[str, Array]) -> ReadoutStep:
    if isinstance(part, NormalizePart):
        return ReadoutStep(None, unit=True)
    # torch's class has no other epsilon without arguments
    if isinstance(part, LayerNormPart) and set(weights) == {"norm.weight", "norm.bias"}:
        weight, bias = weights["norm.weight"], weights["norm.bias"]
        if weight.shape == bias.shape == (part.width,):
            return ReadoutStep(None, norm=Norm(weight, bias, 1e-5))
    if isinstance(part, DensePart) and not part.residual:
        package, _, kind = part.activation.rpartition(".")
        wanted = {"linear.weight", "linear.bias"} if part.bias else {"linear.weight"}
        if package.startswith("torch.nn") and kind in STEP_ACTIVATIONS and set(weights) == wanted:
            linear = Linear(weights["linear.weight"], weights.get("linear.bias"))
            if linear.bias is None or linear.bias.shape == (part.sizes[1],):
                return ReadoutStep(linear, STEP_ACTIVATIONS[kind])
    raise NotDescribed(f"a module with the weights {', '.join(weights) or 'of none'} is computed by torch")


def _width(part: Part, widths: Widths, name: str) -> tuple[int, bool]:
    if name not in widths:
        raise ModelLoadError(f"{part.folder}: it reads {name!r}, which no module in front of it writes")
    return widths[name]


def _pooling(part: Part, widths: Widths) -> tuple[CheckedPart, Widths]:
    hidden, _pooled = _width(part, widths, STATES)
    size = "embedding_dimension" if "embedding_dimension" in part.settings else "word_embedding_dimension"
    if part.whole(size) != hidden:
        raise part.wrong(size, f"and the states in front of it have {hidden}")
    given = part.settings.get("pooling_mode")
    if given is None:
        given = [mode for key, mode in LEGACY_MODES.items() if part.flag(key, False)] or "mean"
    modes = [given] if isinstance(given, str) else given
    known = tuple(LEGACY_MODES.values())
    if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) and mode in known for mode in modes):
        raise part.wrong("pooling_mode", f"not one or several of {', '.join(known)}")
    made = PoolingPart(hidden, tuple(modes), part.flag("include_prompt", True))
    return made, widths | {POOLED: (hidden * len(modes), True)}


def _dense(part: Part, widths: Widths) -> tuple[CheckedPart, Widths]:
    sizes = part.whole("in_features"), part.whole("out_features")
    reads = part.text("module_input_name", POOLED)
    writes = part.text("module_output_name", reads)
    width, pooled = _width(part, widths, reads)
    if sizes[0] != width:
        raise part.wrong("in_features", f"and what it reads has {width}")
    shape = _shape(part, "linear.weight")
    if shape != (sizes[1], sizes[0]):
        raise part.wrong("out_features", f"and linear.weight has shape {list(shape or ())}")
    name = part.text("activation_function", "torch.nn.modules.activation.Tanh")
    residual = part.flag("use_residual", False)
    behind = _width_behind(name, sizes[1])
    if behind < 1 or (behind != sizes[1] and (residual or writes == SCORES)):
        raise part.wrong("activation_function", f"which makes {behind} of {sizes[1]}")
    made = DensePart(sizes, part.flag("bias", True), name, reads, writes, residual)
    return made, widths | {writes: (behind, pooled)}


def _width_behind(activation: str, width: int) -> int:
    """What an activation makes of rows so wide: GLU halves them, and gives 0 here where it cannot."""
    if not (activation.startswith("torch.nn.") and activation.endswith(".GLU")):
        return width
    return 0 if width % 2 else width // 2


def _layer_norm(part: Part, widths: Widths) -> tuple[CheckedPart, Widths]:
    width, _pooled = _width(part, widths, POOLED)
    if part.whole("dimension") != width:
        raise part.wrong("dimension", f"and what it reads has {width}")
    return LayerNormPart(width), widths


def _normalize(part: Part, widths: Widths) -> tuple[CheckedPart, Widths]:
    reads = part.text("module_input_name", POOLED)
    writes = part.text("module_output_name", reads)
    return NormalizePart(reads, writes), widths | {writes: _width(part, widths, reads)}


def _late(part: Part, widths: Widths) -> tuple[CheckedPart, Widths]:
    _width(part, widths, STATES)
    vocabulary, sharpness = part.whole("vocabulary_size"), part.settings.get("sharpness")
    if isinstance(sharpness, bool) or not isinstance(sharpness, (int, float)) or not 0 < sharpness < math.inf:
        raise part.wrong("sharpness")
    for name, shape in zip(LATE_WEIGHTS, ((vocabulary,), (3,)), strict=True):
        if _shape(part, name) != shape:
            raise part.wrong("vocabulary_size", f"and {name} has shape {list(_shape(part, name) or ())}")
    return LatePart(vocabulary, float(sharpness)), widths | {SCORES: (1, True)}


def _dropout(part: Part, widths: Widths) -> tuple[CheckedPart, Widths]:
    _width(part, widths, POOLED)
    share = part.settings.get("dropout", 0.2)
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise part.wrong("dropout")
    return DropoutPart(float(share)), widths


CHECKS: dict[str, Callable[[Part, Widths], tuple[CheckedPart, Widths]]] = {
    "Pooling": _pooling,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
    "Dropout": _dropout,
    LATE: _late,
}
KINDS = (*CHECKS, "LogitScore")


def _shape(part: Part, name: str) -> tuple[int, ...] | None:
    return stored_sizes((part_weights(part),)).get(name)


def part_weights(part: Part) -> Path:
    """The file of a part's weights; raises ModelLoadError where there is none."""
    path = part.folder / WEIGHTS
    if not path.is_file():
        pickles = any(next(part.folder.glob(pattern), None) for pattern in PICKLES)
        reason = "but pickle files, which can run code and are not read" if pickles else "and its weights are nowhere"
        raise ModelLoadError(f"{part.folder} holds no {WEIGHTS} {reason}")
    return path


def stored_weights(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The files that a model of this folder is loaded from: its body's, and those of the parts that it lists.

    Raises:
        ModelLoadError: the body has none, or the list is none that we know.
    """
    body = (folder / COMPACT,) if is_compact(folder) else weight_files(folder, variant)
    parts = parts_of(folder / LISTED) if (folder / LISTED).is_file() else ()
    return body + tuple(path for path in sorted({part.folder / WEIGHTS for part in parts}) if path.is_file())
