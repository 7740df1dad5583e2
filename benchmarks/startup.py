"""What a start costs: size on disk, cold start to the first ranking, memory, and the service at rest.

    python -m benchmarks.startup compare --output-dir figures
    python -m benchmarks.startup compare --before older/bin/python --fresh fresh

Whole processes in turns, each of which ranks ten documents once with the embedded model's weights: secondpass in an
environment without torch, FlashRank's way (tokenizers and onnxruntime, one batch padded to the longest) on what
`secondpass export` writes, sentence-transformers, which does not read the comparison of texts, on the encoder under a
plain head, and an older build where `--before` names an interpreter that has one. secondpass computes as the embedded
model recommends ("auto"), the others in float32. Wall time ends when the process has told its ranking; processor time
and the largest memory are its own at that moment. In a first start no packed weights are cached; nothing else is cold:
every program has run before. Environments are links to what is installed here (`benchmarks.environments`), or made by
pip with `--fresh`.
Needs the extra test.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import environments
from benchmarks.inference import machine
from benchmarks.inference.__main__ import Output, Threads, say, write
from benchmarks.inference.report import number, table
from benchmarks.service import by_service, questions, resident_mb, service

CORES = os.cpu_count() or 1
POCKET = "secondpass/pocket"
# What pip is asked for, by what the environment is for.
FLASHRANK = ("numpy", "onnxruntime", "tokenizers")
SENTENCE_TRANSFORMERS = ("sentence-transformers",)
AGREE = 0.06  # the embedded model takes bfloat16 where it is faster, and a score is at most 1
MB = 1e6

HEAD = """
import json, resource, sys
asked = json.loads(sys.argv[2])
def told(scores):
    used = resource.getrusage(resource.RUSAGE_SELF)
    status = open("/proc/self/status").read()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    heavy = sorted({"torch", "transformers", "onnxruntime"} & set(sys.modules))
    cpu_s = used.ru_utime + used.ru_stime
    print(json.dumps({"scores": scores, "cpu_s": cpu_s, "peak": peak, "has": heavy}), flush=True)
"""
OURS = """
from secondpass import CrossEncoder
hits = CrossEncoder(sys.argv[1]).rank(asked["query"], asked["documents"])
told([float(hit["score"]) for hit in sorted(hits, key=lambda hit: hit["corpus_id"])])
"""
THEIRS = """
from sentence_transformers import CrossEncoder
hits = CrossEncoder(sys.argv[1], device="cpu").rank(asked["query"], asked["documents"])
told([float(hit["score"]) for hit in sorted(hits, key=lambda hit: hit["corpus_id"])])
"""
SESSION = """
import numpy as np, onnxruntime
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
tokenizer.enable_truncation(512)
tokenizer.enable_padding()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = asked["threads"]
session = onnxruntime.InferenceSession(sys.argv[1] + "/model.onnx", options, providers=["CPUExecutionProvider"])
found = tokenizer.encode_batch([(asked["query"], text) for text in asked["documents"]])
columns = {"input_ids": [one.ids for one in found], "token_type_ids": [one.type_ids for one in found],
           "attention_mask": [one.attention_mask for one in found]}
names = [given.name for given in session.get_inputs()]
logits = session.run(None, {name: np.array(columns[name], dtype=np.int64) for name in names})[0][:, 0]
told((1 / (1 + np.exp(-logits))).tolist())
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Contender:
    """A program that ranks once: by which interpreter, with which model; `first` without any packed weights kept.

    `alike`: its scores must be those of the others.
    """

    name: str
    python: str
    program: str
    model: str
    first: bool = False
    alike: bool = True


@dataclass(slots=True)
class Started:
    """Seconds of wall and processor time and the largest memory in bytes, of each process; the scores of the last."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    has: list[str] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Medians."""
        return {
            "wall_s": statistics.median(self.wall_s),
            "cpu_s": statistics.median(self.cpu_s),
            "peak_mb": statistics.median(self.peak) / MB,
            "imports": self.has,
        }


def start(contender: Contender, asked: dict[str, Any], cache: Path, into: Started) -> None:
    """One process, from its start to its ranking.

    Raises:
        RuntimeError: it failed.
    """
    if contender.first:
        shutil.rmtree(cache, ignore_errors=True)
    own = {"OMP_NUM_THREADS": str(asked["threads"]), "HF_HUB_OFFLINE": "1", "SECONDPASS_CACHE": str(cache)}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    command = [contender.python, "-c", HEAD + contender.program, contender.model, json.dumps(asked)]
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, cwd=cache.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101
        line = process.stdout.readline()
        wall = time.perf_counter() - began
        _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{contender.name} failed:\n{errors}")
    told = json.loads(line)
    into.wall_s.append(wall)
    into.cpu_s.append(told["cpu_s"])
    into.peak.append(told["peak"])
    into.scores, into.has = told["scores"], told["has"]


def in_turns(contenders: Sequence[Contender], rounds: int, threads: int, work: Path) -> dict[str, Started]:
    """Every contender once unmeasured, then all of them one after the other, `rounds` times.

    Raises:
        RuntimeError: one failed, or ranks otherwise than the first.
    """
    (one,) = questions(1, 10)
    asked = {"query": one.query, "documents": list(one.documents), "threads": threads}
    for contender in contenders:
        start(contender, asked, work / "packed", Started())
    made = {contender.name: Started() for contender in contenders}
    for turn in range(rounds):
        say(f"starts, turn {turn + 1} of {rounds}")
        for contender in contenders:
            start(contender, asked, work / "packed", made[contender.name])
    reference = next(iter(made.values())).scores
    for name, found in ((one.name, made[one.name]) for one in contenders if one.alike):
        if max(abs(a - b) for a, b in zip(found.scores, reference, strict=True)) > AGREE:
            raise RuntimeError(f"{name} gives {found.scores}, not {reference}")
    return made


def serving(pythons: dict[str, str], rounds: int, threads: int, clients: int) -> dict[str, dict[str, float]]:
    """Memory of the service at rest and pairs per second of its clients, a service of each interpreter in turns."""
    asked = questions(2 * clients, 100)
    rest: dict[str, list[float]] = {name: [] for name in pythons}
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    for turn in range(rounds):
        for name, python in pythons.items():
            say(f"service, turn {turn + 1} of {rounds}: {name}")
            with service(POCKET, threads, python) as (host, port, pid):
                time.sleep(1.0)
                rest[name].append(resident_mb(pid) * 2**20 / MB)
                by_service(host, port, asked[:clients], clients)
                seconds = min(by_service(host, port, asked, clients)[0] for _ in range(2))
                rates[name].append(sum(len(one.documents) for one in asked) / seconds)
    return {
        name: {"rest_mb": statistics.median(rest[name]), "pairs_per_second": statistics.median(rates[name])}
        for name in pythons
    }


def sizes() -> dict[str, float]:
    """MB on disk of everything that pip brings, without bytecode, by what it is asked for."""
    ours = {
        f"secondpass{f'[{extra}]' if extra else ''}": environments.size(environments.declared([extra] if extra else ()))
        + environments.own_size()
        for extra in ("", "haystack", "serve", "torch")
    }
    theirs = {"sentence-transformers": SENTENCE_TRANSFORMERS, "onnxruntime and tokenizers": FLASHRANK}
    return {
        name: size / MB for name, size in (ours | {name: environments.size(a) for name, a in theirs.items()}).items()
    }


def by_pip(folder: Path, asked: Sequence[str]) -> tuple[str, dict[str, float]]:
    """A fresh environment with what pip installs; its interpreter, and MB on disk before and after, bytecode apart."""

    def taken() -> tuple[float, float]:
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        both = [[file for file in files if (file.suffix == ".pyc") is compiled] for compiled in (False, True)]
        plain, compiled = (sum(file.stat().st_blocks * 512 for file in part) / MB for part in both)
        return plain, compiled

    say(f"pip installs {' '.join(asked)}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = str(folder / "bin" / "python")
    before = taken()
    subprocess.run([python, "-m", "pip", "install", "--quiet", *asked], check=True, cwd=environments.ROOT)
    after = taken()
    return python, {
        "whole": sum(after), "of it bytecode": after[1], "of it the empty environment": sum(before),
        "installed without bytecode": after[0] - before[0],
    }  # fmt: skip


def interpreters(work: Path, fresh: Path | None) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """Interpreters of environments without torch and of onnxruntime's; and what they take where pip made them."""
    if fresh is None:
        served = environments.declared(["serve"])
        return {
            "secondpass": str(environments.make(work / "small", served)),
            "flashrank": str(environments.make(work / "session", FLASHRANK, sources=False)),
        }, {}
    wanted = {
        "secondpass": ["."], "secondpass[haystack]": [".[haystack]"], "secondpass[serve]": [".[serve]"],
        "flashrank": [*FLASHRANK],
    }  # fmt: skip
    made = {name: by_pip(fresh / f"{number}", asked) for number, (name, asked) in enumerate(wanted.items())}
    return {name: python for name, (python, _) in made.items()}, {name: size for name, (_, size) in made.items()}


def export(work: Path) -> tuple[str, str]:
    """The embedded model's encoder under a plain head, as sentence-transformers reads it; and all of it as ONNX."""
    from benchmarks.inference.models import write_model
    from secondpass import CrossEncoder

    write_model("pocket", work / "copy")
    CrossEncoder(POCKET, precision="fp32").export_onnx(str(work / "onnx"))
    return str(work / "copy"), str(work / "onnx")


@app.callback()
def commands() -> None:
    """What a start costs."""


@app.command()
def compare(
    before: Annotated[str | None, typer.Option(help="Interpreter that has an older build of secondpass.")] = None,
    python: Annotated[str | None, typer.Option(help="Interpreter with this one; without it one is made.")] = None,
    theirs: Annotated[str, typer.Option(help="Interpreter with sentence-transformers.")] = sys.executable,
    fresh: Annotated[Path | None, typer.Option(help="Folder of environments that pip makes.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of each contender.")] = 7,
    services: Annotated[int, typer.Option(min=0, help="Services of each build.")] = 3,
    clients: Annotated[int, typer.Option(min=1, help="Of a service.")] = 16,
    threads: Threads = CORES,
    output_dir: Output = None,
) -> None:
    """Measure all of it in turns."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    given = machine.cores_given(threads)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        copy, onnx = export(work)
        known, installed = interpreters(work, fresh)
        ours = python or known["secondpass"]
        contenders = [
            Contender("secondpass, first start", ours, OURS, POCKET, first=True),
            Contender("secondpass, second start", ours, OURS, POCKET),
            Contender("FlashRank's way, ONNX fp32", known["flashrank"], SESSION, onnx),
            Contender("sentence-transformers", theirs, THEIRS, copy, alike=False),
        ]
        pythons = {"secondpass": python or known.get("secondpass[serve]", ours)}
        if before is not None:
            # its package may have an earlier edition of the model
            contenders.append(Contender("secondpass before", before, OURS, POCKET, alike=False))
            pythons["secondpass before"] = before
        started = in_turns(contenders, rounds, threads, work)
        served = serving(pythons, services, threads, clients) if services else {}
    found = {
        **machine.seen(given, threads, "cpu"),
        "rounds": rounds,
        "clients": clients,
        "sizes_mb": sizes(),
        "installed_mb": installed,
        "starts": {name: one.row() for name, one in started.items()},
        "services": served,
    }
    write(found, markdown(found), "startup", output_dir)


def markdown(found: dict[str, Any]) -> str:
    """Three tables."""
    lines = [
        machine.in_words(found["machine"]), "", f"Medians of {found['rounds']} processes in turns, to a ranking of ten "
        "documents with the embedded model's weights: secondpass as the model recommends (\"auto\"), the others in "
        "float32.", "",
    ]  # fmt: skip
    starts = [
        [name, number(row["cpu_s"], 2), number(row["wall_s"], 2), number(row["peak_mb"]), ", ".join(row["imports"])]
        for name, row in found["starts"].items()
    ]
    lines += [table(("", "processor s", "wall s", "peak MB", "imports"), starts), ""]
    rows = [[name, number(size)] for name, size in found["sizes_mb"].items()]
    lines += ["What pip brings, without bytecode:", "", table(("", "MB on disk"), rows), ""]
    if found["installed_mb"]:
        names = tuple(next(iter(found["installed_mb"].values())))
        rows = [[name, *(number(row[part]) for part in names)] for name, row in found["installed_mb"].items()]
        lines += ["Fresh environments, MB on disk:", "", table(("", *names), rows), ""]
    if found["services"]:
        rows = [
            [name, number(row["rest_mb"]), number(row["pairs_per_second"])] for name, row in found["services"].items()
        ]
        columns = ("", "MB at rest", f"pairs/s of {found['clients']} clients")
        lines += ["The service:", "", table(columns, rows), ""]
    lines.append(machine.cores_in_words(found["cores_before"], found["cores_after"], found["machine"]["threads"]))
    return "\n".join([*lines, *([found["warning"]] if found["warning"] else [])]) + "\n"


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] != "--help" and sys.argv[1].startswith("-"):
        sys.argv.insert(1, "compare")  # without a command it compares
    app()
