"""SIGKILL of real processes that index, at moments left to chance."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from secondpass.corpora import read_corpus
from tests.indexing.conftest import rows
from tests.indexing.sinks import FileSink
from tests.small_collection import write_json_lines

ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("SECONDPASS_KILLS", "5"))


def start(corpus: Path, table: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a run and wait until it is about to write."""
    command = [sys.executable, "-m", "tests.indexing.indexing_process", str(corpus), str(table), str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"began\n"
    return process


def test_nothing_is_lost_or_doubled_however_often_a_run_is_killed(tmp_path: Path) -> None:
    """Every document is in the index or among the dead letters, once; little is sent twice."""
    # enough that the kills never come after the end, however fast the machine is
    corpus = write_json_lines(tmp_path / "corpus.jsonl", rows(600 * KILLS))
    table, files = tmp_path / "table.sqlite", tmp_path
    chance = random.Random(KILLS)
    killed = 0
    for _ in range(KILLS):
        process = start(corpus, table, files)
        time.sleep(chance.uniform(0, 0.12))
        killed += process.poll() is None
        process.kill()
        process.communicate()
    assert killed > 0
    process = start(corpus, table, files)
    process.communicate(timeout=60)
    assert process.returncode == 0
    held = FileSink(table).held()
    letters = [json.loads(line)["_id"] for line in (tmp_path / "docs.dead.jsonl").read_text().splitlines()]
    expected = {document.id: document.content for document in read_corpus(corpus)}
    assert {name: source["content"] for name, source in held.items()} == {
        name: content for name, content in expected.items() if not name.endswith("9")
    }
    assert sorted(letters) == sorted(name for name in expected if name.endswith("9"))
    # A kill may cost what was under way: two requests of five documents.
    assert FileSink(table).writes() <= len(held) + killed * 2 * 5
    assert not (tmp_path / "docs.journal").exists()
