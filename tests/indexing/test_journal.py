"""Notes of what is settled: whole lines only, one writer, one purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secondpass.corpora import CorpusDocument
from secondpass.errors import InvalidInput
from secondpass_indexing.journal import DeadLetter, Journal

ABOUT = {"corpus": "c", "index": "i", "embedding": ""}
LETTER = DeadLetter(CorpusDocument("d1", "Title", "a\ud800 text\u2028"), "no good")


def test_what_was_noted_is_known_again(tmp_path: Path) -> None:
    """Places and dead letters, lone surrogates included."""
    with Journal(tmp_path / "j", ABOUT) as journal:
        assert not journal.continued
        journal.settle(5, 8)
        journal.settle(1, 2, [LETTER])
    with Journal(tmp_path / "j", ABOUT) as journal:
        assert journal.continued
        assert [place for place in range(10) if place in journal.done] == [1, 5, 6, 7]
        assert journal.dead == {"d1"}
        expected = {"_id": "d1", "title": "Title", "text": "a\ud800 text\u2028", "reason": "no good"}
        assert list(journal.dead_letters()) == [expected]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path, cut: int) -> None:
    """Also the first one: then the journal is a new one."""
    path = tmp_path / "j"
    with Journal(path, ABOUT) as journal:
        journal.settle(0, 3)
        journal.settle(3, 6, [LETTER])
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(path, ABOUT) as journal:
        assert len(journal.done) == 3
        assert journal.dead == set()
        journal.settle(3, 6)
    with Journal(path, ABOUT) as journal:
        assert len(journal.done) == 6


def test_a_first_line_cut_by_a_kill_begins_anew(tmp_path: Path) -> None:
    """Nothing had been written then."""
    (tmp_path / "j").write_bytes(b'{"version": "1", "corp')
    with Journal(tmp_path / "j", ABOUT) as journal:
        assert not journal.continued


@pytest.mark.parametrize(
    "line", [b"[]", b"{}", b'{"from": 0}', b'{"from": 0, "to": true}', b'{"from": 0, "to": 1, "dead": [1]}', b"\xff"]
)
def test_other_lines_are_refused_with_their_number(tmp_path: Path, line: bytes) -> None:
    """Nothing is guessed."""
    with Journal(tmp_path / "j", ABOUT) as journal:
        journal.settle(0, 1)
    with (tmp_path / "j").open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(InvalidInput, match=r"j:3: not a line of a journal; delete the file"):
        Journal(tmp_path / "j", ABOUT)


@pytest.mark.parametrize("header", [b"{}\n", b"text\n", b"[1]\n", json.dumps({"corpus": "c"}).encode() + b"\n"])
def test_other_files_are_left_alone(tmp_path: Path, header: bytes) -> None:
    """A file that something else wrote is not written to."""
    (tmp_path / "j").write_bytes(header)
    with pytest.raises(InvalidInput, match="is no journal of an indexing run"):
        Journal(tmp_path / "j", ABOUT)
    assert (tmp_path / "j").read_bytes() == header


def test_several_changes_are_all_named(tmp_path: Path) -> None:
    """So that they need not be found one after the other."""
    Journal(tmp_path / "j", ABOUT).__exit__(None, None, None)
    with pytest.raises(InvalidInput, match=r"with another corpus.* and with another embedding; delete it"):
        Journal(tmp_path / "j", {**ABOUT, "corpus": "d", "embedding": "e"})


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Before any work is done."""
    with pytest.raises(InvalidInput, match="cannot be written: No such file or directory"):
        Journal(tmp_path / "none" / "j", ABOUT)
