"""files: a report is written whole or not at all."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from secondpass.errors import InvalidInput
from secondpass.evaluation.reporting.files import opened


def test_a_stream_gets_the_text_and_stays_open() -> None:
    """Whoever opened it closes it."""
    stream = io.StringIO()
    with opened(stream) as target:
        target.write("text")
    assert stream.getvalue() == "text"


def test_a_file_appears_whole(tmp_path: Path) -> None:
    """Until the end the former file stands; afterwards only the new one does, with what the umask allows."""
    file = tmp_path / "report.json"
    file.write_text("former")
    with opened(file) as target:
        target.write("1\r\n\ud800é")
        assert file.read_text() == "former"
    assert file.read_bytes() == "1\r\n?é".encode()
    assert os.listdir(tmp_path) == ["report.json"]
    (tmp_path / "plain").touch()
    assert file.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_the_former_file(tmp_path: Path) -> None:
    """And no half of a new one beside it."""
    file = tmp_path / "report.json"
    file.write_text("former")

    def fail() -> None:
        with opened(file) as target:
            target.write("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["former"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """The file that it points to gets the text."""
    (tmp_path / "real").write_text("former")
    link = tmp_path / "link"
    link.symlink_to("real")
    with opened(link) as target:
        target.write("new")
    assert link.is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_device_is_written_to() -> None:
    """What is no file cannot be replaced, and must not be."""
    with opened(Path(os.devnull)) as target:
        target.write("text")
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("name", ["absent/report.html", "file/report.html", "folder"])
def test_what_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    """A folder that does not exist, or is a file, or a path that is a folder: refused with the path."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InvalidInput) as refused, opened(tmp_path / name):
        pass
    assert str(refused.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write_is_refused(tmp_path: Path) -> None:
    """With the path, as one that does not exist."""
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match="cannot be written"), opened(tmp_path / "report.html"):
        pass
