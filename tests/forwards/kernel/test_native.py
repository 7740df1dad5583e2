"""Finding the library: absent, broken or for other processors, it is a sentence, never an exception."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import hatch_build
from secondpass.forwards.kernel import native


def test_a_missing_library_is_said(tmp_path: Path) -> None:
    """As after an install without a compiler."""
    assert native.routines(tmp_path / "none.so") == "the kernel was not compiled"


@pytest.mark.parametrize("content", [b"", b"\x7fELF but no library"])
def test_a_broken_library_is_said(tmp_path: Path, content: bytes) -> None:
    """The reason names the file."""
    broken = tmp_path / "broken.so"
    broken.write_bytes(content)
    found = native.routines(broken)
    assert isinstance(found, str)
    assert "broken.so" in found


def test_a_library_of_another_version_is_said(tmp_path: Path) -> None:
    """Its structures have other sizes, or it is so old that it cannot say: it would read what it was not given."""
    if isinstance(native.routines(), str):
        pytest.skip("no compiler")
    source = """
        #include <stddef.h>
        const char* secondpass_routine(int index) { return 0; }
        size_t secondpass_memory(void) { return 0; }
        void secondpass_run(void) {}
        FITS
    """
    for name, fits, said in (
        ("sizes", "int secondpass_fits(size_t model) { return model == 8; }", "another version"),
        ("old", "", "secondpass_fits"),
    ):
        made = tmp_path / f"{name}.so"
        command = [hatch_build.compiler(), "-x", "c", "-shared", "-fPIC", "-o", str(made), "-"]
        subprocess.run(command, input=source.replace("FITS", fits), text=True, check=True)
        assert said in str(native.routines(made))


def test_instructions_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of this processor's, by name; others have no routine, and the sentence says so."""
    found = native.routines()
    if isinstance(found, str):
        pytest.skip(found)
    for routine in found:
        monkeypatch.setenv(native.CHOSEN, routine.instructions)
        assert native.find(routine.precision) == routine
    monkeypatch.setenv(native.CHOSEN, "neon")
    refused = native.find("fp32")
    assert isinstance(refused, str)
    assert "neon" in refused
