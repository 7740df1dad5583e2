"""`secondpass demo`: the packaged pipeline on the packaged corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Start

pytest.importorskip("haystack")
pytest.importorskip("ir_measures")


def test_shows_both_passes(run: Run, tiny_folder: str) -> None:
    """Each query is shown with both passes side by side, then the totals."""
    result = run("demo", "-m", tiny_folder, "--queries", "3", "--rows", "2")
    assert result.exit_code == 0, result.output
    blocks = result.stdout.split("\n\n")
    shown = [block.splitlines() for block in blocks[1:4]]
    assert [len(lines) for lines in shown] == [4, 4, 4]
    assert all(lines[1].split() == ["first", "pass", "second", "pass", "was"] for lines in shown)
    assert "nDCG@10" in result.stdout
    assert "of 3 queries the second pass helped" in result.stdout.lower()
    assert result.stderr == ""


@pytest.mark.parametrize("width", [80, 120])
def test_fits_the_terminal(start: Start, tiny_folder: str, width: int) -> None:
    """Every line fits the width, without colour codes where stdout is no terminal."""
    done = start("demo", "-m", tiny_folder, "--queries", "2", COLUMNS=str(width))
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("utf-8")
    assert "\x1b" not in text
    assert width - 20 < max(map(len, text.splitlines())) <= width


def test_quiet_prints_only_totals(run: Run, tiny_folder: str) -> None:
    """--quiet prints the totals and no query."""
    lines = run("demo", "-m", tiny_folder, "--queries", "2", "--quiet").stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["nDCG@10", "MRR@10", "ms/query"]


def test_json(run: Run, tiny_folder: str) -> None:
    """--json prints one object with the figures of both passes and every ranking."""
    result = run("demo", "-m", tiny_folder, "--queries", "2", "--json")
    found = json.loads(result.stdout)
    assert [row["stage"] for row in found["figures"]] == ["retriever", "ranker"]
    assert found["queries_judged"] == len(found["queries"]) == 2
    assert found["helped"] + found["hurt"] <= 2
    assert all(len(answer["second"]) == 10 for answer in found["queries"])


def test_missing_model_is_one_line(run: Run, tmp_path: Path) -> None:
    """A model that is not there is one line and exit code 1."""
    result = run("demo", "-m", tmp_path / "absent", "--quiet")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("pocket_folder")
def test_second_pass_helps(run: Run) -> None:
    """With the packaged model the second pass is clearly better than BM25 and helps more queries than it hurts."""
    found = json.loads(run("demo", "--json").stdout)
    first, second = found["figures"]
    assert found["queries_judged"] == 40
    assert second["nDCG@10"] > first["nDCG@10"] + 0.05
    assert second["MRR@10"] > first["MRR@10"] + 0.05
    assert found["helped"] > 2 * found["hurt"]
