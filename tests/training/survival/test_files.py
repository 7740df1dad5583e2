"""Files and folders: what is written is read back, and a removal never shows half a folder."""

from __future__ import annotations

import hashlib

import pytest

from secondpass.training.survival.files import read_json, remove_folder, sha256_of, sync, write_json


def test_json_comes_back(tmp_path):
    """Numbers to the last bit, lone surrogates, NaN, huge ints."""
    content = {"a": [0.1 + 0.2, 5e-324, 2**200, True, None], "ü\ud800": "\n", "b": float("inf")}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert (tmp_path / "x.json").read_bytes().isascii()


@pytest.mark.parametrize("text", ["", "{", "[1,", '{"a": é}'])
def test_what_is_no_json(tmp_path, text):
    """A ValueError, for the caller to name."""
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "x.json")


def test_sha256(tmp_path):
    """That of the bytes."""
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_sync_takes_files_and_folders(tmp_path):
    """And says what is missing."""
    (tmp_path / "x").write_bytes(b"abc")
    sync(tmp_path / "x")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "y")


def test_remove_folder(tmp_path):
    """Also when an earlier removal was killed half-way."""
    for name in ("a", "removed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "b").touch()
    remove_folder(tmp_path / "a", tmp_path / "removed")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
