"""Where all random numbers of a run stand, and back there exactly."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.training.survival.nested_state import flattened, restored

logger = logging.getLogger(__name__)

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
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": _packed(random.getstate()),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def _write_all(shared: Mapping[str, Any], own: Mapping[str, Any], generators: Mapping[str, Generator]) -> None:
    random.setstate(_unpacked(shared["python"]))
    np.random.set_state(shared["numpy"])  # noqa: NPY002
    torch.set_rng_state(shared["torch"])
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if present != len(shared["cuda"]):
        logger.warning(
            "the run had %d CUDA devices and has %d: it goes on, but does not end as it would have",
            len(shared["cuda"]),
            present,
        )
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
