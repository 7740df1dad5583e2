"""What a run leaves behind: the journal, and the file of refused documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondpass.corpora import CorpusDocument, read_corpus
from secondpass.errors import InvalidInput
from secondpass_servers.indexing.journal import (
    DeadLetter,
    IndexingJournal,
    RangeSet,
    RunFiles,
    check_free,
    write_dead_letters,
)

ABOUT = {"corpus": "c", "index": "i", "embedding": ""}
LETTER = DeadLetter(CorpusDocument("d1", "Title", "a\ud800 text\u2028"), "no good")


def test_what_was_noted_is_known_again(tmp_path: Path) -> None:
    """Places and dead letters, lone surrogates included."""
    with IndexingJournal(tmp_path / "j", ABOUT) as journal:
        assert not journal.continued
        journal.settle(5, 8)
        journal.settle(1, 2, [LETTER])
    with IndexingJournal(tmp_path / "j", ABOUT) as journal:
        assert journal.continued
        assert [place for place in range(10) if place in journal.done] == [1, 5, 6, 7]
        assert journal.dead == {"d1"}
        expected = {"_id": "d1", "title": "Title", "text": "a\ud800 text\u2028", "reason": "no good"}
        assert list(journal.dead_letters()) == [{**expected, "_refused": {}}]


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_line_cut_by_a_kill_is_dropped(tmp_path: Path, cut: int) -> None:
    """Also the first one: then the journal is a new one."""
    path = tmp_path / "j"
    with IndexingJournal(path, ABOUT) as journal:
        journal.settle(0, 3)
        journal.settle(3, 6, [LETTER])
    path.write_bytes(path.read_bytes()[:-cut])
    with IndexingJournal(path, ABOUT) as journal:
        assert len(journal.done) == 3
        assert journal.dead == set()
        journal.settle(3, 6)
    with IndexingJournal(path, ABOUT) as journal:
        assert len(journal.done) == 6


def test_a_first_line_cut_by_a_kill_begins_anew(tmp_path: Path) -> None:
    """Nothing had been written then."""
    (tmp_path / "j").write_bytes(b'{"version": "1", "corp')
    with IndexingJournal(tmp_path / "j", ABOUT) as journal:
        assert not journal.continued


@pytest.mark.parametrize(
    "line", [b"[]", b"{}", b'{"from": 0}', b'{"from": 0, "to": true}', b'{"from": 0, "to": 1, "dead": [1]}', b"\xff"]
)
def test_other_lines_are_refused_with_their_number(tmp_path: Path, line: bytes) -> None:
    """Nothing is guessed."""
    with IndexingJournal(tmp_path / "j", ABOUT) as journal:
        journal.settle(0, 1)
    with (tmp_path / "j").open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(InvalidInput, match=r"j:3: not a line of a journal; delete the file"):
        IndexingJournal(tmp_path / "j", ABOUT)


@pytest.mark.parametrize("header", [b"{}\n", b"text\n", b"[1]\n", json.dumps({"corpus": "c"}).encode() + b"\n"])
def test_other_files_are_left_alone(tmp_path: Path, header: bytes) -> None:
    """A file that something else wrote is not written to."""
    (tmp_path / "j").write_bytes(header)
    with pytest.raises(InvalidInput, match="is no journal of an indexing run"):
        IndexingJournal(tmp_path / "j", ABOUT)
    assert (tmp_path / "j").read_bytes() == header


def test_several_changes_are_all_named(tmp_path: Path) -> None:
    """So that they need not be found one after the other."""
    IndexingJournal(tmp_path / "j", ABOUT).__exit__(None, None, None)
    with pytest.raises(InvalidInput, match=r"with another corpus.* and with another embedding; delete it"):
        IndexingJournal(tmp_path / "j", {**ABOUT, "corpus": "d", "embedding": "e"})


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Before any work is done."""
    with pytest.raises(InvalidInput, match="cannot be written: No such file or directory"):
        IndexingJournal(tmp_path / "none" / "j", ABOUT)


REFUSED = {"_id": "d1", "title": "", "text": "a\ud800\u2028b", "reason": "no good"}


def test_letters_are_read_back_as_a_corpus(tmp_path: Path) -> None:
    """Whatever characters they hold."""
    assert write_dead_letters(tmp_path / "dead.jsonl", [REFUSED]) == 1
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
        write_dead_letters(tmp_path / "none" / "dead.jsonl", [REFUSED])


RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), max_size=30)


@given(RANGES)
def test_ranges_are_the_set_that_was_added(ranges: list[tuple[int, int]]) -> None:
    """Whatever overlaps, touches or is empty."""
    places, expected = RangeSet(), set()
    for start, length in ranges:
        places.add(start, start + length)
        expected |= set(range(start, start + length))
        assert len(places) == len(expected)
    assert {place for place in range(-2, 60) if place in places} == expected


def test_files_are_named_after_the_index() -> None:
    """What could leave the folder is replaced."""
    assert RunFiles.of_index("docs") == RunFiles(Path("docs.journal"), Path("docs.dead.jsonl"))
    assert RunFiles.of_index("a/../b", Path("x")).journal == Path("x/a_.._b.journal")
