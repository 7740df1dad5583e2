"""What `secondpass opensearch` has of its own; tests/searching has what both engines share."""

from __future__ import annotations

import json
import subprocess

import pytest
from typer.testing import CliRunner, Result

from secondpass.cli import app
from secondpass_servers.opensearch.client import Server
from tests.secondpass_servers.opensearch.conftest import NOBODY, fill
from tests.serving.conftest import Live

pytestmark = pytest.mark.usefixtures("environment")


def run(*arguments: str, code: int = 0) -> Result:
    """Run the program in this process."""
    result = CliRunner().invoke(app, ["opensearch", *arguments])
    assert result.exit_code == code, result.output
    return result


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
    assert "ignore_failure" not in shown.partition("PUT /_search/pipeline")[2]
    shown = run("connect", NOBODY, "--name", connection, "--dry-run", "--on-failure", "first-pass").stdout
    assert shown.partition("PUT /_search/pipeline")[2].count('"ignore_failure": true') == 2
    assert "a-secret-key" not in shown
    assert run("disconnect", "--name", connection).stdout.startswith("nothing to take back")


@pytest.mark.parametrize(
    "arguments",
    [("connect", NOBODY), ("disconnect",), ("connect", NOBODY, "--dry-run")],
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


@pytest.mark.parametrize("arguments", [("connect", "localhost"), ("connect", "http://a:b@h")])
def test_refusals(arguments: tuple[str, ...]) -> None:
    """Code 2, before anything is sent."""
    run(*arguments, code=2)
