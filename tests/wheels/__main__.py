"""The distributions that an index gets, and proof that they are what they say: `make wheels`.

A source distribution, a wheel for any platform without the kernel, and a wheel for each processor that the kernel is
for, cross-compiled by clang against the C library of manylinux_2_28. Every wheel is built twice, from two unpacked
source distributions, and has to be the same bytes. Those with a kernel pass auditwheel, export the kernel's functions
alone and need nothing but the C library; all pass twine. The one for this processor is installed into an empty
environment without a compiler, and the one for ARM computes 200 random models under an emulator, where there is one.

It runs with the tools that `make wheels` installs; what needs torch is run by `--python`.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from elftools.elf.elffile import ELFFile

import hatch_build

ROOT = Path(__file__).parents[2]
POLICY = "manylinux_2_28"
LIBC = "2.28"
LIBRARY = hatch_build.LIBRARY.relative_to("src").as_posix()
EXPORTED = {f"secondpass_{name}" for name in ("described", "fits", "memory", "run", "sources")}
# Parts of the C library, and its loaders.
NEEDED = re.compile(r"lib(c|m|dl|rt|pthread)\.so\.\d|ld-linux-(x86-64|aarch64)\.so\.\d")
COMPILER = """#!/bin/sh
# clang for one processor; it says what for in the words that other compilers have
[ "$1" = -dumpmachine ] && exec echo {machine}-linux-gnu
case " $* " in *" -shared "*) set -- "$@" -s ;; esac
# what nothing reads: the second build is not handed what the first one left in the compiler's cache
exec "{python}" -m ziglang c++ -target {machine}-linux-gnu.{libc} -DSECONDPASS_BUILD={turn} "$@"
"""
# Not even a shell of the machine is found, let alone a compiler.
FRESH = """
import numpy
from secondpass import CrossEncoder
from secondpass.forwards.kernel import native

routine = native.find("fp32")
assert not isinstance(routine, str), routine
encoder = CrossEncoder("secondpass/pocket")
best = encoder.rank("how do I reset my password", ["Cats are small.", "Open the settings to set a new password."])[0]
assert best["corpus_id"] == 1, best
print("kernel:", ", ".join(f"{found.precision} by {found.instructions}" for found in native.routines()))
"""


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """What a command says; what went wrong otherwise.

    Raises:
        SystemExit: it failed.
    """
    own = {**os.environ, **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def say(line: str) -> None:
    """A line of the report."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def epoch() -> str:
    """The time that files in archives have: SOURCE_DATE_EPOCH, else the commit's."""
    return os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct").strip()


def compiler(machine: str, turn: int, folder: Path) -> Path:
    """A C++ compiler for a processor, as one program."""
    program = folder / f"c++-{machine}"
    program.write_text(COMPILER.format(machine=machine, python=sys.executable, libc=LIBC, turn=turn), encoding="utf-8")
    program.chmod(0o755)
    return program


def built(folder: Path, turn: int, time: str) -> dict[str, Path]:
    """A source distribution, and from what it holds a wheel by processor and one for "any"."""
    out = folder / "built"
    out.mkdir(parents=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", out, SOURCE_DATE_EPOCH=time)
    [source] = out.glob("*.tar.gz")
    made = {"source": source}
    for machine in ("any", *hatch_build.MACHINES):
        place = folder / machine
        with tarfile.open(source) as archive:
            archive.extractall(place, filter="data")
        [tree] = place.iterdir()
        setting = {"SECONDPASS_NO_KERNEL": "1"}
        if machine != "any":
            setting = {"SECONDPASS_NO_KERNEL": "0", "CXX": str(compiler(machine, turn, place))}
        command = (sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", place)
        said = run(*command, tree, SOURCE_DATE_EPOCH=time, **setting)
        [wheel] = place.glob("*.whl")
        if not wheel.name.endswith("-none-any.whl" if machine == "any" else f"-linux_{machine}.whl"):
            raise SystemExit(f"{wheel.name} for {machine}\n{said}")
        made[machine] = wheel if machine == "any" else repaired(wheel, machine, place / "repaired", time)
    return made


def repaired(wheel: Path, machine: str, folder: Path, time: str) -> Path:
    """The wheel as auditwheel names it, if it keeps what that name promises."""
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # it offers the policies of this processor alone, and knows those of others
    program = (
        "import platform, sys; from auditwheel.main import main; platform.machine = lambda: {!r}; sys.exit(main())"
    )
    command = (
        sys.executable,
        "-c",
        program.format(machine),
        "repair",
        "--plat",
        f"{POLICY}_{machine}",
        "-w",
        folder,
        wheel,
    )
    said = run(*command, SOURCE_DATE_EPOCH=time, PATH=tools)
    found = list(folder.glob(f"*{POLICY}_{machine}.whl"))
    if len(found) != 1:
        raise SystemExit(f"auditwheel made no wheel of {POLICY}\n{said}")
    return found[0]


def library_of(wheel: Path, folder: Path) -> Path:
    """The compiled library of a wheel, taken out."""
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(LIBRARY, folder))


def check_symbols(library: Path, machine: str) -> None:
    """The kernel's functions and no others, nothing but the C library, and that no newer than the policy's.

    Raises:
        SystemExit: it is not so.
    """
    with library.open("rb") as file:
        elf = ELFFile(file)
        dynamic = [tag for tag in elf.get_section_by_name(".dynamic").iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
        needed = {tag.needed for tag in dynamic}
        symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
        exported = {one.name for one in symbols if one.name and one.entry.st_shndx != "SHN_UNDEF"}
        versions = {
            version.name
            for _, parts in elf.get_section_by_name(".gnu.version_r").iter_versions()
            for version in parts
            if version.name.startswith("GLIBC_")
        }
        found = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}[elf.header.e_machine]
    newest = max(tuple(map(int, re.findall(r"\d+", version))) for version in versions)
    foreign = {name for name in needed if not NEEDED.fullmatch(name)}
    if found != machine or exported != EXPORTED or foreign or newest > tuple(map(int, LIBC.split("."))):
        raise SystemExit(f"{library}: for {found}, exports {exported}, needs {needed} and {versions}")
    number = ".".join(map(str, newest))
    say(f"{machine}: {library.stat().st_size / 1e3:.0f} kB, exports {len(exported)} functions, needs glibc {number}")


def check_installed(wheel: Path, folder: Path) -> None:
    """A new environment with the wheel and what it asks the index for computes by the kernel, without a compiler."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    nowhere = str(folder / "empty")
    alone = {"PATH": nowhere, "CXX": "", "PYTHONPATH": "", "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    run(python, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", wheel, cwd=folder, **alone)
    say(f"{wheel.name} in an empty environment: {run(python, '-c', FRESH, cwd=folder, **alone).strip()}")


def check_emulated(made: dict[str, Path], python: Path, folder: Path, models: int) -> None:
    """The library for ARM under an emulator beside the one for this processor; says why where it cannot be."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None or platform.machine() != "x86_64":
        say("aarch64: not computed, for there is no qemu-aarch64 here (Debian: qemu-user, libc6-arm64-cross)")
        return
    libraries = {machine: library_of(made[machine], folder / machine) for machine in hatch_build.MACHINES}
    driver = folder / "driver"
    source = ROOT / "tests" / "forwards" / "kernel" / "emulated.cpp"
    run(compiler("aarch64", 0, folder), "-std=c++17", "-O1", source, "-o", driver)
    command = [python, "-m", "tests.forwards.kernel.emulated", "--here", libraries["x86_64"]]
    command += ["--library", libraries["aarch64"], "--driver", driver, "--models", str(models)]
    say(run(*command).strip())


def main() -> int:
    """Build everything twice, check it, and leave it in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="of an environment that has the project and torch")
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--models", type=int, default=200, help="that are computed under the emulator")
    asked = parser.parse_args()
    if run("git", "status", "--porcelain").strip():
        say("what is not committed is in the archives, too")
    time = epoch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made, again = (built(folder / f"turn-{turn}", turn, time) for turn in (1, 2))
        for kind, file in made.items():
            if file.name != again[kind].name or not filecmp.cmp(file, again[kind], shallow=False):
                raise SystemExit(f"{file.name}: two builds gave other bytes")
        say(f"two builds of {len(made)} files gave the same bytes (SOURCE_DATE_EPOCH={time})")
        for machine in hatch_build.MACHINES:
            check_symbols(library_of(made[machine], folder / machine), machine)
        say(run(sys.executable, "-m", "twine", "check", "--strict", *made.values()).strip())
        if platform.machine() in made:
            check_installed(made[platform.machine()], folder / "environment")
        check_emulated(made, asked.python.absolute(), folder / "emulated", asked.models)
        asked.output.mkdir(exist_ok=True)
        for file in made.values():
            shutil.copy(file, asked.output)
            say(f"{asked.output / file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
