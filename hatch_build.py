"""Build hook: compiles the CPU kernel into the package where a C++ compiler is found, and goes on without where not.

The library needs no Python headers and holds code for several instruction sets, chosen when it is loaded; a wheel with
it is for any Python 3 on the platform that the compiler compiles for. CXX names a compiler, which may be one for
another processor, with arguments if need be; SECONDPASS_NO_KERNEL=1 skips the step.
"""

from __future__ import annotations

import os
import platform
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNEL = Path("src/secondpass/forwards/kernel")
LIBRARY = KERNEL / "secondpass_kernel.so"
# Contraction is off so that a sum is rounded in the same way wherever the compiler puts a copy of it.
COMMON = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread")
SECONDS = 600
# As compilers and platform tags call them, a table of the file of instructions each, with their numbers in ELF headers.
MACHINES = {"x86_64": 62, "aarch64": 183}


class CompileError(Exception):
    """The kernel was not compiled; the message is one line."""


class NoCompiler(CompileError):
    """None is here, and CXX names none."""


def compiler() -> list[str]:
    """The C++ compiler to use, with the arguments that CXX has.

    Raises:
        CompileError: CXX names a program that is not here; NoCompiler where it names none.
    """
    asked = os.environ.get("CXX", "").strip()
    try:
        words = shlex.split(asked)
    except ValueError as error:
        raise CompileError(f"CXX={asked}: {error}") from error
    for name in words[:1] or ("c++", "g++", "clang++"):
        found = shutil.which(name)
        if found:
            return [found, *words[1:]]
    raise CompileError(f"CXX={asked}: no such program") if words else NoCompiler("no C++ compiler")


def run(command: list[str]) -> str:
    """Run a compiler; -> what it says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(str(error)) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise CompileError(lines[0] if lines else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def machine(command: list[str]) -> str:
    """The processor that a compiler compiles for: x86_64 or aarch64, and Linux."""
    target = run([*command, "-dumpmachine"]).strip()
    name, _, rest = target.partition("-")
    if name not in MACHINES or "linux" not in rest:
        raise CompileError(f"no kernel for {target}")
    return name


def sources_digest(root: Path) -> str:
    """What a library is made of, in the words of the file that loads it; that one needs nothing but Python."""
    digest: str = runpy.run_path(str(Path(__file__).parent / KERNEL / "native.py"))["sources_digest"](root)
    return digest


def compile_kernel(root: Path, library: Path, flags: tuple[str, ...] = ()) -> None:
    """Compile every source for the compiler's processor, and put the library in place in one step.

    A source that has instructions on other processors only is left out. `flags` go to the compiler and the linker as
    well.
    """
    source = root / KERNEL / "source"
    tables = tomllib.loads((source / "instructions.toml").read_text(encoding="utf-8"))
    command = compiler()
    instructions = tables.get(machine(command), {})
    command += [*COMMON, f'-DSECONDPASS_SOURCES="{sources_digest(root)}"', *flags]
    others = {name for table in tables.values() for name in table} - set(instructions)
    files = [file for file in sorted(source.glob("*.cpp")) if file.stem not in others]
    with tempfile.TemporaryDirectory() as folder:
        objects = {file: str(Path(folder) / f"{file.stem}.o") for file in files}

        def compile_one(file: Path) -> None:
            run([*command, *instructions.get(file.stem, []), "-c", str(file), "-o", objects[file]])

        with ThreadPoolExecutor(os.cpu_count()) as compilers:
            list(compilers.map(compile_one, objects))
        ready = library.with_suffix(f".{os.getpid()}.tmp")
        try:
            exports = f"-Wl,--version-script={source / 'exports.map'}"
            run([*command, "-shared", exports, *objects.values(), "-o", str(ready)])
            os.replace(ready, library)
        finally:
            ready.unlink(missing_ok=True)


def is_current(root: Path, library: Path, processor: str) -> bool:
    """Whether the library is for that processor, and made of what is here now."""
    content = library.read_bytes() if library.is_file() else b""
    number = int.from_bytes(content[18:20], "little")  # e_machine
    return number == MACHINES.get(processor) and sources_digest(root).encode() in content


def prepared(root: Path) -> tuple[Path, str]:
    """The library for the compiler's processor, compiled unless it is current, and that processor.

    One for another processor than this lies in build/, for the checkout's own may be in use. Without a compiler a
    library that is current stays.
    """
    library, here = root / LIBRARY, platform.machine()
    try:
        processor = machine(compiler())
    except NoCompiler:
        if is_current(root, library, here):
            return library, here
        raise
    if processor != here:
        library = root / "build" / processor / library.name
        library.parent.mkdir(parents=True, exist_ok=True)
    if not is_current(root, library, processor):
        compile_kernel(root, library)
    return library, processor


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the library to wheels and leaves it in the checkout for editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, or say in one line that the package goes without."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        try:
            if os.environ.get("SECONDPASS_NO_KERNEL") == "1":
                raise CompileError("SECONDPASS_NO_KERNEL=1")
            library, processor = prepared(root)
        except CompileError as error:
            sys.stderr.write(f"secondpass: the CPU kernel is left out ({error}); torch or numpy computes instead\n")
            # a failed cross-compilation leaves the library that this machine computes with
            if os.environ.get("SECONDPASS_NO_KERNEL") == "1" or not is_current(
                root, root / LIBRARY, platform.machine()
            ):
                (root / LIBRARY).unlink(missing_ok=True)
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-linux_{processor}"
        if version != "editable":
            build_data["force_include"][str(library)] = LIBRARY.relative_to("src").as_posix()
