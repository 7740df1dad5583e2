"""Rules of `benchmarks.startup` and `benchmarks.environments`: what a start is, and what is in an environment."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import environments
from benchmarks.startup import AGREE, Contender, Started, in_turns, markdown

SPINS = """
import time
held = bytearray(40_000_000)
while time.process_time() < 0.2: pass
told([0.5] * len(asked["documents"]))
after = bytearray(400_000_000)
"""


def test_a_start_is_measured_until_it_ranks(tmp_path: Path) -> None:
    """Processor time and memory of the process itself; what it takes behind its ranking is not counted."""
    one = Contender("one", sys.executable, SPINS, "x")
    found = in_turns([one], 2, 1, tmp_path)["one"]
    assert len(found.wall_s) == len(found.cpu_s) == len(found.peak) == 2
    assert all(seconds >= 0.2 for seconds in found.cpu_s)
    assert all(40_000_000 < size < 200_000_000 for size in found.peak)
    assert found.row()["imports"] == []


def test_whoever_ranks_otherwise_is_no_contender(tmp_path: Path) -> None:
    """Times of other scores say nothing."""
    quick, other = (f"told([{score}] * len(asked['documents']))" for score in (0.5, 0.5 + 2 * AGREE))
    contenders = [Contender("one", sys.executable, quick, "x"), Contender("other", sys.executable, other, "x")]
    with pytest.raises(RuntimeError, match="other gives"):
        in_turns(contenders, 1, 1, tmp_path)
    found = in_turns([contenders[0], replace(contenders[1], alike=False)], 1, 1, tmp_path)
    assert found["other"].scores[0] == 0.5 + 2 * AGREE
    with pytest.raises(RuntimeError, match="one failed"):
        in_turns([Contender("one", sys.executable, "1 / 0", "x")], 1, 1, tmp_path)


def test_packed_weights_go_before_a_first_start_only(tmp_path: Path) -> None:
    """The cache is the contender's own place, and is there again for what starts after it."""
    program = """
import os, pathlib
folder = pathlib.Path(os.environ["SECONDPASS_CACHE"])
seen = 0.5 if folder.exists() else 0.45
folder.mkdir(exist_ok=True)
told([seen] * len(asked["documents"]))
"""
    names = {True: "first", False: "second"}
    contenders = [Contender(name, sys.executable, program, "x", first=first) for first, name in names.items()]
    found = in_turns(contenders, 2, 1, tmp_path)
    assert {name: one.scores[0] for name, one in found.items()} == {"first": 0.45, "second": 0.5}


def test_an_environment_has_what_is_asked_for_and_no_more(tmp_path: Path) -> None:
    """Distributions with what they need, by their markers and extras; not what stands beside them."""
    python = environments.make(tmp_path / "made", ["rich"], sources=False)
    names = "rich pygments markdown_it numpy torch pip secondpass".split()
    program = f"import importlib.util as u; print(*[n for n in {names} if u.find_spec(n)])"
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rich", "pygments", "markdown_it"]
    assert environments.size(["rich"]) > environments.size(["pygments"]) > 4_000_000
    assert "torch" in environments.installed(environments.declared(["train"]))
    assert not {"torch", "transformers"} & environments.installed(environments.declared(["haystack", "serve"])).keys()


def test_figures_are_tables() -> None:
    """A row for each contender, size and service; what was not measured has no table."""
    started = Started([2.0, 1.0, 9.0], [0.5, 0.25, 4.0], [10_000_000] * 3, [0.5], ["torch"])
    machine = {"gpu": None, "processor": {"name": "CPU", "count": 2, "flags": []}, "threads": 2}
    cores = {"cores": 2.0}
    found = {
        "machine": machine, "cores_before": cores, "cores_after": cores, "warning": None, "rounds": 3, "clients": 16,
        "sizes_mb": {"secondpass": 133.0}, "installed_mb": {}, "services": {}, "starts": {"one": started.row()},
    }  # fmt: skip
    text = markdown(found)
    assert "| one | 0.50 | 2.00 | 10 | torch |" in text
    assert 'secondpass as the model recommends ("auto"), the others in float32.' in text
    assert "| secondpass | 133 |" in text
    assert "Fresh" not in text
    assert "service" not in text
