"""An append-only file that one process writes: what is in it is known again, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secondpass.errors import InvalidInput
from secondpass.journal import Journal

HEADER = {"version": "1", "about": "ä 語"}


def opened(path: Path, header: dict[str, str] = HEADER) -> Journal:
    """A journal of the tests' kind."""
    return Journal(path, header, "somebody writes it", lambda found: f"was begun with {found!r}")


def number(record: Any) -> int:
    """What the tests' records hold."""
    return int(record["n"])


def test_records_are_known_again_in_their_order(tmp_path: Path) -> None:
    """By the same process and by the next one; lone surrogates are kept, and a line is there when append returns."""
    path = tmp_path / "journal"
    with opened(path) as journal:
        assert not journal.continued
        journal.append({"n": 1, "text": "a\ud800b"})
        assert json.loads(path.read_bytes().splitlines()[-1]) == {"n": 1, "text": "a\ud800b"}
        journal.append({"n": 2})
        assert list(journal.records(number, "a number")) == [1, 2]
    with opened(path) as journal:
        assert journal.continued
        journal.append({"n": 3})
        assert list(journal.records(number, "a number")) == [1, 2, 3]
        journal.remove()
    assert not path.exists()


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_last_line_that_a_kill_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    """What was whole before it stays, and what comes after it is whole again."""
    path = tmp_path / "journal"
    with opened(path) as journal:
        journal.append({"n": 1})
        journal.append({"n": 22222})
    path.write_bytes(path.read_bytes()[:-cut])
    with opened(path) as journal:
        journal.append({"n": 3})
    with opened(path) as journal:
        assert list(journal.records(number, "a number")) == [1, 3]


def test_one_process_writes(tmp_path: Path) -> None:
    """Until it closes the file."""
    first = opened(tmp_path / "journal")
    with pytest.raises(InvalidInput, match="journal: somebody writes it"):
        opened(tmp_path / "journal")
    first.close()
    opened(tmp_path / "journal").close()


@pytest.mark.parametrize(
    ("line", "shown"), [(b'{"version": "2"}\n', "{'version': '2'}"), (b"no JSON\nhalf a li", "None")]
)
def test_another_header_is_refused_and_left_alone(tmp_path: Path, line: bytes, shown: str) -> None:
    """The caller says what is different; the file is not written to, and not locked either."""
    path = tmp_path / "journal"
    path.write_bytes(line)
    for _ in range(2):
        with pytest.raises(InvalidInput) as refused:
            opened(path)
        assert str(refused.value) == f"{path}: was begun with {shown}"
    assert path.read_bytes() == line


@pytest.mark.parametrize("line", [b"{}", b"[]", b"1", b'{"n": "x"}', b"\xff", b""])
def test_a_line_that_is_none_of_ours_is_named(tmp_path: Path, line: bytes) -> None:
    """With its number and what it should be."""
    path = tmp_path / "journal"
    with opened(path) as journal:
        journal.append({"n": 1})
    with path.open("ab") as stream:
        stream.write(line + b"\n")
    with opened(path) as journal:
        records = journal.records(number, "a number")
        assert next(records) == 1
        with pytest.raises(InvalidInput, match=r"journal:3: not a number; delete the file to begin again"):
            next(records)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(InvalidInput, match=r"journal: cannot be written: No such file"):
        opened(tmp_path / "none" / "journal")
