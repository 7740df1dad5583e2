"""`secondpass opensearch` as people run it, on a real server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from secondpass import CrossEncoder
from secondpass.cli import app
from secondpass_opensearch.server import Server
from tests.opensearch.conftest import NOBODY, TEXTS, fill
from tests.serving.conftest import Live

pytestmark = pytest.mark.usefixtures("environment")


def run(*arguments: str, code: int = 0) -> Result:
    """Run the program in this process."""
    result = CliRunner().invoke(app, ["opensearch", *arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """`TEXTS` as JSON lines."""
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"_id": id_, "text": text}) + "\n" for id_, text in TEXTS.items()))
    return file


@pytest.fixture
def filled(new_name: Callable[[], str], corpus: Path, tmp_path: Path) -> str:
    """An index created and filled by the commands."""
    name = new_name()
    assert "no vectors" in run("create", name, "--replicas", "0").stdout
    done = run("index", name, str(corpus), "--files", str(tmp_path))
    assert done.stdout.startswith("4 of 4 documents indexed")
    return name


def test_from_an_empty_server_to_a_reranked_answer(filled: str, tiny_folder: str, tiny: CrossEncoder) -> None:
    """Create, index, search: hits in the model's order, as JSON lines."""
    query = "a train to the capital"
    found = run("search", filled, query, "--model", tiny_folder, "-f", "jsonl", "--passages")
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert sorted(row["was"] for row in rows) == list(range(1, len(rows) + 1))
    ranked = tiny.rank(query, [row["text"] for row in rows])
    assert [item["corpus_id"] for item in ranked] == list(range(len(rows)))
    assert all(row["passage"] for row in rows)


def test_a_table_for_people(filled: str, tiny_folder: str) -> None:
    """And a word where nothing was found."""
    table = run("search", filled, "train to Paris", "--model", tiny_folder, "--top-k", "1").stdout
    assert re.search(r"rank +score +was +id +text", table)
    assert len(table.splitlines()) == 2
    assert "no document was found" in run("search", filled, "zzz", "--model", tiny_folder).stderr


@pytest.mark.parametrize("retrieval", ["dense", "hybrid"])
def test_vectors(
    new_name: Callable[[], str],
    corpus: Path,
    tmp_path: Path,
    tiny_folder: str,
    minilm: str,
    retrieval: str,
) -> None:
    """Filled and searched with the same bi-encoder; other words than the document's find it."""
    name = new_name()
    run("create", name, "--dims", "384", "--replicas", "0")
    run("index", name, str(corpus), "--embedder", minilm, "--files", str(tmp_path))
    options = ("--first", retrieval, "--embedder", minilm, "--model", tiny_folder, "--depth", "1", "-f", "jsonl")
    rows = [json.loads(line) for line in run("search", name, "forgot login credentials", *options).stdout.splitlines()]
    assert "password" in [row["id"] for row in rows]


def test_refused_documents_are_kept(new_name: Callable[[], str], corpus: Path, tmp_path: Path, server: Server) -> None:
    """In a file beside the journal, with the reason; the others are indexed, and the exit code is 1."""
    name = new_name()
    run("create", name, "--replicas", "0")
    with corpus.open("a") as stream:
        stream.write(json.dumps({"_id": "x" * 600, "text": "too long an id"}) + "\n")
    failed = run("index", name, str(corpus), "--files", str(tmp_path), code=1)
    assert "1 of 5 documents were refused" in failed.stderr
    (letter,) = (tmp_path / f"{name}.dead.jsonl").read_text().splitlines()
    assert "600 bytes" in letter
    with server.client() as client:
        assert client.count(index=name)["count"] == 4


def test_indexing_into_nothing(corpus: Path, tmp_path: Path) -> None:
    """No index is made by accident: its mapping would be a guess."""
    failed = run("index", "test-nobody-made-it", str(corpus), "--files", str(tmp_path), code=1)
    assert "secondpass opensearch create" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_connect_prints_a_query_that_works(index: str, live: Live, connection: str, server: Server) -> None:
    """Run by a shell as it stands, it answers in our order; disconnect takes everything back."""
    fill(server, index, {"quote": "How do I reset my password?"})
    done = run("connect", live.url, "--name", connection, "--index", index)
    command = done.stdout.split("\n\n")[1]
    answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout
    hits = json.loads(answer)["hits"]["hits"]
    assert {hit["_id"] for hit in hits} >= {"quote", "password"}
    scores = [hit["_score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert run("disconnect", "--name", connection).stdout.startswith("disconnected")
    assert run("disconnect", "--name", connection).stdout.startswith("nothing to take back")


def test_connect_to_nobody(connection: str) -> None:
    """The check at the end fails, with the exit code; --no-check is content."""
    failed = run("connect", NOBODY, "--name", connection, code=1)
    assert "gets no scores" in failed.stderr
    assert failed.stderr.count("\n") == 1
    run("connect", NOBODY, "--name", connection, "--no-check")


def test_a_dry_run_hides_the_key(connection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And changes nothing: there is nothing to take back."""
    monkeypatch.setenv("SECONDPASS_API_KEY", "a-secret-key")
    shown = run("connect", NOBODY, "--name", connection, "--dry-run").stdout
    assert "PUT /_search/pipeline" in shown
    assert "a-secret-key" not in shown
    assert run("disconnect", "--name", connection).stdout.startswith("nothing to take back")


@pytest.mark.parametrize(
    "arguments",
    [("create", "x"), ("search", "x", "y"), ("connect", NOBODY), ("disconnect",), ("connect", NOBODY, "--dry-run")],
    ids=" ".join,
)
def test_a_dead_server_is_one_line(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the host, without the password."""
    monkeypatch.setenv("OPENSEARCH_URL", NOBODY.replace("//", "//joe:secret@"))
    failed = run(*arguments, code=1)
    assert failed.stderr.count("\n") == 1
    assert NOBODY in failed.stderr
    assert "secret" not in failed.output
    assert "joe" not in failed.output


@pytest.mark.parametrize(
    "arguments", [("search", "x", " "), ("connect", "localhost"), ("connect", "http://a:b@h"), ("create", " ")]
)
def test_refusals(arguments: tuple[str, ...]) -> None:
    """Code 2, before anything is sent."""
    run(*arguments, code=2)


def test_help_is_light() -> None:
    """Neither torch nor opensearchpy nor haystack is loaded to say what there is."""
    heavy = "{'torch', 'transformers', 'opensearchpy', 'haystack'}"
    program = f"import sys, secondpass_opensearch.commands; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.split() == []
