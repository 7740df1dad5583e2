"""Questions that a help centre answers and such that it does not: which of them `secondpass ask` answers.

    python -m benchmarks.answers

Three commands, as a user would give them, on the packaged demo's articles: BM25's candidates of eighty questions, a
calibration of the embedded model on them, and `ask` for forty other questions with that calibration, by the packaged
rag_extractive with as many candidates. An article answers half of the questions, asked in a reader's words; the other
half readers of such a help centre ask too, and no article answers. All were written for this, after the articles, and
those of the test before anything was run on any of them. Needs the extras haystack and tune.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from secondpass_pipelines.pipeline_files import pipeline_file

QUESTIONS = Path(__file__).with_name("answers.jsonl")
DEMO, DEPTH = "secondpass/demo", 100
# Bars: of the twenty questions without an answer so many are refused, of the others so many are answered.
REFUSED, KEPT = 16, 16


def secondpass(*arguments: str | Path | int) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "secondpass.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout


def write_labels(file: Path, questions: list[dict[str, Any]], run: Path) -> None:
    """Judgements: the article that answers, and of a question without one that the best candidate does not."""
    first: dict[str, str] = {}
    for line in run.read_text(encoding="utf-8").splitlines():
        query, _, document, *_ = line.split()
        first.setdefault(query, document)
    rows = [
        f"{one['_id']} 0 {one['answer'] or first[one['_id']]} {int(one['answer'] is not None)}\n" for one in questions
    ]
    file.write_text("".join(rows), encoding="utf-8")


def asked(folder: Path, questions: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """What `calibrate` says of its part of the questions, and what `ask` gives for each of the others."""
    parts: dict[str, Path] = {}
    for name in ("calibration", "test"):
        parts[name] = folder / f"{name}.jsonl"
        own = [json.dumps(one) + "\n" for one in questions if one["part"] == name]
        parts[name].write_text("".join(own), encoding="utf-8")
    told, run, file = folder / "labels.txt", folder / "found.retriever.trec", folder / "calibration.json"
    known = parts["calibration"]
    secondpass(
        "search", "-p", "rerank_bm25", "-c", DEMO, "--queries", known, "--depth", DEPTH, "-o", folder / "found.trec"
    )
    write_labels(told, [one for one in questions if one["part"] == "calibration"], run)
    fit = ("--run", run, "--depth", DEPTH, "--corpus", DEMO, "--queries", known)
    said = secondpass("calibrate", told, *fit, "-o", file)
    pipeline = folder / "rag.yaml"
    data = yaml.safe_load(pipeline_file("rag_extractive").read_text(encoding="utf-8"))
    data["components"]["retriever"]["init_parameters"]["top_k"] = DEPTH
    pipeline.write_text(yaml.safe_dump(data), encoding="utf-8")
    lines = secondpass("ask", "-p", pipeline, "-c", DEMO, "--queries", parts["test"], "--calibration", file, "--json")
    return said, [json.loads(line) for line in lines.splitlines()]


def main() -> None:
    """Ask, print a row for each question, and fail where a bar is not reached."""
    questions = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        said, found = asked(Path(folder), questions)
    table = Table("question", "answered by", "ask says", box=None, pad_edge=False)
    refused = kept = right = 0
    for question, line in zip([one for one in questions if one["part"] == "test"], found, strict=True):
        best = line["answers"][0] if line["answers"] else None
        refused += question["answer"] is None and best is None
        kept += question["answer"] is not None and best is not None
        right += best is not None and question["answer"] in best["sources"]
        told = "no answer" if best is None else f"{best['sources'][0]}: {best['text']}"
        table.add_row(question["text"], question["answer"] or "-", told)
    console = Console(highlight=False, markup=False, width=200)
    console.print(table)
    console.print(said.strip(), soft_wrap=True)
    answerable = sum(one["part"] == "test" and one["answer"] is not None for one in questions)
    console.print(
        f"Refused {refused} of {len(found) - answerable} questions without an answer; answered {kept} of the "
        f"{answerable} others, {right} of them in the words of the article that has the answer.",
        soft_wrap=True,
    )
    if refused < REFUSED or kept < KEPT:
        sys.exit(f"below the bars: {REFUSED} refused and {KEPT} answered")


if __name__ == "__main__":
    typer.run(main)
