"""Tests of an environment without torch: `python -m tests.without_torch FOLDER` makes it and runs them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# where torch is installed these are not what they say
collect_ignore_glob = ["test_*.py"] if find_spec("torch") else []

Run = Callable[[str | Sequence[str]], "Result"]
Result = "typer.testing.Result"


@pytest.fixture
def run() -> Run:
    """A line of the shell that begins with `secondpass`, in this process."""
    from typer.testing import CliRunner

    from secondpass.cli import app

    def invoke(line: str | Sequence[str]) -> Result:
        words = shlex.split(line, comments=True) if isinstance(line, str) else list(line)
        assert words[0] == "secondpass"
        return CliRunner().invoke(app, words[1:])

    return invoke


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with what the pages name: a BEIR folder, articles, judgements, two runs and a model."""
    from tests.small_collection import write_beir

    write_beir(tmp_path / "my_beir_folder")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mine").symlink_to(str(files("secondpass") / "pocket"))
    (tmp_path / "articles.jsonl").write_text(
        '{"_id": "a", "text": "Reset your password under Settings, Security."}\n'
        '{"_id": "b", "text": "You can return a parcel within 30 days."}\n'
        '{"_id": "c", "text": "Invoices are sent by email."}\n'
    )
    (tmp_path / "qrels.txt").write_text("1 0 a 2\n1 0 b 0\n2 0 b 1\n")
    for name, order in (("bm25", "ba"), ("reranked", "ab")):
        lines = [f"{query} Q0 {item} {rank} {9 - rank} x" for query in "12" for rank, item in enumerate(order, 1)]
        (tmp_path / f"{name}.trec").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
