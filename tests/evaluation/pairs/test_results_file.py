"""results_file: names, headers once, rows appended, columns never mixed."""

from __future__ import annotations

import pytest

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.evaluation.pairs.results_file import append_row, file_name

HEADERS = ["epoch", "steps", "Accuracy"]
BEGIN = b"epoch,steps,Accuracy\r\n"


def test_names():
    """The evaluator, the name if there is one, and the ending."""
    assert file_name("CEF1Evaluator", "") == "CEF1Evaluator_results.csv"
    assert file_name("CEF1Evaluator", "dev set") == "CEF1Evaluator_dev set_results.csv"
    assert file_name("CERerankingEvaluator", "dev", "_@10") == "CERerankingEvaluator_dev_results_@10.csv"


@pytest.mark.parametrize("name", ["a/b", "a\\b", "..\\a", "a\0", "a\nb", None, 7])
def test_names_that_are_no_file_names(name):
    """A name cannot lead out of the folder."""
    with pytest.raises(InvalidInput, match="cannot stand in a file name"):
        file_name("CEF1Evaluator", name)


def test_rows_are_appended_below_one_header(tmp_path):
    """The folder is made, the header stands once, numbers are written in full."""
    folder = tmp_path / "deep" / "folder"
    append_row(folder, "r.csv", HEADERS, [0, 100, 1 / 3])
    assert (folder / "r.csv").read_bytes() == BEGIN + b"0,100,0.3333333333333333\r\n"
    append_row(str(folder), "r.csv", HEADERS, [0, -1, float("nan")])
    assert (folder / "r.csv").read_bytes() == BEGIN + b"0,100,0.3333333333333333\r\n0,-1,nan\r\n"


def test_headers_with_commas_are_found_again(tmp_path):
    """What CSV quotes when it writes, it reads the same."""
    for _ in range(2):
        append_row(tmp_path, "r.csv", ["epoch", 'a, "b"'], [0, 1])
    assert (tmp_path / "r.csv").read_bytes() == b'epoch,"a, ""b"""\r\n0,1\r\n0,1\r\n'


@pytest.mark.parametrize("begun", [BEGIN, b"epoch,steps,Accuracy\n", b"\xef\xbb\xbf" + BEGIN])
def test_a_file_of_another_program_goes_on(begun, tmp_path):
    """The same columns count as the same, whatever the line ends and with a byte order mark."""
    (tmp_path / "r.csv").write_bytes(begun + b"0,1,0.5\n")
    append_row(tmp_path, "r.csv", HEADERS, [0, 2, 0.75])
    assert (tmp_path / "r.csv").read_bytes() == begun + b"0,1,0.5\n0,2,0.75\r\n"


def test_an_empty_file_begins(tmp_path):
    """A file without content gets the header."""
    (tmp_path / "r.csv").touch()
    append_row(tmp_path, "r.csv", HEADERS, [0, 1, 0.5])
    assert (tmp_path / "r.csv").read_bytes() == BEGIN + b"0,1,0.5\r\n"


@pytest.mark.parametrize("other", [b"epoch,steps,MRR@10\r\n", b"\r\n", b"\xff\xfe\x00"])
def test_other_columns_are_not_mixed(other, tmp_path):
    """A file with other columns is refused by name and stays as it is."""
    (tmp_path / "r.csv").write_bytes(other)
    with pytest.raises(InvalidInput, match=r"r\.csv has columns .*, not epoch,steps,Accuracy"):
        append_row(tmp_path, "r.csv", HEADERS, [0, 1, 0.5])
    assert (tmp_path / "r.csv").read_bytes() == other


def test_where_nothing_can_be_written(tmp_path):
    """A path that is a file, and a file that is a folder, are CheckpointErrors that name the path."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        append_row(tmp_path / "file", "r.csv", HEADERS, [0, 1, 0.5])
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(CheckpointError, match=r"r\.csv cannot be written"):
        append_row(tmp_path, "r.csv", HEADERS, [0, 1, 0.5])
