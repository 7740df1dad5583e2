"""All that a run remembers to named tensors and JSON, the tensors to a file, and back: bit by bit."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secondpass.errors import CheckpointError, InvalidInput

logger = logging.getLogger(__name__)

# ---- Nested state (dicts, lists, tuples, numbers, tensors, arrays) to named tensors and JSON, and back exactly.
#
# What JSON does not have is an object with one key: {"$tensor": name}, {"$array": name}, {"$tuple": [...]},
# {"$pairs": [[key, value], ...]} for a dict whose keys are not all plain texts.
TENSOR, ARRAY, TUPLE, PAIRS = "$tensor", "$array", "$tuple", "$pairs"


def flattened(value: object, name: str) -> tuple[dict[str, torch.Tensor], Any]:
    """Take a state apart.

    Args:
        value: not changed; the tensors given back are its own, not copies.
        name: its name in messages, and that with which the tensors' names begin.

    Returns:
        The tensors by the names of their places ("optimizer.state.0.exp_avg"), and the rest as JSON.

    Raises:
        InvalidInput: something in it is neither a number, text, tensor, array nor None; the message names its place.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _flat(value, name, tensors)


def _flat(value: object, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return {TENSOR: _kept(value.detach(), name, tensors)}
    if isinstance(value, np.ndarray):
        try:
            array = torch.from_numpy(np.array(value, order="C"))
        except TypeError:
            raise InvalidInput(f"{name} is an array of {value.dtype}, which cannot be stored") from None
        return {ARRAY: _kept(array, name, tensors)}
    if isinstance(value, Mapping):
        return _flat_mapping(value, name, tensors)
    if isinstance(value, (list, tuple)):
        entries = [_flat(entry, f"{name}.{place}", tensors) for place, entry in enumerate(value)]
        return {TUPLE: entries} if isinstance(value, tuple) else entries
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InvalidInput(f"{name} is {type(value).__name__}: only numbers, texts and tensors can be stored")


def _flat_mapping(value: Mapping[Any, object], name: str, tensors: dict[str, torch.Tensor]) -> Any:
    for key in value:
        if not isinstance(key, (str, int)) or isinstance(key, bool):
            raise InvalidInput(f"{name} has the key {key!r}, neither a str nor an int")
    entries = {key: _flat(entry, f"{name}.{key}", tensors) for key, entry in value.items()}
    if all(isinstance(key, str) and not key.startswith("$") for key in entries):
        return entries
    return {PAIRS: [[key, entry] for key, entry in entries.items()]}


def _kept(tensor: torch.Tensor, name: str, tensors: dict[str, torch.Tensor]) -> str:
    """Store under a name that is free: the places of 1 and "1" have the same."""
    free, count = name, 1
    while free in tensors:
        count += 1
        free = f"{name}#{count}"
    tensors[free] = tensor
    return free


def restored(tensors: Mapping[str, torch.Tensor], state: Any) -> Any:
    """Put together what `flattened` took apart; arrays are copies, tensors those given.

    Raises:
        CheckpointError: a tensor is missing.
    """
    if isinstance(state, list):
        return [restored(tensors, entry) for entry in state]
    if not isinstance(state, dict):
        return state
    kind = next(iter(state), "")
    if not kind.startswith("$"):
        return {key: restored(tensors, entry) for key, entry in state.items()}
    content = state[kind]
    if kind in (TENSOR, ARRAY):
        if content not in tensors:
            raise CheckpointError(f"the state has no tensor {content}")
        tensor = tensors[content]
        return tensor if kind == TENSOR else tensor.numpy().copy()
    if kind == TUPLE:
        return tuple(restored(tensors, entry) for entry in content)
    return {key: restored(tensors, entry) for key, entry in content}


# ---- Named tensors to one safetensors file and back, bit by bit.
#
# safetensors takes no tensors that share memory or lie scattered in it: tied ones are stored once and come back tied,
# views and transposed ones are stored as copies.
ALIASES = "aliases"
NUMBERS = "uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64"
DTYPES = frozenset(getattr(torch, name) for name in f"bool {NUMBERS} complex64 float8_e4m3fn float8_e5m2".split())


def check_tensors(tensors: object, name: str) -> None:
    """Check that every tensor of the mapping `tensors` can be stored.

    Raises:
        InvalidInput: one is no dense tensor with values and a dtype of `DTYPES`, or its name is no text; the message
            begins with `name`.
    """
    if not isinstance(tensors, Mapping):
        raise InvalidInput(f"{name} is {type(tensors).__name__}, not a mapping of names to tensors")
    for key, tensor in tensors.items():
        if not isinstance(key, str) or not key.isprintable():
            raise InvalidInput(f"{name} has the key {key!r}, not a printable str")
        if not isinstance(tensor, torch.Tensor):
            raise InvalidInput(f"{name}[{key!r}] is {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in DTYPES:
            layout = str(tensor.layout).removeprefix("torch.")
            where = f"{layout}, {str(tensor.dtype).removeprefix('torch.')}, on {tensor.device.type}"
            raise InvalidInput(f"{name}[{key!r}] ({where}) cannot be stored")


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write checked tensors, from any device.

    Raises:
        OSError, SafetensorError: the file cannot be written.
    """
    from safetensors.torch import save_file

    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    memories: set[tuple[object, ...]] = set()
    for name, tensor in tensors.items():
        memory = (tensor.device, tensor.untyped_storage().data_ptr())
        place = (*memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor.is_conj())
        if tensor.numel() and seen.setdefault(place, name) != name:
            aliases[name] = seen[place]
            continue
        stored[name] = _alone(tensor.detach(), memory in memories)
        memories.add(memory)
    save_file(stored, path, metadata={ALIASES: json.dumps(aliases, sort_keys=True)})


def _alone(tensor: torch.Tensor, shared: bool) -> torch.Tensor:
    """Give the same values in memory that is theirs alone, in order."""
    plain = tensor.resolve_conj().resolve_neg()
    whole = plain.numel() * plain.element_size() == plain.untyped_storage().nbytes()
    if whole and plain.is_contiguous() and not (shared and plain.numel()):
        return plain
    return plain.clone(memory_format=torch.contiguous_format)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read what `write_tensors` wrote, to the CPU, into memory of its own; tied names give one tensor.

    Raises:
        OSError, SafetensorError, ValueError, KeyError: the file cannot be read.
    """
    from safetensors import safe_open

    # Not mapped: the folder may be removed, on a server that forgets removed files, while the tensors are in use.
    with safe_open(path, framework="pt", backend="pread") as file:
        tensors: dict[str, torch.Tensor] = file.get_tensors()
        aliases = json.loads((file.metadata() or {}).get(ALIASES, "{}"))
    return tensors | {name: tensors[first] for name, first in aliases.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], Any]:
    """Read an optimizer's state and the settings of its groups.

    Returns:
        Tensors by name (the optimizer's own, not copies) and JSON; for `restore_optimizer`.

    Raises:
        InvalidInput: something in its state cannot be stored; the message names it.
    """
    made = {"class": type(optimizer).__name__, "weights": _weights(optimizer), "state": optimizer.state_dict()}
    return flattened(made, "optimizer")


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], state: Any) -> None:
    """Put a state back into an optimizer of the same class over the same parameters; `tensors` are copied.

    Raises:
        CheckpointError: its class is another, or its parameters have other shapes or names; it is not changed.
    """
    made = _of_class(restored(tensors, state), optimizer, "optimizer")
    there, here = made["weights"], _weights(optimizer)
    if len(there) != len(here):
        raise CheckpointError(f"the optimizer had {len(there)} groups of parameters, and has {len(here)}")
    for place, (stored, own) in enumerate(zip(there, here, strict=True)):
        if len(stored) != len(own):
            raise CheckpointError(f"the optimizer's group {place} had {len(stored)} parameters, and has {len(own)}")
        for before, now in zip(stored, own, strict=True):
            if before != now:
                raise CheckpointError(f"the optimizer's group {place} had {_named(before)} where it has {_named(now)}")
    optimizer.load_state_dict(made["state"])
    _undo_casts(optimizer, made["state"])


def _weights(optimizer: torch.optim.Optimizer) -> list[list[list[Any]]]:
    """Name, if known, and shape of each parameter of each group: the state goes by position alone."""
    made = []
    for group in optimizer.param_groups:
        names = group.get("param_names") or [""] * len(group["params"])
        made.append([[name, list(weight.shape)] for name, weight in zip(names, group["params"], strict=True)])
    return made


def _named(weight: Sequence[Any]) -> str:
    return f"{weight[0] or 'a parameter'} {weight[1]}"


def _undo_casts(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give every tensor its own dtype again: torch casts what it loads to that of the weight."""
    for group, mine in zip(state["param_groups"], optimizer.param_groups, strict=True):
        for number, weight in zip(group["params"], mine["params"], strict=True):
            for key, stored in state["state"].get(number, {}).items():
                loaded = optimizer.state[weight][key]
                if isinstance(stored, torch.Tensor):
                    optimizer.state[weight][key] = stored.detach().to(loaded.device, copy=True)


def _of_class(made: Any, part: object, name: str) -> dict[str, Any]:
    if not isinstance(made, dict) or "class" not in made or "state" not in made:
        raise CheckpointError(f"this is no state of {name}s")
    if made["class"] != type(part).__name__:
        raise CheckpointError(f"the {name} was {made['class']}, and is {type(part).__name__}")
    return made


def schedule_state(schedule: Any) -> Any:
    """Read a learning-rate schedule's state as JSON; for `restore_schedule`.

    Raises:
        InvalidInput: it has no `state_dict`, or something in it that JSON does not have, such as tensors.
    """
    return _plain(schedule, "schedule")


def restore_schedule(schedule: Any, state: Any) -> None:
    """Put a schedule's state back; the learning rates themselves are the optimizer's.

    Raises:
        CheckpointError: it is another schedule's.
    """
    schedule.load_state_dict(_of_class(restored({}, state), schedule, "schedule")["state"])


def scaler_state(scaler: torch.amp.GradScaler) -> Any:
    """Read a loss scale's state as JSON, empty if it is not enabled; for `restore_scaler`."""
    return _plain(scaler, "scaler")


def restore_scaler(scaler: torch.amp.GradScaler, state: Any) -> None:
    """Put a loss scale's state back.

    Raises:
        CheckpointError: one of both runs scales and the other does not.
    """
    made = _of_class(restored({}, state), scaler, "scaler")["state"]
    if bool(made) != scaler.is_enabled():
        raise CheckpointError("the loss was scaled before, or is now, but not both: the precision differs")
    if made:
        scaler.load_state_dict(made)


def _plain(part: Any, name: str) -> Any:
    if not callable(getattr(part, "state_dict", None)):
        raise InvalidInput(f"{name} ({type(part).__name__}) has no state_dict(): a run with it cannot be resumed")
    tensors, state = flattened({"class": type(part).__name__, "state": part.state_dict()}, name)
    if tensors:
        raise InvalidInput(f"{next(iter(tensors))} is a tensor, which a {name} cannot keep")
    return state


Generator = random.Random | np.random.Generator | torch.Generator


def random_state(generators: Mapping[str, Generator] | None = None) -> tuple[dict[str, torch.Tensor], Any]:
    """Read the state of python's `random`, numpy's and torch's global generators (CPU and every CUDA device).

    Args:
        generators: the run's own, by name.

    Returns:
        Tensors by name, on the CPU, and JSON; for `restore_random_state`.

    Raises:
        InvalidInput: one of `generators` is none of those three kinds.
    """
    own = {name: _read(generator, name) for name, generator in (generators or {}).items()}
    return flattened({"global": _read_global(), "own": own}, "random")


def restore_random_state(
    tensors: Mapping[str, torch.Tensor], state: Any, generators: Mapping[str, Generator] | None = None
) -> None:
    """Put all generators back to where they were; all or none of them are changed.

    With another number of CUDA devices, those that both have are put back, and a warning says so.

    Raises:
        CheckpointError: `generators` have other names or kinds than those that were read, or the state is none.
    """
    given = dict(generators or {})
    made = restored(tensors, state)
    if not isinstance(made, dict) or made.keys() != {"global", "own"}:
        raise CheckpointError("this is no state of random numbers")
    if made["own"].keys() != given.keys():
        there, here = (", ".join(sorted(names)) or "none" for names in (made["own"], given))
        raise CheckpointError(f"the run's own random generators were {there}, and are {here}")
    before_global, before = _read_global(), {name: _read(generator, name) for name, generator in given.items()}
    for name, stored in made["own"].items():
        if _kind(stored) != _kind(before[name]):
            raise CheckpointError(f"the random generator {name} was {_kind(stored)}, and is {_kind(before[name])}")
    try:
        _write_all(made["global"], made["own"], given)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        _write_all(before_global, before, given)
        raise CheckpointError(f"the state of random numbers cannot be put back: {error}") from error


def _read_global() -> dict[str, Any]:
    # numpy's and python's are not ours, but a loss, a callback or a data set of the caller's may draw from them
    return {
        "python": _packed(random.getstate()),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _write_all(shared: Mapping[str, Any], own: Mapping[str, Any], generators: Mapping[str, Generator]) -> None:
    random.setstate(_unpacked(shared["python"]))
    np.random.set_state(shared["numpy"])  # noqa: NPY002
    torch.set_rng_state(shared["torch"])
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if present != len(shared["cuda"]):
        message = "the run had %d CUDA devices and has %d: it goes on, but does not end as it would have"
        logger.warning(message, len(shared["cuda"]), present)
    for device, state in list(enumerate(shared["cuda"]))[:present]:
        torch.cuda.set_rng_state(state, device)
    for name, generator in generators.items():
        _write(generator, own[name])


def _read(generator: object, name: str) -> dict[str, Any]:
    if isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        return {"python": _packed(generator.getstate())}
    if isinstance(generator, np.random.Generator):
        return {"numpy": dict(generator.bit_generator.state)}
    if isinstance(generator, torch.Generator):
        return {"torch": generator.get_state(), "device": generator.device.type}
    raise InvalidInput(f"generators[{name!r}] is {type(generator).__name__}, no random generator with a state")


def _write(generator: Generator, stored: Mapping[str, Any]) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(_unpacked(stored["python"]))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = stored["numpy"]
    else:
        generator.set_state(stored["torch"])


def _packed(state: tuple[Any, ...]) -> dict[str, Any]:
    """The 625 numbers of python's state as an array."""
    version, words, gauss = state
    return {"version": version, "words": np.array(words, np.int64), "gauss": gauss}


def _unpacked(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return state["version"], tuple(state["words"].tolist()), state["gauss"]


def _kind(stored: Mapping[str, Any]) -> str:
    if "numpy" in stored:
        return f"numpy's {stored['numpy']['bit_generator']}"
    return f"torch's on {stored['device']}" if "torch" in stored else "python's"
