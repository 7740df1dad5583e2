"""What the command line's tests share: the program run in this process or as a real one, and small corpora."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from secondpass.cli import app
from tests import fork_server

Run = Callable[..., Result]
Start = Callable[..., "subprocess.CompletedProcess[bytes]"]

BM25 = ("search", "-p", "rerank_bm25")


@pytest.fixture(scope="module", autouse=True)
def _same_processors() -> Iterator[None]:
    """Of those that `bench` takes from the process none stays away."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.fixture
def run() -> Run:
    """The program in this process."""

    def invoke(*arguments: str | Path, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)

    return invoke


@pytest.fixture
def start() -> Start:
    """The program as a process of its own, from its entry point."""

    def process(*arguments: str | Path, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
        return fork_server.run(command(*arguments), input=stdin, timeout=300, env=os.environ | environment)

    return process


def command(*arguments: str | Path) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-c", "from secondpass.cli import main; main()", *map(str, arguments)]


def only_line(result: Result) -> str:
    """The one line that an error printed."""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("secondpass: ")
    return lines[0]


@pytest.fixture(scope="session")
def pocket_folder() -> Path:
    """The model that the package carries."""
    folder = Path(str(resources.files("secondpass"))) / "pocket"
    if not (folder / "config.json").is_file():
        pytest.skip("secondpass/pocket is not in this checkout yet")
    return folder


def read_run(text: str) -> dict[str, list[str]]:
    """Documents by query of a TREC run, in the order of its lines, with ranks and scores checked."""
    run: dict[str, list[str]] = {}
    last: dict[str, float] = {}
    for line in text.splitlines():
        query, zero, document, rank, score, tag = line.split(" ")
        run.setdefault(query, []).append(document)
        assert (zero, tag, int(rank)) == ("Q0", "secondpass", len(run[query]))
        assert float(score) < last.get(query, float("inf"))
        last[query] = float(score)
    return run


def figures(output: str) -> dict[str, tuple[float, float]]:
    """nDCG@10 and MRR@10 by stage from the printed table."""
    found = {}
    for line in output.splitlines():
        if "pass (" in line:
            stage, ndcg, mrr, _ = line.rsplit(maxsplit=3)
            found[stage.strip()] = (float(ndcg), float(mrr))
    return found
