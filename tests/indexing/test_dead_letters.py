"""The file of refused documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass_indexing.dead_letters import check_free, write_dead_letters

LETTER = {"_id": "d1", "title": "", "text": "a\ud800\u2028b", "reason": "no good"}


def test_letters_are_read_back_as_a_corpus(tmp_path: Path) -> None:
    """Whatever characters they hold."""
    assert write_dead_letters(tmp_path / "dead.jsonl", [LETTER]) == 1
    assert [document.text for document in read_corpus(tmp_path / "dead.jsonl")] == ["a\ud800\u2028b"]
    with pytest.raises(InvalidInput, match="holds dead letters of an earlier run"):
        check_free(tmp_path / "dead.jsonl")


def test_without_letters_there_is_no_file(tmp_path: Path) -> None:
    """Nor a half-written one."""
    assert write_dead_letters(tmp_path / "dead.jsonl", []) == 0
    assert list(tmp_path.iterdir()) == []
    check_free(tmp_path / "dead.jsonl")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(InvalidInput, match=r"dead\.jsonl: cannot be written: No such file"):
        write_dead_letters(tmp_path / "none" / "dead.jsonl", [LETTER])
