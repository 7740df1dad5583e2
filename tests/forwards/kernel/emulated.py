"""The kernel for another processor, computed by an emulator, beside this one's on random models.

`python -m tests.forwards.kernel.emulated --library THERE --here HERE --driver DRIVER` reads two libraries of the
kernel. `DRIVER` is emulated.cpp, compiled for the other processor; `tests.wheels` makes all three. Every routine that
one of the emulated processors has computes random shapes, on several threads and in parts; float32 has to be that of
this processor's routines, bfloat16 and int8 near it.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secondpass.forwards.contract import Logits
from secondpass.forwards.description import Encoder
from secondpass.forwards.kernel import KernelEncoder, native
from secondpass.forwards.kernel.native import PRECISIONS, CallStruct, Routine
from secondpass.forwards.kernel.weights import ALIGNED, PackedWeights, packed, up_to
from secondpass.tokens import Tokens
from tests.forwards.kernel.encoders import FAMILIES, arrays
from tests.forwards.kernel.sanitized import Limits, drawn

PLACE = 0x1000000000  # where emulated.cpp maps an image
# Processors as qemu names them, and the routines that each of them has.
PROCESSORS = {
    "cortex-a57": {"neon fp32"},
    "neoverse-n1": {"neon fp32", "neon_dotprod int8"},
    "max": {"neon fp32", "neon_dotprod int8", "neon_bf16 bf16", "neon_i8mm int8"},
}
# Of an error, as a part of the largest logit or of 1: of float32 at most, of short precisions in the mean over models.
NEAR = {"fp32": 1e-5, "bf16": 0.02, "int8": 0.04}
SECONDS = 600
# An emulator takes a microsecond for what a processor does in a nanosecond. Of every so many models one is computed in
# short precisions and in parts, too, and another one with weights that saturate the softmax: behind it float32 is that
# of no other routine to 1e-5: those of this processor differ by 1.4e-5 then.
LIMITS = Limits(heads=4, inner=400, inputs=4, tokens=60, calm=True)
EVERY = 5
SATURATED, NEAR_SATURATED = replace(LIMITS, calm=False), 1e-4


def emulator() -> list[str] | str:
    """The command that runs programs of aarch64, or a sentence that says why there is none."""
    program = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    root = Path("/usr/aarch64-linux-gnu")
    if program is None:
        return "no qemu-aarch64 (Debian: qemu-user)"
    if not (root / "lib").is_dir():
        return "no C library of aarch64 (Debian: libc6-arm64-cross)"
    return [program, "-L", str(root)]


class Image:
    """Memory that is handed to a process which has it at `PLACE`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, content: Any) -> int:
        """The address of a copy."""
        part = bytes(content)
        address = PLACE + self._size
        self._parts += [part, bytes(-len(part) % ALIGNED)]
        self._size += up_to(len(part), ALIGNED)
        return address

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)


class Head(ctypes.Structure):
    """`Image` of emulated.cpp."""

    _fields_ = (("routine", ctypes.c_int64), ("model", ctypes.c_uint64), ("call", ctypes.c_uint64))


@dataclass
class Emulated:
    """In a routine's place of the library: what is to be run is written to a file, which a process computes.

    Attributes:
        command: the emulator, the driver and the library.
        weights: those of the model that is computed; each one has its own library.
    """

    command: list[str]
    weights: PackedWeights | None = None

    def secondpass_memory(self, *_: object) -> int:
        """Nothing: the process has its own."""
        return 0

    def secondpass_run(self, index: int, _: object, given: Any) -> None:
        """Compute a call; its logits are written where it wants them."""
        assert self.weights is not None
        call: CallStruct = given._obj
        image, head, own = Image(), Head(index, 0, 0), CallStruct.from_buffer_copy(call)
        image.add(head)
        head.model = image.add(self._model(image))
        logits = self._filled(image, own, call)
        head.call = image.add(own)
        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(head) + bytes(image)[ctypes.sizeof(head) :])
            file.flush()
            done = subprocess.run(
                [*self.command, file.name], capture_output=True, text=True, timeout=SECONDS, check=False
            )
            if done.returncode:
                raise SystemExit(f"{self.command[-1]} ended with {done.returncode}: {done.stderr}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as result:
                size = own.pairs * self.weights.model.labels * 4
                start = logits - PLACE
                ctypes.memmove(call.logits, result[start : start + size], size)

    def _model(self, image: Image) -> native.ModelStruct:
        """The weights' structure with addresses of an image, to which it adds all that these point to."""
        assert self.weights is not None
        places = [(array.ctypes.data, array.nbytes, image.add(array.tobytes())) for array in self.weights.arrays]

        def place(address: int) -> int:
            return next(there + address - here for here, size, there in places if here <= address < here + size)

        listed = native.listed(self.weights.model, place)
        model: native.ModelStruct = native.restored(native.ModelStruct, listed, lambda address: address)
        for name, count in native.COUNTS.items():
            kind = dict(native.ModelStruct._fields_)[name]
            whole = ctypes.sizeof(kind._type_) * getattr(model, count)
            address = image.add(ctypes.string_at(getattr(model, name), whole))
            setattr(model, name, ctypes.cast(ctypes.c_void_p(address), kind))
        return model

    def _filled(self, image: Image, own: CallStruct, call: CallStruct) -> int:
        """Give a call's copy addresses of an image, to which what it reads is added; -> where its logits will be."""
        assert self.weights is not None
        model = self.weights.model
        starts = np.ctypeslib.as_array(ctypes.cast(call.starts, ctypes.POINTER(ctypes.c_int32)), (call.pairs + 1,))
        longest = int(np.diff(starts).max())
        sizes = {"ids": starts[-1], "types": starts[-1], "starts": call.pairs + 1, "chunks": call.chunk_count + 1}
        for name, size in sizes.items():
            setattr(own, name, image.add(ctypes.string_at(getattr(call, name), int(size) * 4)))
        kinds = len(self.weights.frequencies)
        tables = (ctypes.c_uint64 * kinds).from_address(call.rotations) if kinds else ()
        own_tables = [image.add(ctypes.string_at(table, longest * model.head_size * 4)) for table in tables]
        own.rotations = image.add((ctypes.c_uint64 * kinds)(*own_tables))
        rows, width = call.pairs + 32, model.heads * model.head_size
        own.rows = image.add(bytes(rows * model.hidden * 4))
        own.context = image.add(bytes(rows * width * self.weights.routine.side_bytes))
        own.logits = logits = image.add(bytes(call.pairs * model.labels * 4))
        return logits


def called(routine: Routine) -> str:
    """Instructions and precision."""
    return f"{routine.instructions} {routine.precision}"


def there(command: list[str], library: Path) -> list[Routine]:
    """Routines of a library that run on the processor that a command emulates."""
    said = subprocess.run([*command, str(library)], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    found = []
    for index, line in enumerate(said.splitlines()):
        name, *facts = line.split()
        precision, panel, side_bytes, digits, words, most_byte, runs_here = map(int, facts)
        if runs_here:
            sizes, kinds = (panel, side_bytes), (bool(digits), bool(words), most_byte)
            found.append(Routine(None, index, name, PRECISIONS[precision], *sizes, *kinds))
    return found


def forward(encoder: Encoder, routine: Routine, command: list[str]) -> KernelEncoder:
    """A routine's forward, computed by the command."""
    library = Emulated(command)
    library.weights = packed(arrays(encoder), replace(routine, library=library))
    return KernelEncoder(library.weights)


def error(found: Logits, wanted: Logits) -> float:
    """The largest difference as a part of the largest logit, or of 1."""
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


def shapes(models: int, seed: int, limits: Limits) -> Iterator[tuple[str, Encoder, list[Tokens]]]:
    """Random models of random widths, and inputs for them."""
    random = np.random.default_rng(seed)
    for number in range(models):
        family = str(random.choice(FAMILIES))
        encoder, inputs, _ = drawn(random, family, number, limits)
        yield f"model {number}, {family}", encoder, inputs


def same_alone(compute: Callable[[list[Tokens]], Logits], inputs: list[Tokens], whole: Logits) -> bool:
    """Whether the last input by itself, and all on several threads, have the same bits."""
    torch.set_num_threads(3)
    same = np.array_equal(compute(inputs), whole) and np.array_equal(compute(inputs[-1:]), whole[-1:])
    torch.set_num_threads(1)
    return same


def measured(
    exact: list[Routine],
    routines: list[Routine],
    command: list[str],
    models: Iterable[tuple[str, Encoder, list[Tokens]]],
) -> dict[tuple[str, str], list[float]]:
    """Of routines that the command computes by, errors from each of this processor's; of float32 by every model.

    Raises:
        SystemExit: bits depend on what is computed beside.
    """
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    torch.set_num_threads(1)
    for number, (title, encoder, inputs) in enumerate(models):
        references = {one.instructions: KernelEncoder(packed(arrays(encoder), one))(inputs) for one in exact}
        for routine in routines:
            if routine.precision != "fp32" and number % EVERY:
                continue
            compute = forward(encoder, routine, command)
            whole = compute(inputs)
            for other, reference in references.items():
                errors[called(routine), other].append(error(whole, reference))
            if number % EVERY == 0 and not same_alone(compute, inputs, whole):
                raise SystemExit(f"{called(routine)}: {title}: other bits alone or on other threads")
    return errors


def compare(here: Path, library: Path, driver: Path, models: int, seed: int) -> bool:
    """Every routine of both libraries; whether the errors are as small as they should be.

    Raises:
        SystemExit: something cannot be compared, or is other than it should be.
    """
    qemu, own = emulator(), native.routines(here)
    if isinstance(qemu, str) or isinstance(own, str):
        raise SystemExit(str(qemu if isinstance(qemu, str) else own))
    for processor, wanted in PROCESSORS.items():
        names = {*map(called, there([*qemu, "-cpu", processor, str(driver)], library))}
        if names != wanted:
            raise SystemExit(f"on {processor} the library has {sorted(names)}")
    command = [*qemu, "-cpu", "max", str(driver)]
    exact, routines = ([one for one in own if one.precision == "fp32"], there(command, library))
    command.append(str(library))
    good = True
    for (name, other), found in measured(exact, routines, command, shapes(models, seed, LIMITS)).items():
        mean, most, precision = float(np.mean(found)), max(found), name.split()[1]
        sys.stdout.write(f"{name} from {other} fp32: {len(found)} models, {mean:.2g} in the mean, {most:.2g} at most\n")
        good &= (most if precision == "fp32" else mean) <= NEAR[precision]
    saturated = shapes(-(-models // EVERY), seed, SATURATED)
    neon = [routine for routine in routines if routine.precision == "fp32"]
    for (name, other), found in measured(exact, neon, command, saturated).items():
        sys.stdout.write(f"{name} from {other} fp32: {len(found)} models that saturate, {max(found):.2g} at most\n")
        good &= max(found) <= NEAR_SATURATED
    return good


def main() -> int:
    """Compare two libraries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--driver", type=Path, required=True)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if not compare(asked.here, asked.library, asked.driver, asked.models, asked.seed):
        raise SystemExit("one of these is too much")
    return 0


if __name__ == "__main__":
    sys.exit(main())
