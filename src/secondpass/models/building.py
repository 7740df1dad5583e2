"""A folder to a model of torch: weights from safetensors files into a transformers model, complete or not at all.

The files are read here and handed to transformers as tensors, so that no other file of the folder (pickles,
adapters, shards an index points at) can be opened instead.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn.modules.module import register_module_parameter_registration_hook

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.models.config import KINDS, Task, classes_of, read_json
from secondpass.models.weights import COMPACT, GROUP, SCALE, few, packed, scaled, tell_unused, weight_files, whole

logger = logging.getLogger(__name__)

# A model may have more weights than are stored: tied ones are, an untrained head and pooler are not, and integers
# hold up to eight.
MORE = 8
MORE_TENSORS, MORE_ELEMENTS = 256, 4 * 2**20


@contextmanager
def bounded(folder: Path, sizes: Mapping[str, tuple[int, ...]], only_meta: bool) -> Iterator[None]:
    """Stop whatever this thread builds meanwhile as soon as it has far more weights than `sizes`, those stored.

    `only_meta`: weights that are read are not counted, only those that take no memory yet.
    """
    thread, tensors, elements = threading.get_ident(), 0, 0
    most = MORE * sum(map(math.prod, sizes.values())) + MORE_ELEMENTS

    def count(module: torch.nn.Module, name: str, weight: torch.nn.Parameter | None) -> None:
        nonlocal tensors, elements
        if weight is None or threading.get_ident() != thread or (only_meta and not weight.is_meta):
            return
        tensors, elements = tensors + 1, elements + weight.numel()
        if tensors > MORE * len(sizes) + MORE_TENSORS or elements > most:
            raise ModelLoadError(f"{folder}: config.json asks for a far larger model than the weights are of")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def read_weights(files: tuple[Path, ...]) -> dict[str, torch.Tensor]:
    """All tensors of the files by name, on the CPU; ModelLoadError has the path of one that cannot be read whole.

    They are copies in memory: a file that is overwritten or cut later changes nothing (a mapped one would, or end the
    process).
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in files:
        with whole(path):
            tensors |= load_file(path, backend="pread")
    return tensors


def build_model(
    folder: Path,
    config: Any,
    automodel_args: Mapping[str, Any],
    new_head: bool,
    task: Task = "sequence-classification",
) -> Any:
    """Return the sequence classifier (or what `task` says) of `config` with the folder's weights, in evaluation mode.

    Args:
        folder: holds the safetensors files.
        config: a transformers config; not changed.
        automodel_args: keyword arguments of `from_pretrained`.
        new_head: the caller asked for a number of labels, so a missing head may start at random.
        task: what of the model is made.

    Raises:
        ModelLoadError: files missing or broken; weights missing or of another shape.
        InvalidInput: an argument that the model does not take.
    """
    options = {key: value for key, value in automodel_args.items() if key != "ignore_mismatched_sizes"}
    files = weight_files(folder, options.pop("variant", None))
    made, weights = _class_of(config, folder, task), read_weights(files)
    sizes = {name: tuple(weight.shape) for name, weight in weights.items()}
    try:
        # Mismatches come back in `info`, which says more than transformers' own error.
        with bounded(folder, sizes, only_meta=True):
            model, info = made.from_pretrained(
                None,
                config=config,
                state_dict=weights,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except ModelLoadError:
        raise
    except Exception as error:  # model classes, quantisers and device maps fail in their own ways
        reason = " ".join(str(error).split())
        if isinstance(error, TypeError) and any(repr(key) in reason for key in options):
            raise InvalidInput(f"automodel_args: {reason}") from error
        what = f"{folder}: the model of config.json cannot be built: {type(error).__name__}: {reason}"
        raise ModelLoadError(what) from error
    resize = bool(automodel_args.get("ignore_mismatched_sizes"))
    try:
        _check_layers(folder, sizes, info)
        prefix = model.base_model_prefix if task == "sequence-classification" else None
        _check_complete(folder, prefix, info, new_head, resize)
    except ModelLoadError as error:
        if getattr(config, "auto_map", None) is None and read_json(folder / "config.json").get("auto_map"):
            hint = "the folder brings its own code for this architecture, which runs only with trust_remote_code=True"
            raise ModelLoadError(f"{error}; {hint}") from None
        raise
    return model.eval()


REMOTE: dict[Task, str] = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "feature-extraction": "AutoModel",
    "text-generation": "AutoModelForCausalLM",
}


def _class_of(config: Any, folder: Path, task: Task) -> Any:
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    # Only a config that was trusted still has an auto_map.
    remote = (getattr(config, "auto_map", None) or {}).get(REMOTE[task])
    if remote is not None:
        try:
            return get_class_from_dynamic_module(remote, str(folder))
        except Exception as error:  # foreign code may raise anything
            raise ModelLoadError(f"{folder}: the model's own code failed ({type(error).__name__})") from error
    if type(config) not in classes_of(task):
        raise ModelLoadError(f"{folder}: there is no {KINDS[task][1]} for a {type(config).__name__}")
    made = classes_of(task)[type(config)]
    return made[0] if isinstance(made, (list, tuple)) else made


def _check_complete(folder: Path, prefix: str | None, info: Mapping[str, Any], new_head: bool, resize: bool) -> None:
    if info.get("error_msgs"):
        raise ModelLoadError(f"{folder}: {' '.join(str(info['error_msgs'][0]).split())}")
    other_shape = {key: (tuple(stored), tuple(wanted)) for key, stored, wanted in info["mismatched_keys"]}
    for key, (stored, wanted) in sorted(other_shape.items()):
        if not (resize and new_head and _of_head(key, prefix)):
            raise ModelLoadError(
                f"{folder}: {key} has shape {list(stored)} in the file, {list(wanted)} by the config and num_labels"
            )
    # nothing but a head reads a pooler
    missing = sorted(key for key in info["missing_keys"] if prefix is not None or ".pooler." not in f".{key}")
    lost = [key for key in missing if not _of_head(key, prefix)]
    if lost:
        raise ModelLoadError(f"{folder}: {len(lost)} weights are missing from the checkpoint: {few(lost)}")
    fresh = sorted({*missing, *other_shape})
    if fresh and not new_head:
        raise ModelLoadError(
            f"{folder}: the checkpoint has no classification head ({few(fresh)} missing), its scores would be random; "
            "num_labels= makes a new head to train"
        )
    if fresh:
        logger.warning("%s: new, untrained head (%s); scores are random until it is trained", folder, few(fresh))
    # The head of another task is expected to be left over when a new one is made; anything else is not.
    unused = sorted(key for key in info["unexpected_keys"] if not (new_head and _of_head(key, prefix)))
    tell_unused(folder, unused)


def _check_layers(folder: Path, stored: Mapping[str, object], info: Mapping[str, Any]) -> None:
    """Refuse a config without layers: what is left is a model, and gives every pair the same score."""
    layers = {name for name in stored if re.search(r"\.\d+\.", name)}
    if layers and layers <= set(info["unexpected_keys"]):
        raise ModelLoadError(
            f"{folder}: by config.json the model has none of the stored layers ({few(sorted(layers))})"
        )


def _of_head(key: str, prefix: str | None) -> bool:
    """Tell the head from the encoder; a pooler is only read by heads, and encoders are published without it."""
    return (prefix is not None and not key.startswith(f"{prefix}.")) or ".pooler." in f".{key}"


# ---- Weights in few bits: a quarter of the size and less, for models that travel in a package.
#
# Each matrix row is stored as round(row / scale) with scale = max|row| / 127 in float32; everything that is no
# matrix stays float16. Storage only: loading gives an ordinary float32 model. A symmetric per-channel scheme, as in
# Jacob et al. 2018 (https://arxiv.org/abs/1712.05877). What is to have less than eight bits has a float16 scale for
# each `GROUP` numbers of a row, that of `SHRUNK` which leaves the least squared error.
SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
SCALED = (torch.int8, torch.uint8)
HALF = torch.finfo(torch.float16)


def compressed(weights: Mapping[str, torch.Tensor], bits: Mapping[str, int] | None = None) -> dict[str, torch.Tensor]:
    """Weights by name -> int8 matrices with "<name>.scale" [rows] beside them, float16 vectors, whole numbers as given.

    Args:
        weights: of a model.
        bits: by name, of matrices that get less than eight a number, 2 to 7: uint8 [rows, width * bits / 8] with
            float16 "<name>.scale" [rows, width / `GROUP`], float32 where one is beyond that.

    Raises:
        InvalidInput: a weight is not finite, or has the name that another one's scale would have; what is to get fewer
            bits is not there, or no matrix whose width `GROUP` divides.
    """
    made, fewer = {}, dict(bits or {})
    for name, count in fewer.items():
        if name not in weights:
            raise InvalidInput(f"{name} is no weight of the model: it cannot have {count} bits")
        if not 1 < count < 8:
            raise InvalidInput(f"{name}: {count} bits are not 2 to 7")
    for name, weight in weights.items():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            raise InvalidInput(f"{name} is not finite: it cannot be stored as int8")
        if name in fewer and (not weight.is_floating_point() or weight.ndim != 2 or weight.shape[1] % GROUP):
            raise InvalidInput(f"{name} has shape {[*weight.shape]}: fewer bits are for matrices of width n * {GROUP}")
        if not weight.is_floating_point() or weight.ndim < 2:
            half = weight.half() if weight.is_floating_point() else weight
            made[name] = half if bool(half.isfinite().all()) else weight.float()
            continue
        if name + SCALE in weights:
            raise InvalidInput(f"{name + SCALE} is a weight of the model: it cannot be stored as int8")
        if name in fewer:
            made[name], made[name + SCALE] = _grouped(weight.float(), fewer[name])
            continue
        scale = weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127
        made[name] = torch.round(weight.float() / scale[:, None]).to(torch.int8)
        made[name + SCALE] = scale
    return made


def _grouped(weight: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes and scales of a matrix in so many bits."""
    highest = 2 ** (bits - 1) - 1
    groups = weight.reshape(len(weight), -1, GROUP)
    largest = groups.abs().amax(2)
    # where float16 is too coarse, or too small
    normal = (largest == 0) | ((largest * SHRUNK[-1] > HALF.tiny * highest) & (largest < HALF.max * highest))
    kept = torch.float16 if bool(normal.all()) else torch.float32
    best, steps = torch.full_like(largest, torch.inf), torch.empty_like(largest)
    for share in SHRUNK:
        tried = (largest * share / highest).to(kept).float()
        error = (_levels(groups, tried, highest) * tried[..., None] - groups).square().sum(2)
        steps, best = torch.where(error < best, tried, steps), torch.minimum(error, best)
    levels = (_levels(groups, steps, highest) + highest + 1).flatten(1).to(torch.uint8)
    return torch.from_numpy(packed(levels.numpy(force=True), bits)), steps.to(kept).cpu()


def _levels(groups: torch.Tensor, steps: torch.Tensor, highest: int) -> torch.Tensor:
    return torch.round(groups / steps.clamp_min(1e-12)[..., None]).clamp(-highest, highest)


def expanded(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `compressed`: float32 weights by name, within half a step of the originals."""
    made = {}
    for name, tensor in stored.items():
        if tensor.dtype in SCALED and (tensor.dtype == torch.int8 or name + SCALE in stored):
            made[name] = torch.from_numpy(scaled(tensor.numpy(), stored[name + SCALE].numpy()))
        elif not name.endswith(SCALE) or getattr(stored.get(name.removesuffix(SCALE)), "dtype", None) not in SCALED:
            made[name] = tensor.float() if tensor.is_floating_point() else tensor
    return made


def save_compact(folder: Path, weights: Mapping[str, torch.Tensor], bits: Mapping[str, int] | None = None) -> None:
    """Write the weights alone; config and tokenizer are the caller's. Arguments and InvalidInput as of `compressed`."""
    save_file({name: tensor.contiguous() for name, tensor in compressed(weights, bits).items()}, folder / COMPACT)


def load_compact(folder: Path, config: Any, task: Task = "sequence-classification") -> Any:
    """A transformers model of `config`, as `task` says, with the weights of `folder`, float32, in eval mode.

    Raises:
        ModelLoadError: the file is broken, or its weights are not those of the architecture.
    """
    import transformers
    from transformers.initialization import no_init_weights

    path = folder / COMPACT
    try:
        weights = expanded(load_file(path, backend="pread"))
    except Exception as error:  # safetensors raises its own type, KeyError or OSError: all mean a broken file
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
    sizes = {name: tuple(weight.shape) for name, weight in weights.items()}
    try:
        with no_init_weights(), bounded(folder, sizes, only_meta=False):
            model = getattr(transformers, REMOTE[task]).from_config(config)
    except ModelLoadError:
        raise
    except Exception as error:  # model classes fail in their own ways
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ModelLoadError(f"{folder}: the model of config.json cannot be built: {reason}") from error
    try:
        missing, unexpected = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ModelLoadError(f"{path} does not fit the architecture: {str(error).splitlines()[-1].strip()}") from error
    missing = [name for name in missing if not name.endswith("position_ids")]
    if task != "sequence-classification":
        # nobody reads a pooler below a chain, but it can be saved again
        unread = [name for name in missing if ".pooler." in f".{name}"]
        missing = [name for name in missing if name not in unread]
        with torch.no_grad():
            for name in unread:
                model.get_parameter(name).zero_()
    if missing or unexpected:
        raise ModelLoadError(f"{path} lacks {missing[:3]} or has unknown {list(unexpected)[:3]}")
    return model.eval()
