"""`secondpass search`: going on after a kill or a failure."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import BM25, Run, command, figures, only_line, read_run
from tests.small_collection import CORPUS, write_json_lines

pytest.importorskip("haystack")
pytest.importorskip("ir_measures")


def test_a_failing_query_is_named_and_keeps_the_others(
    run: Run, beir: Path, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a query fails, it is named with the reason, exit code 1, and the answers before it are kept."""
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    real = InMemoryDocumentStore.bm25_retrieval

    def fails(self: Any, query: str, **rest: Any) -> Any:
        if query.startswith("train"):
            raise RuntimeError("the disk is gone")
        return real(self, query=query, **rest)

    monkeypatch.setattr(InMemoryDocumentStore, "bm25_retrieval", fails)
    options = (*BM25, "-c", beir, "-m", tiny_folder, "--data-queries", "-o", tmp_path / "x.trec")
    failed = run(*options)
    assert failed.exit_code == 1
    assert only_line(failed) == "secondpass: query 'q2' failed: the disk is gone"
    assert len((tmp_path / "x.trec.partial").read_text().splitlines()) == 2
    assert not (tmp_path / "x.trec").exists()
    monkeypatch.undo()
    assert run(*options).exit_code == 0
    assert list(read_run((tmp_path / "x.trec").read_text())) == ["q1", "q2", "q3"]


@pytest.fixture(scope="module")
def demo_folder() -> Path:
    """The packaged corpus: enough queries to be killed among."""
    import secondpass

    return Path(str(secondpass.__file__)).parent / "demo"


def test_killed_search_goes_on(run: Run, demo_folder: Path, tmp_path: Path, tiny_folder: str) -> None:
    """A search killed in the middle and started again writes, byte for byte, the run of an undisturbed one."""
    options = (*BM25, "-c", demo_folder, "--data-queries", "-m", tiny_folder, "--depth", "50")
    output = tmp_path / "killed.trec"
    partial = tmp_path / "killed.trec.partial"
    with subprocess.Popen(command(*options, "-o", output), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_lines(partial, 4, process)
        process.kill()
    assert not output.exists()
    kept = partial.read_bytes()
    # The kill may fall into the writing of a line.
    partial.write_bytes(kept[:-7])
    answered = kept[:-7].count(b"\n") - 1
    assert 0 < answered < 40
    resumed = run(*options, "-o", output)
    assert resumed.exit_code == 0, resumed.output
    whole = run(*options, "-o", tmp_path / "whole.trec")
    assert output.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    assert figures(resumed.stdout) == figures(whole.stdout)
    assert not partial.exists()


def wait_for_lines(file: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file has so many lines."""
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"{file} did not get {count} lines: {process.poll()}")


def test_answered_queries_are_not_asked_again(
    run: Run, beir: Path, tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial file that holds every answer becomes the output without a query being asked."""
    from secondpass_pipelines.search_run import ResultWriter
    from secondpass_pipelines.searching import Searcher

    output = tmp_path / "x.trec"
    options = (*BM25, "-c", beir, "--data-queries", "-m", tiny_folder, "-o", output)
    with monkeypatch.context() as patched:
        patched.setattr(ResultWriter, "write", lambda self, answers, figures: list(answers) and 1 / 0)
        assert run(*options).exit_code == 1
    assert not output.exists()
    monkeypatch.setattr(Searcher, "answer", lambda *_: 1 / 0)
    assert run(*options).exit_code == 0
    assert list(read_run(output.read_text())) == ["q1", "q2", "q3"]


@pytest.mark.parametrize(
    ("other", "what"),
    [(("--depth", "2"), "depth"), (("--top-k", "2"), "top-k"), (("-m", "elsewhere"), "model"), ((), "corpus")],
)
def test_partial_of_another_search_is_refused(
    run: Run, beir: Path, tmp_path: Path, other: tuple[str, ...], what: str
) -> None:
    """A partial file is continued only with the settings and corpus it was begun with; the message names the change."""
    output = tmp_path / "x.trec"
    options = (*BM25, "-c", beir, "--data-queries", "-o", output)
    failed = run(*options, "-m", tmp_path / "absent")
    assert failed.exit_code == 1
    assert (tmp_path / "x.trec.partial").exists()
    if what == "corpus":
        write_json_lines(beir / "corpus.jsonl", [*CORPUS, {"_id": "new", "text": "x"}])
    result = run(*options, "-m", tmp_path / "absent", *other)
    assert result.exit_code == 2
    assert f"was begun with another {what};" in only_line(result)


def test_foreign_and_locked_partials_are_refused(run: Run, beir: Path, tmp_path: Path) -> None:
    """A partial file of another program is not touched, and one that a running search writes is refused."""
    import fcntl

    partial = tmp_path / "x.trec.partial"
    partial.write_text("my notes\n")
    options = (*BM25, "-c", beir, "--data-queries", "-o", tmp_path / "x.trec")
    assert "was begun by something else" in only_line(run(*options))
    assert partial.read_text() == "my notes\n"
    with partial.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another search is writing it" in only_line(run(*options))
