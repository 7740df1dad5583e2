"""What the command line's tests share: the program run in this process or as a real one, and small corpora."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from secondpass.cli import app

Run = Callable[..., Result]
Start = Callable[..., "subprocess.CompletedProcess[bytes]"]

CORPUS = [
    {"_id": "d1", "title": "Password", "text": "Reset the password of your account in the second step."},
    {"_id": "d2", "title": "", "text": "The cat sat on the mat and sat on the hat."},
    {"_id": "d3", "title": "Paris", "text": "The capital of France is a big city on a river."},
    {"_id": "d4", "title": "Train", "text": "Where to order a train to Paris and what it costs."},
    {"_id": "d5", "title": "Bank", "text": "Open a bank account and delete the second account."},
]
QUERIES = [
    {"_id": "q1", "text": "reset my password"},
    {"_id": "q2", "text": "train to the capital of France"},
    {"_id": "q3", "text": "delete a bank account"},
    {"_id": "unjudged", "text": "cat on a hat"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td3\t1\nq2\td4\t2\nq3\td5\t1\nq3\td2\t0\nunjudged\td2\t0\n"
BM25 = ("search", "-p", "rerank_bm25")


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
        return subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            timeout=300,
            env=os.environ | environment,
            check=False,
        )

    return process


def command(*arguments: str | Path) -> list[str]:
    """The program's command line."""
    return [sys.executable, "-c", "from secondpass.cli import main; main()", *map(str, arguments)]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """A BEIR folder of five documents and three judged queries."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    write_json_lines(folder / "corpus.jsonl", CORPUS)
    write_json_lines(folder / "queries.jsonl", QUERIES)
    (folder / "qrels" / "test.tsv").write_text(QRELS, encoding="utf-8")
    return folder


def write_json_lines(path: Path, rows: Sequence[object]) -> Path:
    """Write a JSON Lines file and return its path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


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
