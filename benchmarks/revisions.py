"""Ranking of this checkout beside that of an earlier revision, by turns on the same cores.

    python -m benchmarks.revisions compare 958c576

The revision is checked out into a temporary folder and its kernel compiled there; each side is a process of its own
with the embedded model. Turn by turn both rank the same documents of the demo: one pair, many times, and a hundred
documents. Told are the medians and the ratio of each turn's two times, so that what else the machine does hits both or
neither. Scores are compared too. Needs git and, for the kernel, a C++ compiler.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.inference.machine import processor

ROOT = Path(__file__).parents[1]
COMPILE = (
    "import hatch_build; from pathlib import Path; hatch_build.compile_kernel(Path('.'), Path(hatch_build.LIBRARY))"
)
# Asked on stdin for so many documents and repetitions, a side answers with the seconds of one call, and its scores.
SIDE = """
import json, sys, time
from secondpass import CrossEncoder
query, texts = json.loads(sys.stdin.readline())
encoder = CrossEncoder("secondpass/pocket", device="cpu", precision=sys.argv[1])
for line in sys.stdin:
    documents, times = json.loads(line)
    began = time.perf_counter()
    for _ in range(times):
        ranked = encoder.rank(query, texts[:documents], show_progress_bar=False)
    taken = (time.perf_counter() - began) / times
    print(json.dumps([taken, {hit["corpus_id"]: float(hit["score"]) for hit in ranked}]), flush=True)
"""
IMPORT = "import time; began = time.perf_counter(); import secondpass; print(time.perf_counter() - began)"
LOADS = {"one pair": (1, 50), "100 documents": (100, 2)}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def _main() -> None:
    """Keep `compare` a command by name: others may come."""


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """The revision's files in a temporary folder, with its kernel if a compiler is there."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", str(place), revision], cwd=ROOT, check=True)
        try:
            subprocess.run([sys.executable, "-c", COMPILE], cwd=place, check=False)
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, check=True)


class Side:
    """One tree's process, which answers one load at a time."""

    def __init__(self, tree: Path, precision: str, texts: tuple[str, list[str]]) -> None:
        sources = [tree / "src", *sorted((tree / "integrations").glob("*/src"))]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, sources))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SIDE, precision],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.environment,
        )
        self._send(texts)

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()

    def _send(self, line: Any) -> None:
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()

    def rank(self, documents: int, times: int) -> tuple[float, dict[str, float]]:
        """Seconds of one call, and the scores by document."""
        assert self._process.stdout is not None  # noqa: S101
        self._send([documents, times])
        seconds, scores = json.loads(self._process.stdout.readline())
        return seconds, scores

    def import_seconds(self) -> float:
        """What `import secondpass` takes in a fresh interpreter."""
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], env=self.environment, capture_output=True, text=True, check=True
        )
        return float(done.stdout)


@app.command()
def compare(
    revision: Annotated[str, typer.Argument(help="The earlier revision.")],
    precision: Annotated[str, typer.Option(help="fp32, bf16, int16, int8 or auto.")] = "fp32",
    turns: Annotated[int, typer.Option(min=3, help="How often both sides take their turn.")] = 15,
) -> None:
    """Print medians of both sides and of the ratios before / now: above 1 is faster now."""
    demo = ROOT / "src" / "secondpass" / "demo"
    rows = [json.loads(line) for line in (demo / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    query = json.loads((demo / "queries.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    texts = (query, [f"{row['title']} {row['text']}" for row in rows])
    with checkout(revision) as tree, ExitStack() as stack:
        before, now = (stack.enter_context(Side(place, precision, texts)) for place in (tree, ROOT))
        typer.echo(f"{processor().get('name', platform.processor())}, {precision}")
        for load, (documents, times) in LOADS.items():
            pairs, difference = [], 0.0
            for turn in range(turns + 1):
                first, second = (before, now) if turn % 2 else (now, before)
                taken = {side: side.rank(documents, times) for side in (first, second)}
                if turn:  # the first one warms up
                    pairs.append((taken[before][0], taken[now][0]))
                    old, new = taken[before][1], taken[now][1]
                    difference = max(difference, *(abs(old[place] - new[place]) for place in old))
            old_ms, new_ms = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
            ratios = sorted(old / new for old, new in pairs)
            typer.echo(
                f"{load}: before {old_ms:.3f} ms, now {new_ms:.3f} ms, ratio {statistics.median(ratios):.3f} "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f}), largest difference of scores {difference:.1e}"
            )
        imports = [(before.import_seconds(), now.import_seconds()) for _ in range(5)]
        old_s, new_s = (statistics.median(side) for side in zip(*imports, strict=True))
        typer.echo(f"import secondpass: before {old_s:.3f} s, now {new_s:.3f} s")


if __name__ == "__main__":
    app()
