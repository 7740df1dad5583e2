"""Rescoring by a pool of Ray workers, the class in a dataset, and the service under Ray Serve; each in its own Ray."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from secondpass import CrossEncoder
from secondpass import ray as ours
from secondpass.errors import InvalidInput, SecondPassError
from tests.cli.test_rescore import ROWS, expected, read

# Ray itself is imported by the processes of `session` alone, which takes seconds.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra ray")


def session(what: str, folder: Path, model: str) -> dict[str, Any]:
    """What `tests.ray_session` told."""
    command = [sys.executable, "-m", "tests.ray_session", what, str(folder), model]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if "no Ray at this machine: The current node timed out during startup" in done.stderr:
        pytest.skip("three times Ray did not start within its 30 seconds: this machine has too much else to do")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_a_pool_of_workers(tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """A killed worker loses nothing and doubles nothing; one part that kills every worker ends the work, and is named.

    Ray listens on loopback alone, a pool that the cluster has no room for is refused, the model's own refusal arrives
    as it is. Where workers record spans, those of parts are below what is open here.
    """
    told = session("pool", tmp_path, tiny_folder)
    assert set() < set(told["addresses"]) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert told["room"] == "InvalidInput: workers=3 with threads=1: Ray has 2 cores, which is room for 2"
    assert told["done"] == [0, 1, 2]
    assert read(tmp_path / "killed") == expected(tiny)
    assert told["model"].startswith("InvalidInput: part 0 (queries 'q1' to 'q1'): ")
    assert told["fatal"].startswith("SecondPassError: 1 times a worker died over part 1: ")
    assert not (tmp_path / "fatal" / "part-00001.parquet").exists()
    assert told["spans"] == [[0, True], [1, True], [2, True]]


@pytest.mark.skipif(not os.environ.get("SECONDPASS_STACKS"), reason="takes a minute: `make test-stacks` runs it")
def test_the_cores_of_a_worker_are_of_one_node(tmp_path: Path) -> None:
    """Two nodes of two cores have no room for a worker of three, which would wait for ever."""
    told = session("nodes", tmp_path, "")
    assert told["refused"] == "InvalidInput: workers=1 with threads=3: Ray has 4 cores on 2 nodes, which is room for 0"
    assert told["workers"] == [4, 2]


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    """Ray itself tries for minutes; what is no address is refused too, and so are devices that a worker has not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://localhost:{port}", "a..b:1"):
            with pytest.raises(SecondPassError, match=f"^no Ray at {re.escape(address)}, which is RAY_ADDRESS: "):
                ours.check_answers(address)
        free.listen()
        ours.check_answers(f"127.0.0.1:{port}")
    ours.check_answers("auto")
    for address in ("localhost", ":6379", "localhost:", "localhost:99999", "localhost:-1", "localhost:\u0663"):
        with pytest.raises(SecondPassError, match="is not host:port"):
            ours.check_answers(address)
    for device in ("cpu,cpu", "cuda:1"):
        with pytest.raises(InvalidInput, match=f"device='{device}': each worker has one device"):
            ours.Pool(None, device=device)


def test_settings_of_the_service_are_text_or_not() -> None:
    """`serve run` gives text, a YAML file values; what is neither is refused by its name."""
    names = ("open_metrics", "docs", "trace_texts", "playground", "max_documents", "shadows", "device")
    text = ("false", "0", "True", "false", "3", "a=b b=a", "cuda:0,cuda:1")
    values = (False, False, True, False, 3, ["a=b", "b=a"], ["cuda:0", "cuda:1"])
    for given in (text, values):
        made = ours.settings_of({"without_keys": given[2], "model": "a=m b=m", **dict(zip(names, given, strict=True))})
        told = [getattr(made, name) for name in names]
        assert told == [False, False, True, None, 3, (("a", "b"), ("b", "a")), "cuda:0,cuda:1"]
        assert made.without_keys
    for searched, wanted in (("true", "secondpass/demo"), ("texts.jsonl", "texts.jsonl")):
        assert ours.settings_of({"without_keys": True, "playground": searched}).playground == wanted
    for name, value, message in (
        ("docs", "yes", "docs='yes' is neither true nor false"),
        ("without_keys", "ture", "without_keys='ture' is neither true nor false"),
        ("shadows", ["ab"], "--shadow 'ab' is not name=next"),
        ("max_documents", "few", "max_documents='few' is no number"),
    ):
        with pytest.raises(InvalidInput, match=message):
            ours.settings_of({"without_keys": True, name: value})
    asked = (None, "cpu,cpu", "cuda", "cuda:0,cuda:1")
    assert [ours.gpus_of(device) for device in asked] == [0, 0, 1, 2]


@pytest.mark.skipif(not os.environ.get("SECONDPASS_STACKS"), reason="takes a minute: `make test-stacks` runs it")
def test_a_dataset_and_the_service(tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """The class scores a dataset's rows.

    Under Serve requests go to every replica, settings and a calibration hold, and it does not start without keys unless
    that is said.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "port").write_text(str(free.getsockname()[1]))
    told = session("serve", tmp_path, tiny_folder)
    assert "set SECONDPASS_API_KEYS" in told["keyless"]
    assert told["unknown"] == "InvalidInput: 'hots' is no setting of the service under Ray Serve"
    (ranking,) = tiny.rank_many(["reset my password"], [["Reset it.", "A cat."]])
    results = [(each["index"], each["relevance_score"]) for each in told["answer"]["results"]]
    assert results == [(one.index, pytest.approx(one.score, abs=1e-6)) for one in ranking.documents]
    chances = [1 / (1 + math.exp(-one.logit)) for one in ranking.documents]
    assert [each["probability"] for each in told["answer"]["results"]] == pytest.approx(chances, abs=1e-5)
    assert "--calibration 'x.json': say of which model" in told["whose"]
    check(told["dataset"], tiny)
    assert (told["replicas"], told["refused"], told["ready"], told["docs"]) == (2, 422, 200, 404)


@pytest.mark.skipif(not os.environ.get("SECONDPASS_STACKS"), reason="takes a minute: `make test-stacks` runs it")
def test_a_spark_udf(tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """docs/ray.md: the same class scores a data frame's rows."""
    pytest.importorskip("pyspark", reason="pyspark, which no extra brings, is not installed")
    check(session("spark", tmp_path, tiny_folder)["dataset"], tiny)


def check(rows: list[dict[str, Any]], encoder: CrossEncoder) -> None:
    """Every row has the score that a run has of it, once."""
    scores = {(row["query_id"], row["document_id"]): row["score"] for row in expected(encoder)}
    found = {(row["query_id"], row["document_id"]): row["score"] for row in rows}
    assert (len(rows), found) == (len(ROWS), scores)
