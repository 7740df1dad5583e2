"""`secondpass bench`, and the page that is made of its results."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from benchmarks import result_page
from secondpass import machine
from secondpass.cli import bench, output
from secondpass.errors import SecondPassError
from secondpass.forwards.kernel import native
from tests import fork_server
from tests.cli.conftest import Run, command, only_line

SMALL = ("bench", "--rounds", "2", "--passages", "3", "--no-competitors")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def result(tiny_folder: str) -> dict[str, Any]:
    """One small result, of the tiny model and without a look at the machine."""
    from typer.testing import CliRunner

    from secondpass.cli import app

    done = CliRunner().invoke(app, [*SMALL, "--model", tiny_folder, "--no-check", "--json"])
    assert done.exit_code == 0, done.stderr
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def quiet(result: dict[str, Any]) -> dict[str, Any]:
    """The same as of a machine that was looked at and found quiet."""
    made = copy.deepcopy(result)
    given = {"gflops_alone": 50.0, "gflops_together": 99.0, "cores": 1.98, "all": True, "load": 0.0}
    made["machine"] |= {"before": given, "after": given, "quiet": True, "warnings": []}
    return made


def test_a_result_follows_the_schema(result: dict[str, Any]) -> None:
    """Everything that a reader of the JSON may rely on is there, and nothing else."""
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(result_page.schema())
    known = jsonschema.Draft202012Validator(result_page.schema())
    assert list(known.iter_errors(result)) == []
    assert list(known.iter_errors({**result, "format": 2})) != []


def test_every_time_is_stored(result: dict[str, Any], tiny_folder: str) -> None:
    """A number for each query and each single pair; no folder of this machine is told; who is absent says why."""
    for one in result["contenders"]:
        assert len(one["seconds"]) == len(one["single_seconds"]) == 2
        assert min(*one["seconds"], *one["single_seconds"]) > 0
    exact = result["contenders"][0]
    assert (exact["name"], exact["score_difference"], exact["top10_shared"]) == ("secondpass fp32", 0.0, 1.0)
    assert str(Path(tiny_folder).parent) not in json.dumps(result)
    assert {*result["absent"]} >= {*bench.COMPETITORS}
    assert result["texts"]["sha256"] == bench.digest_of(bench.texts_of(0, 2, 3))


def test_texts_are_the_seeds() -> None:
    """The same seed gives the same texts anywhere, another one others, and no passage comes twice."""
    asked = bench.texts_of(3, 4, 50)
    assert (
        bench.digest_of(bench.texts_of(0, 1, 2)) == "a5b48ff23c568dbe7e2736c98d8ede51c47e4bb18181606c2abc07cab3a98c32"
    )
    assert (
        bench.digest_of(asked) == bench.digest_of(bench.texts_of(3, 4, 50)) != bench.digest_of(bench.texts_of(4, 4, 50))
    )
    passages = [passage for one in asked for passage in one.passages]
    assert len(set(passages)) == len(passages) == 200
    assert {len(passage.split()) for passage in passages} <= set(range(50, 121))


def contender(name: str, score: bench.Scorer) -> bench.BenchContender:
    """One that computes nothing."""
    return bench.BenchContender(name, "secondpass", "fp32", 1, {}, score, 0.0)


def test_contenders_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ranks every query, and each time another one is first."""
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    order: list[str] = []

    def scorer(name: str) -> bench.Scorer:
        def score(query: str, passages: Any) -> list[float]:
            order.append(name * len(passages))
            return [0.5] * len(passages)

        return score

    three = [contender(name, scorer(name)) for name in "abc"]
    steps: list[None] = []
    bench.take_turns(three, bench.texts_of(0, 3, 2), lambda: steps.append(None))
    assert order == "aa a bb b cc c bb b cc c aa a cc c aa a bb b".split()
    assert len(steps) == 9


@pytest.mark.parametrize("scores", [[float("nan"), 0.5], [0.5]])
def test_nonsense_is_refused(scores: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender that gives NaN, or not a score for each passage, ends the run by its name."""
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    wrong = contender("wrong one", lambda query, passages: scores)
    with pytest.raises(SecondPassError, match="wrong one"):
        bench.take_turns([wrong], bench.texts_of(0, 1, 2), lambda: None)


def test_the_table(run: Run, tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row for each precision, within 80 columns; others who compute meanwhile are told on stderr."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(machine.Clock, "others", lambda self, since: 1.5)
    given = {"gflops_alone": 9.0, "gflops_together": 9.0, "cores": 1.0, "all": True, "load": 0.1}
    monkeypatch.setattr(machine, "cores_given", lambda threads: given)
    done = run(*SMALL, "--model", tiny_folder, "--precision", "fp32")
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "secondpass fp32" in done.stdout
    assert "secondpass int8" not in done.stdout
    assert only_line(done) == (
        "secondpass: NOT VALID: others computed meanwhile, as much as 1.50 cores do in the mean."
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--precision", "fp64"), "--precision='fp64' is none of fp32, bf16, int16, int8"),
        (("--threads", "9999"), "--threads 9999: this process may use"),
        (("--json", "no/such/folder/x.json"), "there is no folder"),
        (("--json", "."), ".: is a folder, not a file"),
    ],
)
def test_what_cannot_be_measured_is_refused(run: Run, options: tuple[str, ...], reason: str) -> None:
    """Before anything is measured, in one line."""
    done = run(*SMALL, *options)
    assert done.exit_code == 2
    assert reason in only_line(done)


def test_threads_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """One processor of each is kept, for --threads and OMP_NUM_THREADS alike; who asks for all keeps all."""
    place = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    siblings = {place.format(number): f"{number & ~1}-{number | 1}" for number in range(8)}
    kept: list[list[int]] = []
    monkeypatch.setattr(native, "_read", lambda path: siblings.get(path, ""))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, processors: kept.append(list(processors)))
    for threads, asked, wanted in (
        (2, "", [0, 2]),
        (None, "3", [0, 2, 4]),
        (4, "1", []),
        (None, "", []),
        (None, "9", []),
    ):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        kept.clear()
        assert bench._limited(threads) == (len(wanted) or 4)
        assert kept == ([wanted] if wanted else [])


def test_who_cannot_be_had_is_told_before_the_turns(
    tmp_path: Path, tiny_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reason that names no folder; a library of no known version is one of them."""
    made, absent = bench.entered(bench.Weights(str(tmp_path / "nowhere"), tmp_path, 1, None), ("fp32",), 1, False)
    assert made == []
    assert absent["secondpass fp32"].startswith("cannot be had here: ModelLoadError: ")
    assert ".../nowhere" in absent["secondpass fp32"]
    assert str(tmp_path) not in absent["secondpass fp32"]
    monkeypatch.setattr(bench, "version", lambda name: version("of-no-such-distribution"))
    made, absent = bench.entered(bench.Weights(tiny_folder, tmp_path, 1, None), ("fp32",), 1, False)
    assert made == []
    assert "PackageNotFoundError" in absent["secondpass fp32"]


def test_an_interrupted_run_tells_nothing(tmp_path: Path, interruptible: None) -> None:
    """Ctrl-C: code 130, a line, and no file with half of the turns."""
    file = tmp_path / "result.json"
    asked = command("bench", "--rounds", "500", "--passages", "50", "--no-competitors", "--no-check", "--json", file)
    with fork_server.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(5)
        process.send_signal(signal.SIGINT)
        told, errors = process.communicate(timeout=120)
        assert process.returncode == output.INTERRUPTED, errors
    assert told == b""
    assert b"Traceback" not in errors
    assert not file.exists()


def test_the_machine_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """What others compute is what everybody did less what this process did; cores that are not given are told."""
    early, late = machine.Clock(10.0, 100.0, 5.0), machine.Clock(20.0, 118.0, 13.0)
    assert late.others(early) == 1.0
    assert machine.Clock(20.0, None, 13.0).others(early) is None
    given = {"gflops_alone": 50.0, "gflops_together": 99.0, "cores": 1.98, "all": True, "load": 0.0}
    taken = {**given, "gflops_together": 51.0, "cores": 1.02, "all": False, "load": 2.0}
    assert machine.warnings(given, given, 2, 0.1) == []
    assert ["did not give its 2 cores" in line for line in machine.warnings(given, taken, 2, 0.5)] == [True, False]
    assert machine.processor()["count"] >= 1


# ---- Results that were added.
def test_stored_results_and_their_page() -> None:
    """Every file follows the schema, its figures follow from its times, and the page is what they say."""
    pytest.importorskip("jsonschema")
    assert result_page.main(check=True) == 0


def test_the_page_of_a_result(result: dict[str, Any]) -> None:
    """A table with a row for each contender; what names have in them is neither HTML nor the end of a cell."""
    found = quiet(result)
    found["machine"]["processor"]["name"] = "<b>A | B</b>"
    page = result_page.page({"a.json": found})
    assert "## &lt;b>A \\| B&lt;/b>, " in page
    assert page.count("| secondpass ") == len(found["contenders"])
    assert "No result has been added yet." in result_page.page({})


def test_results_that_are_refused(result: dict[str, Any]) -> None:
    """A machine where others computed, and a figure that its times do not give."""
    assert list(result_page.faults(quiet(result))) == []
    assert "not quiet" in next(result_page.faults(result))
    better = quiet(result)
    better["contenders"][0]["pairs_per_second"] *= 2
    (fault,) = result_page.faults(better)
    assert "secondpass fp32: pairs_per_second" in fault
    fewer = quiet(result)
    fewer["contenders"][-1]["seconds"].pop()
    assert "1 times for 2 queries" in next(result_page.faults(fewer))
