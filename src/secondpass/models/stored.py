"""A folder to a model without torch: its files held open, its weights as arrays that are read when they are asked for.

What is read here is what `models.loading` would make of the same folder; wherever that is not certain torch reads it.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from secondpass.calibration import FILE, Calibration
from secondpass.errors import MissingExtra, ModelLoadError
from secondpass.forwards.choosing import has_torch
from secondpass.forwards.description import Broken, Encoder, NotDescribed, StoredArray
from secondpass.forwards.families import ENCODERS, describe_stored, stored_family, weights_prefix
from secondpass.forwards.families.modernbert import DEFAULTS as MODERNBERT
from secondpass.forwards.family import Family
from secondpass.forwards.kernel.cache import digest_of, keeps
from secondpass.inputs import ModelTemplate
from secondpass.lazy import lacking_torch, needs_torch
from secondpass.models.config import (
    LISTED,
    NEWEST_FILE,
    TRANSFORMER_FILE,
    architecture_in,
    read_json,
    write_older_rotary,
)
from secondpass.models.folders import INDEX
from secondpass.models.identity import stored_calibration
from secondpass.models.limits import check_ids, limit_of
from secondpass.models.loading import (
    Loaded,
    LoadRequest,
    check_arguments,
    folder_for,
    is_cpu,
    load,
    saved_beside,
    task_of,
)
from secondpass.models.modules import WEIGHTS, Modules, read_modules, stored_limit, stored_readout, stored_weights
from secondpass.models.modules import __file__ as modules_source
from secondpass.models.stored_tokenizer import StoredTokenizer, read_tokenizer
from secondpass.models.templates import template_for
from secondpass.models.tokenizer import SETTINGS_FILES
from secondpass.models.weights import COMPACT, HeldFiles, arrays_of, check_counts, stored_sizes, tell_unused
from secondpass.models.weights import __file__ as weights_source

logger = logging.getLogger(__name__)

# What a tokenizer and a config may be read from, beside weights and the folders of a chain.
SMALL_FILES = ("*.json", "vocab.txt", "merges.txt", "*.model", "*.spm", "*.jinja")
# Of the JSON beside weights what saving writes: a run of training, a cascade and others leave theirs there, too.
SAVED = {"config.json", "generation_config.json", "tokenizer.json", "vocab.json", *SETTINGS_FILES}
SAVED |= {INDEX, LISTED, NEWEST_FILE, TRANSFORMER_FILE}
# Arguments of transformers' loaders: whoever gives one wants what transformers makes of it.
PASSED_ON = ("automodel_args", "tokenizer_args", "config_args")
# Arguments that give other logits by the same weights.
OTHER_LOGITS = ("num_labels", "template", "true_token", "false_token")
# Settings of a config.json that change a model beyond its weights.
UNUSUAL = ("quantization_config", "pruned_heads", "auto_map")
# The code by which files become a description, beside that of `forwards`, which the cache of weights knows.
READERS = (Path(__file__), Path(modules_source), Path(weights_source))
# Where accelerators show themselves on Linux; whether torch can use one only torch knows.
ACCELERATORS = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd", "davinci*", "accel*", "hl[0-9]*")


@dataclass(slots=True)
class StoredModel:
    """A folder's model that nobody has asked torch for.

    The fields that `loading.Loaded` has are the same; `request` says how torch would load it.
    """

    request: LoadRequest
    files: HeldFiles
    settings: dict[str, Any]
    encoder: Encoder
    tokenizer: StoredTokenizer
    identity: str | None
    num_labels: int
    token_limit: int
    leaves_prompt_out: bool = False
    template: ModelTemplate | None = None
    stored_activation: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    transformer_settings: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """What was asked for."""
        return str(self.request.source)

    def digest(self) -> str:
        """Stands for all that the model is made of, and how we read it; every file is read where none was known."""
        if self.identity is not None:
            return self.identity
        whole = hashlib.sha256(digest_of(READERS).encode())
        for name in self.files.names():
            whole.update(f"{name} {self.files.size(name)} ".encode())
            whole.update(self.files.bytes_of(name, 0, self.files.size(name)))
        return whole.hexdigest()

    def copy(self, folder: Path) -> None:
        """Write the model's own files below another folder, and none that only stands beside them.

        They are as they were, but for rotary settings under their older names too.
        """
        names = [name for name in self.files.names() if name in SAVED or "/" in name or not name.endswith(".json")]
        self.files.write(folder, names)
        write_older_rotary(folder)

    def build(self, reason: str) -> Loaded:
        """The same model of torch, for a `reason`; raises MissingExtra where `has_torch` is false."""
        if not has_torch():
            raise MissingExtra(f"{reason}: that {needs_torch()}")
        with self.files.restored() as folder:
            made = load(self.request, folder)
        made.tokenizer.name_or_path = self.tokenizer.name_or_path
        return made


def open_model(request: LoadRequest) -> StoredModel | Loaded:
    """A model without torch where it is one of the kernel's families on the CPU, else as `load` has it.

    Raises:
        InvalidInput: an argument is refused; the message names it.
        ModelLoadError: the model cannot be had, is broken or incomplete, or would run foreign code.
        MissingExtra: it needs torch, which is not installed or too old; nothing is downloaded where the arguments
            alone say so.
    """
    check_arguments(request)
    unusual = _unusual(request)
    if unusual is not None and not has_torch():
        raise MissingExtra(f"{request.source}: {unusual}; that {needs_torch()}")
    folder = folder_for(request)
    calibration = stored_calibration(folder, request.automodel_args.get("variant"))
    if calibration is not None and any(getattr(request, name) is not None for name in OTHER_LOGITS):
        calibration = replace(calibration, weights=None)
    try:
        if unusual is None:
            return replace(_read(folder, request), calibration=calibration)
    except NotDescribed as error:
        if not has_torch():
            # with num_labels= a head that is missing is made new
            if isinstance(error, Broken) and request.num_labels is None:
                raise ModelLoadError(f"{folder}: {error}") from None
            raise MissingExtra(f"{folder}: {error}; that {needs_torch()}") from None
    return replace(load(request, folder), calibration=calibration)


def _unusual(request: LoadRequest) -> str | None:
    """What of the arguments only torch or transformers can do."""
    for name in PASSED_ON:
        # a token is for the hub alone
        if {*getattr(request, name)} - {"token", "use_safetensors", "weights_only"}:
            return f"{name} are arguments of transformers"
    if request.true_token is not None or request.false_token is not None:
        return "true_token and false_token are of language models"
    if request.device is None:
        if sys.platform != "linux" or any(next(Path("/dev").glob(a), None) for a in ACCELERATORS):
            if has_torch():
                return "there may be an accelerator"
            if "too old" in (lacking := lacking_torch() or ""):
                logger.warning("%s: an accelerator, if there is one, is not used", lacking)
        logger.info("Use pytorch device: %s", "cpu")
    elif not is_cpu(str(request.device)):
        return f"device={request.device!r} is not the CPU"
    return None


def _read(folder: Path, request: LoadRequest) -> StoredModel:
    modules = read_modules(folder, request.num_labels is not None)
    task_of(folder, modules, request)
    weights = stored_weights(folder)
    sizes = stored_sizes(weights)
    check_counts(folder / "config.json", sizes)
    settings = read_json(folder / "config.json")
    family, architecture = _family(folder, settings, modules, sizes)
    names = [path.relative_to(folder).as_posix() for path in weights]
    small = {path.name for pattern in SMALL_FILES for path in folder.glob(pattern) if path.is_file()} - {FILE}
    parts = [
        (part.folder / "config.json").relative_to(folder).as_posix() for part in (modules.parts if modules else ())
    ]
    held = HeldFiles(folder, [*names, *sorted(small), *(name for name in parts if (folder / name).is_file())])
    try:
        encoder, unused = _described(held, names, family, architecture, settings, modules)
    except Broken as error:
        if error.lacks is not None and _is_renamed(
            error.lacks, family.stored[str(settings["model_type"])].prefix, sizes
        ):
            raise NotDescribed(str(error)) from None
        raise
    if COMPACT in names and str(settings.get("dtype") or settings.get("torch_dtype") or "float32") != "float32":
        raise NotDescribed(f"{COMPACT} is expanded to a half type by config.json")
    if unused and COMPACT in names:
        raise Broken(f"{COMPACT} has {unused[0]}, which has no place in the model")
    _check_labels(encoder, settings, modules, request)
    tokenizer = read_tokenizer(folder, settings)
    if isinstance(tokenizer, str):
        raise NotDescribed(tokenizer)
    check_ids(folder, tokenizer, len(encoder.embeddings.words))
    template, _, _ = template_for(
        folder,
        str(request.source),
        "" if modules is None and request.num_labels is not None else architecture_in(folder),
        tokenizer,
        request.template,
    )
    tell_unused(folder, unused)
    limit = limit_of(tokenizer, _positions(encoder, settings))
    limit = min(limit, stored_limit(folder, modules) or limit)
    # an access token is for the hub, and nothing that a copy should carry
    return StoredModel(
        replace(request, token=None, automodel_args={}, tokenizer_args={}, config_args={}),
        held,
        settings,
        encoder,
        tokenizer,
        _identity(held),
        encoder.readout.labels,
        limit,
        modules is not None and any(part.settings.get("include_prompt") is False for part in modules.parts),
        template,
        **saved_beside(folder, request),
    )


def _is_renamed(lacks: str, prefix: str, names: Iterable[str]) -> bool:
    """Whether transformers, which reads other names too, may find a weight: without prefix, or in those of 2018.

    Names are of all that is stored, of types that we do not read too.
    """
    own = lacks.removeprefix(f"{prefix}.")
    return any(f".{own}." in f".{name}." or name.endswith((".gamma", ".beta")) for name in names)


def _family(
    folder: Path, settings: Mapping[str, Any], modules: Modules | None, names: Iterable[str]
) -> tuple[Family[Any], str]:
    """The family of a folder and the class that its weights are of: with a head, or below a chain without one."""
    unusual = [key for key in UNUSUAL if settings.get(key)]
    if unusual:
        raise NotDescribed(f"config.json has {unusual[0]}")
    named, kind = architecture_in(folder), settings.get("model_type")
    ours = any(kind in family.stored for family in ENCODERS if isinstance(kind, str))
    if modules is None and not named.endswith("ForSequenceClassification"):
        lost = ours and not named.endswith("ForCausalLM") and not any(name.startswith("classifier.") for name in names)
        reason = f"config.json says that its weights are of {named or 'no class'}, which has no head"
        raise Broken(f"{reason}, and none is there: its scores would be random") if lost else NotDescribed(reason)
    if modules is not None and not named.endswith("Model"):
        raise NotDescribed(f"config.json says that the weights below the modules are of {named or 'no class'}")
    family = stored_family(named, kind)
    prefix = weights_prefix(named)
    if modules is None and not ours and prefix and any(name.startswith(f"{prefix}.") for name in names):
        raise Broken(f"config.json says that its model_type is {kind!r}, and its weights are of {named}")
    if family is None:
        raise NotDescribed(f"{named} of type {kind!r} is computed by torch")
    return family, named


def _described(
    held: HeldFiles,
    names: Sequence[str],
    family: Family[Any],
    architecture: str,
    settings: Mapping[str, Any],
    modules: Modules | None,
) -> tuple[Encoder, list[str]]:
    """Of the files' heads alone: no number is read."""
    chained = [] if modules is None else [f"{part.folder.name}/{WEIGHTS}" for part in modules.parts]
    arrays: dict[str, StoredArray] = {}
    for name in names:
        if "/" not in name:  # those of modules have folders of their own
            arrays |= arrays_of(held, name, name == COMPACT)
    readout = None
    if modules is not None:
        own = [arrays_of(held, name) if name in names else {} for name in chained]
        readout = stored_readout(modules, _hidden(settings), own)
    encoder, unused = describe_stored(family, architecture, settings, arrays, readout)
    late, words = encoder.readout.late, len(encoder.embeddings.words)
    if modules is not None and late is not None and len(late.importance) != words:
        raise modules.parts[0].wrong("vocabulary_size", f"and the model in front of it has {words} words")
    return encoder, unused


def _hidden(settings: Mapping[str, Any]) -> int:
    hidden = settings.get("hidden_size", settings.get("dim"))
    if not isinstance(hidden, int):
        raise NotDescribed("config.json does not say how wide the states are")
    return hidden


def _check_labels(encoder: Encoder, settings: Mapping[str, Any], modules: Modules | None, request: LoadRequest) -> None:
    """The head has as many labels as transformers makes of the config, and as the caller asks for."""
    labels = encoder.readout.labels
    if modules is None:
        named, counted = settings.get("id2label"), settings.get("num_labels")
        if isinstance(named, dict):
            found: list[object] = [len(named) if all(map(str.isdecimal, named)) else [*named]]
        else:
            found = [] if named is None else [named]
        found += [] if counted is None else [counted]
        if any(one != labels for one in found or [2]):
            clear = len({*map(repr, found)}) < 2 and all(type(one) is int for one in found)
            raise (Broken if clear else NotDescribed)(
                f"the head has {labels} labels, and config.json says {found or 2}"
            )
    if request.num_labels not in (None, labels):
        raise NotDescribed(f"the head has {labels} labels, and num_labels={request.num_labels}")


def _identity(held: HeldFiles) -> str | None:
    """What stands for all that a model is made of: names and contents of the files that are held, and how we read them.

    Contents are those of the open files, whatever stands in the folder by now.
    """
    names = held.names()
    if not keeps():
        return None
    with suppress(OSError):
        return f"{digest_of([*READERS, *map(held.path_of, names)])} of {', '.join(names)}"
    return None


def _positions(encoder: Encoder, settings: Mapping[str, Any]) -> int | None:
    """Tokens that the model's positions are enough for."""
    own = encoder.embeddings
    if own.positions is not None:
        return len(own.positions) - own.first_position
    limit = settings.get("max_position_embeddings", MODERNBERT["max_position_embeddings"])
    return limit if isinstance(limit, int) else None
