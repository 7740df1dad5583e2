"""Where the time of a ranking goes: stages, products against the machine's limit, and functions by `perf`."""

from __future__ import annotations

import re
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from benchmarks.inference import machine
from benchmarks.inference.compare import OURS
from benchmarks.inference.loads import Asked, Loads, Source
from benchmarks.inference.models import NOTES, RERANKERS, Shape, write_model
from benchmarks.inference.report import number, table
from benchmarks.inference.turns import HERE
from benchmarks.inference.worker import Place, Unavailable, Worker

HERTZ = 499
# What a function is for, by words of its name or of its library, the first that fits; a name has its templates, so the
# function's own part is asked before the library's.
PARTS: tuple[tuple[str, str], ...] = (
    ("attention", r"attention|attend|softmax|sdpa|flash"),
    ("products", r"feed_forward|project|linear|gemm|brgemm|sgemm|matmul|mkl|dnnl|oneDNN|jit_|amx|registers|multipl"),
    ("norms, activations", r"norm|gelu|silu|activat|rotat|rotary|vectorized|elementwise|copy|cat_|index|mul_|add_"),
    ("tokenising", r"tokenizers|onig"),
    ("waiting for the other thread", r"libgomp|libiomp|do_sched_yield|futex"),
    ("Python", r"libpython|python3"),
)
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Settings:
    """What `profile` was asked for."""

    precisions: tuple[str, ...]
    rounds: int
    documents: int
    threads: int
    work: Path


def flops(shape: Shape, lengths: Sequence[int], shared: int) -> dict[str, float]:
    """Floating-point operations that ranking one query needs, by part: nothing padded, nothing twice, one row last.

    Args:
        shape: of the model.
        lengths: tokens of each pair, template included.
        shared: of these, the first so many are equal for all pairs and are computed once (causal models only).
    """
    width, keys = shape.heads * shape.head, shape.key_heads * shape.head
    key_rows = 2 * 2 * shape.hidden * keys
    rest_rows = 2 * (shape.hidden * width * 2 + 3 * shape.hidden * shape.inner)
    tokens = shared + sum(length - shared for length in lengths)
    linear = (shape.layers - 1) * tokens * (key_rows + rest_rows) + tokens * key_rows + len(lengths) * rest_rows
    attention = 0.0
    for layer in range(shape.layers):
        last = layer == shape.layers - 1
        near = shape.global_every and layer % shape.global_every
        for pair, length in enumerate(lengths):
            if last:
                seen = float(min(length, shape.window // 2 + 1) if near else length)
            elif shape.template:  # each token sees those in front of it; what is shared asks once
                seen = (length * (length + 1) - (shared * (shared + 1) if pair else 0)) / 2
            else:
                seen = float(length * (min(length, shape.window + 1) if near else length))
            attention += 4.0 * width * seen
    return {"linear": float(linear), "attention": attention}


def profiled(name: str, text: Source, asked: Settings, say: Callable[[str], object]) -> Iterator[dict[str, Any]]:
    """Figures of a model at each precision: milliseconds a query, operations, and where samples of `perf` fell."""
    folder = asked.work / name
    write_model(name, folder)
    loads = Loads(text, folder)
    place = Place(str(folder), "cpu", asked.threads, str(asked.work), "")
    queries = loads.make("passage", asked.rounds + 1, asked.documents)
    shape = RERANKERS[name]
    found = [lengths_of(folder, one) for one in queries[1:]]
    needed = [flops(shape, lengths, shared if shape.template else 0) for lengths, shared in found]
    for contender in (one for one in OURS if one.precision in asked.precisions):
        with Worker(sys.executable, HERE, asked.threads, asked.work / "log") as worker:
            try:
                worker.make(contender, place)
                worker.rank(contender, queries[0].query, queries[0].documents)
                with Sampled(worker.process_id, asked.work / "perf.data") as samples:
                    seconds = [worker.rank(contender, one.query, one.documents)[0] for one in queries[1:]]
            except Unavailable as error:
                say(f"{name}, {contender.name}: {error}")
                continue
        say(f"{name}, {contender.name}: {1000 * statistics.median(seconds):.0f} ms a query")
        speeds = [sum(parts.values()) / taken for parts, taken in zip(needed, seconds, strict=True)]
        yield {
            "model": name,
            "precision": contender.precision,
            "ms": 1000 * statistics.median(seconds),
            "pairs_per_second": asked.documents / statistics.median(seconds),
            "gflop": statistics.median(sum(parts.values()) for parts in needed) / 1e9,
            "attention_share": statistics.median(parts["attention"] / sum(parts.values()) for parts in needed),
            "gflops": statistics.median(speeds) / 1e9,
            "parts": samples.parts(),
        }


def lengths_of(folder: Path, one: Asked) -> tuple[list[int], int]:
    """Tokens of each pair as they are read, and with how many of them all pairs begin."""
    from secondpass import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", precision="fp32")
    tokens = [item.ids for item in model.tokens([one.query] * len(one.documents), list(one.documents))]
    columns = zip(*tokens, strict=False)
    return [len(ids) for ids in tokens], sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


class Sampled:
    """Samples of a process by `perf record` inside a `with`; nothing where there is no perf, or it may not."""

    def __init__(self, process: int, path: Path) -> None:
        self._path = path
        self._perf = shutil.which("perf")
        self._process = process
        self._recording: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sampled:
        if self._perf is not None:
            command = [self._perf, "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "-o", str(self._path)]
            quietly = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self._recording = subprocess.Popen([*command, "-p", str(self._process)], **quietly)  # type: ignore[call-overload]
        return self

    def __exit__(self, *error: object) -> None:
        if self._recording is not None:
            self._recording.send_signal(signal.SIGINT)
            self._recording.wait()

    def parts(self) -> dict[str, float]:
        """Share of the samples by part, the largest first; empty where there are none."""
        return by_part(self.lines())

    def lines(self) -> list[str]:
        """Lines "12.3%|library|[.] function" of `perf report`; none where there are no samples."""
        if self._perf is None or not self._path.exists():
            return []
        command = [self._perf, "report", "-i", str(self._path), "--stdio", "-F", "overhead,dso,sym", "-t", "|"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return shown.splitlines()


def functions(lines: Sequence[str]) -> Iterator[tuple[float, str, str]]:
    """Share, library and function of lines of `perf report`."""
    for line in lines:
        read = re.match(r"\s*([\d.]+)%\s*\|([^|]*)\|(.*)", line)
        if read is not None:
            yield float(read[1]) / 100, read[2].strip(), read[3]


def by_part(lines: Sequence[str]) -> dict[str, float]:
    """Lines of `perf report` to shares by part, the largest first."""
    found: dict[str, float] = {}
    for share, library, function in functions(lines):
        # torch's loops over elements are one function, made for what is done to each
        words = (own_name(function), function if "torch" in library else "", library)
        part = next((name for word in words for name, known in PARTS if re.search(known, word, re.I)), OTHER)
        found[part] = found.get(part, 0.0) + share
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def own_name(function: str) -> str:
    """A function's name without what it is a template of: `linear` is called for the feed-forward and for others."""
    bare = re.sub(r"\(anonymous namespace\)::|secondpass::", "", function)
    while (shorter := re.sub(r"<[^<>]*>", "", bare)) != bare:
        bare = shorter
    return bare


def markdown(found: dict[str, Any]) -> str:
    """A table of speeds, and for each model and precision where the samples fell."""
    limit = found["limit"]
    parts = [] if found["warning"] is None else [found["warning"]]
    told = "not measured: no C++ compiler" if limit is None else f"{limit:,.0f} GFLOP/s"
    parts.append(f"{machine.in_words(found['machine'])}. Limit of float32 multiply-adds, registers only: {told}.")
    head = ("", "", "ms a query", "pairs/s", "GFLOP a query", "of it attention", "GFLOP/s", "of the float32 limit")
    lines = []
    for row in found["rows"]:
        speed = [number(row["ms"]), number(row["pairs_per_second"], 1), number(row["gflop"], 1)]
        share = "" if limit is None else f"{100 * row['gflops'] / limit:.0f} %"
        attention = f"{100 * row['attention_share']:.0f} %"
        lines.append([row["model"], row["precision"], *speed, attention, number(row["gflops"]), share])
    parts.append(table(head, lines))
    names = list(dict.fromkeys(name for row in found["rows"] for name in row["parts"]))
    if names:
        shares = [
            [f"{row['model']} {row['precision']}", *(f"{100 * row['parts'].get(name, 0):.0f} %" for name in names)]
            for row in found["rows"]
        ]
        parts.append(f"Processor time by part (`perf`, {HERTZ} samples a second):")
        parts.append(table(["", *names], shares))
    parts += [f"- {name}: {NOTES[name]}" for name in dict.fromkeys(row["model"] for row in found["rows"])]
    return "\n\n".join(parts) + "\n"
