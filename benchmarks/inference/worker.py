"""A process that holds rankers and is asked over pipes: one JSON object a line each way.

Both ends are here and need only the standard library, so that another interpreter, with other versions of everything,
can be the other end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]

Scorer = Callable[[str, Sequence[str]], list[float]]
"""A query and its documents to their logits, in the order of the documents."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to rank: who computes (`way`), how exactly, and pairs a batch where that is a setting."""

    name: str
    way: str
    precision: str = "fp32"
    batch: int = 32


@dataclass(frozen=True, slots=True)
class Place:
    """Which model, where it runs, and a folder for what is made from it."""

    folder: str
    device: str
    threads: int
    scratch: str
    calibration: str


def peak_mb() -> float:
    """The largest resident memory of this process so far, in MB.

    Not `ru_maxrss`: that one starts with the size of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def timed(scorer: Scorer, query: str, documents: Sequence[str]) -> tuple[float, list[float]]:
    """Seconds and logits."""
    began = time.perf_counter()
    logits = scorer(query, documents)
    return time.perf_counter() - began, logits


def answer_forever(make: Callable[[Contender, Place], Scorer]) -> None:
    """Answer until standard input ends: {"make", "place"}, {"name", "query", "documents"} or {"peak"}."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to stderr
    scorers: dict[str, Scorer] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = _answered(asked, make, scorers)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answered(
    asked: dict[str, Any], make: Callable[[Contender, Place], Scorer], scorers: dict[str, Scorer]
) -> dict[str, Any]:
    if "make" in asked:
        contender = Contender(**asked["make"])
        scorers[contender.name] = make(contender, Place(**asked["place"]))
        return {}
    if "name" in asked:
        seconds, logits = timed(scorers[asked["name"]], asked["query"], asked["documents"])
        return {"seconds": seconds, "logits": logits}
    return {"peak_mb": peak_mb(), "device_peak_mb": _device_peak_mb()}


def _device_peak_mb() -> float:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.max_memory_allocated()) / 2**20


class Unavailable(Exception):
    """A way to rank that cannot be had here, and why."""


class Worker:
    """The asking end: starts `python -m module` and ends it."""

    def __init__(self, python: str, module: str, threads: int, log: Path) -> None:
        # the other interpreter has no secondpass installed, whose file about the machine needs nothing else
        ours = {"PYTHONPATH": str(ROOT / "src")}
        environment = os.environ | ours | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        try:
            with log.open("ab") as stderr:
                self._process = subprocess.Popen(
                    [python, "-m", module],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    cwd=ROOT,
                    env=environment,
                )
        except OSError as error:
            raise Unavailable(f"{python} does not start: {error}") from None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def process_id(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, **question: Any) -> dict[str, Any]:
        """Give the answer.

        Raises:
            Unavailable: it is an error, or the process ended.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101
        assert stdout is not None  # noqa: S101
        try:
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Unavailable("the process ended; its last words are in the log")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Unavailable(answer["error"])
        return answer

    def make(self, contender: Contender, place: Place) -> None:
        """Load a contender."""
        self.ask(make=asdict(contender), place=asdict(place))

    def rank(self, contender: Contender, query: str, documents: Sequence[str]) -> tuple[float, list[float]]:
        """Seconds, measured there, and logits."""
        answer = self.ask(name=contender.name, query=query, documents=list(documents))
        return float(answer["seconds"]), list(answer["logits"])
