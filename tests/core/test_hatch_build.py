"""The build hook: the compiled kernel is in the wheel where a compiler is there, and nothing fails where not."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from secondpass.forwards.kernel import native

pytest.importorskip("hatchling")
import hatch_build

REPOSITORY = Path(__file__).parents[2]
BUILT_FROM = ("src", "integrations", "pipelines", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")

try:
    MACHINE = hatch_build.machine(hatch_build.compiler())
except hatch_build.CompileError as reason:
    pytest.skip(str(reason), allow_module_level=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose kernel is one function in one file, and another file for one instruction set."""
    source = tmp_path / hatch_build.KERNEL / "source"
    source.mkdir(parents=True)
    (source / "library.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) const char* answer() { return SECONDPASS_SOURCES; }\n'
    )
    (source / "exports.map").write_text("{ global: answer; local: *; };\n")
    (source / "wide.cpp").write_text("#ifndef WIDE\n#error not compiled for its instructions\n#endif\n")
    (source / "foreign.cpp").write_text("#error of another processor\n")
    (source / "instructions.toml").write_text(f'[{MACHINE}]\nwide = ["-DWIDE"]\n[other]\nforeign = []\n')
    shutil.copy(REPOSITORY / "hatch_build.py", tmp_path)
    return tmp_path


def built(root: Path, version: str = "standard", target: str = "wheel") -> dict[str, Any]:
    """Build data after the hook ran."""
    data: dict[str, Any] = {"force_include": {}}
    hook = hatch_build.KernelHook(str(root), {}, None, None, "", target)  # type: ignore[arg-type]
    hook.initialize(version, data)
    return data


def test_a_wheel_gets_the_library_and_the_platform_tag(project: Path) -> None:
    """Each file is compiled for its own instructions, none of another processor; only the library is left behind."""
    data = built(project)
    library = project / hatch_build.LIBRARY
    assert data["force_include"] == {str(library): "secondpass/forwards/kernel/secondpass_kernel.so"}
    assert data["tag"] == f"py3-none-linux_{MACHINE}"
    assert data["pure_python"] is False
    assert sorted(part.name for part in library.parent.iterdir()) == ["secondpass_kernel.so", "source"]


def test_an_editable_install_uses_the_library_in_place(project: Path) -> None:
    """Nothing is added to the wheel, which only points to the checkout."""
    assert built(project, "editable")["force_include"] == {}
    assert (project / hatch_build.LIBRARY).is_file()


def test_a_source_distribution_compiles_nothing(project: Path) -> None:
    """Whoever installs it compiles."""
    assert built(project, target="sdist") == {"force_include": {}}
    assert not (project / hatch_build.LIBRARY).exists()


def test_a_stale_library_is_compiled_again(project: Path) -> None:
    """One that is made of other sources, whatever times the files have; a current one is kept as it is."""
    built(project)
    library, source = project / hatch_build.LIBRARY, project / hatch_build.KERNEL / "source"
    for changed in (source / "wide.cpp", source / "instructions.toml", project / "hatch_build.py"):
        os.utime(library, (1e9, 1e9))  # older than all of them
        (source / "wide.cpp~").write_text("an editor's")
        built(project)
        assert library.stat().st_mtime == 1e9
        before = changed.read_text()
        for content in (f"{before}\n", before):
            os.utime(library, (1e9, 1e9))
            changed.write_text(content)
            built(project)
            assert library.stat().st_mtime > 1e9


def test_a_current_library_outlives_the_compiler(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own header says what it is for: a wheel has it as before."""
    wanted = built(project)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    assert built(project) == wanted
    assert (project / hatch_build.LIBRARY).is_file()


def test_another_processors_library_is_another_file(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler for it leaves the checkout's own alone; where such a one lies in its place, it is compiled again."""
    built(project)
    library = project / hatch_build.LIBRARY
    own = library.read_bytes()
    [other] = {*hatch_build.MACHINES} - {MACHINE}
    library.write_bytes(own[:18] + hatch_build.MACHINES[other].to_bytes(2, "little") + own[20:])
    built(project)
    assert library.read_bytes()[18:20] == own[18:20]
    compiler = tmp_path / "c++"
    command = shlex.join(hatch_build.compiler())
    compiler.write_text(f'#!/bin/sh\n[ "$1" = -dumpmachine ] && exec echo {other}-linux-gnu\nexec {command} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    data = built(project)
    assert data["tag"] == f"py3-none-linux_{other}"
    [(there, name)] = data["force_include"].items()
    assert Path(there).is_file()
    assert (Path(there) != library, name) == (True, "secondpass/forwards/kernel/secondpass_kernel.so")
    assert library.read_bytes()[18:20] == own[18:20]
    shutil.rmtree(project / "build")
    compiler.write_text(f'#!/bin/sh\n[ "$1" = -dumpmachine ] && exec echo {other}-linux-gnu\nexit 1\n')
    assert built(project) == {"force_include": {}}
    assert library.is_file()


def test_the_named_compiler_is_used_with_its_arguments(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of `ccache g++`; no other compiler takes the place of one that is not here."""
    library = project / hatch_build.KERNEL / "source" / "library.cpp"
    library.write_text(f"#ifndef ASKED\n#error not asked\n#endif\n{library.read_text()}")
    monkeypatch.setenv("CXX", f"env {shlex.join(hatch_build.compiler())} -DASKED")
    assert built(project)["pure_python"] is False
    for asked, said in (("nosuch-g++ -O3", "no such program"), ("g++ '", "No closing quotation")):
        monkeypatch.setenv("CXX", asked)
        assert built(project) == {"force_include": {}}
        assert f"(CXX={asked}: {said})" in capsys.readouterr().err


@pytest.mark.parametrize(
    "setting", [{"SECONDPASS_NO_KERNEL": "1"}, {"PATH": "", "CXX": ""}], ids=["asked", "no compiler"]
)
def test_without_the_kernel_the_package_is_for_any_platform(
    setting: dict[str, str], project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so, and an older library does not stay behind."""
    built(project)
    capsys.readouterr()
    (project / hatch_build.KERNEL / "source" / "wide.cpp").write_text("// newer\n")
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    assert built(project) == {"force_include": {}}
    assert not (project / hatch_build.LIBRARY).exists()
    said = capsys.readouterr().err
    assert said.startswith("secondpass: the CPU kernel is left out (")
    assert said.count("\n") == 1


@pytest.mark.parametrize("target", ["riscv64-linux-gnu", "arm64-apple-darwin24", "x86_64-w64-mingw32"])
def test_a_compiler_for_another_platform_makes_no_kernel(
    target: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it compiles for decides, not the machine that it runs on."""
    other = tmp_path / "c++"
    other.write_text(f"#!/bin/sh\necho {target}\n")
    other.chmod(0o755)
    monkeypatch.setenv("CXX", str(other))
    assert built(project) == {"force_include": {}}
    assert f"(no kernel for {target})" in capsys.readouterr().err


def test_a_compiler_that_fails_is_said_in_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first error of the compiler; no half library."""
    (project / hatch_build.KERNEL / "source" / "wide.cpp").write_text("#error too old\n#error and more\n")
    assert built(project) == {"force_include": {}}
    said = capsys.readouterr().err
    assert "too old" in said
    assert said.count("\n") == 1
    assert not list((project / hatch_build.KERNEL).glob("secondpass_kernel*"))


def test_pip_builds_a_wheel_whose_library_works(tmp_path: Path) -> None:
    """The whole project through pip; the library loads from elsewhere with every routine of this processor."""
    root = tmp_path / "checkout"
    root.mkdir()
    left_out = shutil.ignore_patterns("__pycache__", "*.so", "*.safetensors")
    for name in BUILT_FROM:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, root / name, ignore=left_out)
        elif (REPOSITORY / name).exists():
            shutil.copy(REPOSITORY / name, root)
    # Not optimised, which takes most of the time; the optimised library is the one that all other tests use.
    quick = tmp_path / "c++"
    quick.write_text(f'#!/bin/sh\nexec {shlex.join(hatch_build.compiler())} "$@" -O0\n')
    quick.chmod(0o755)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path / "wheels"), str(root)],
        env=os.environ | {"CXX": str(quick)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [wheel] = (tmp_path / "wheels").iterdir()
    assert wheel.name.endswith(f"-py3-none-linux_{MACHINE}.whl")
    with zipfile.ZipFile(wheel) as file:
        library = Path(file.extract("secondpass/forwards/kernel/secondpass_kernel.so", tmp_path / "elsewhere"))
        assert any(name.startswith("secondpass/forwards/kernel/source/") for name in file.namelist())
    found = native.routines(library)
    assert not isinstance(found, str), found
    assert {routine.precision for routine in found} >= {"fp32"}
