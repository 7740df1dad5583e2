"""The build hook: the compiled kernel is in the wheel where a compiler is there, and nothing fails where not."""

from __future__ import annotations

import os
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
        'extern "C" __attribute__((visibility("default"))) int answer() { return 1; }\n'
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
    """A source newer than the library; a current one is kept as it is."""
    built(project)
    library = project / hatch_build.LIBRARY
    os.utime(library, (2e9, 2e9))
    built(project)
    assert library.stat().st_mtime == 2e9
    os.utime(library, (1e9, 1e9))
    built(project)
    assert library.stat().st_mtime > 1e9


@pytest.mark.parametrize(
    "setting", [{"SECONDPASS_NO_KERNEL": "1"}, {"PATH": "", "CXX": ""}], ids=["asked", "no compiler"]
)
def test_without_the_kernel_the_package_is_for_any_platform(
    setting: dict[str, str], project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so, and an older library does not stay behind."""
    built(project)
    capsys.readouterr()
    os.utime(project / hatch_build.LIBRARY, (1e9, 1e9))
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
    quick.write_text(f'#!/bin/sh\nexec {hatch_build.compiler()} "$@" -O0\n')
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
