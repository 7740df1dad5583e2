"""The collections the pocket model is trained and measured on, read from BEIR folders."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# Text of these is read without labels; of TRAIN_QRELS the named split's judgements too.
TRAINING_CORPORA = (
    "squad",
    "medquad",
    "trecqa",
    "stackfaq",
    "lisa",
    "cacm",
    "cranfield",
    "time",
    "nq-gold",
    "pubmedqa",
)
TRAIN_QRELS = {"squad": "train", "medquad": "train", "trecqa": "train"}
UNLABELLED_QUERIES = ("nq-gold", "pubmedqa")
TEST_SETS = ("squad", "trecqa", "medquad", "stackfaq", "cranfield", "cacm", "lisa", "time")


@dataclass(frozen=True)
class Corpus:
    """Documents of one collection, in file order."""

    name: str
    ids: list[str]
    texts: list[str]
    titles: list[str]

    def index(self) -> dict[str, int]:
        return {identifier: row for row, identifier in enumerate(self.ids)}


def _open(path: Path) -> IO[str]:
    """Open `path`, or `path` + .gz: files above 2 MB are stored compressed."""
    if path.exists():
        return path.open(encoding="utf-8")
    return gzip.open(path.with_name(path.name + ".gz"), "rt", encoding="utf-8")


def full_text(title: str, text: str) -> str:
    """BEIR's convention: the title in front of the text."""
    return f"{title} {text}".strip()


def read_corpus(data: Path, name: str) -> Corpus:
    with _open(data / name / "corpus.jsonl") as lines:
        rows = [json.loads(line) for line in lines]
    return Corpus(
        name,
        [row["_id"] for row in rows],
        [full_text(row.get("title", ""), row["text"]) for row in rows],
        [row.get("title", "") for row in rows],
    )


def read_queries(data: Path, name: str) -> dict[str, str]:
    with _open(data / name / "queries.jsonl") as lines:
        return {row["_id"]: row["text"] for row in map(json.loads, lines)}


def read_qrels(data: Path, name: str, split: str) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    with _open(data / name / "qrels" / f"{split}.tsv") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    return qrels


def read_claims(data: Path) -> tuple[Corpus, list[str]]:
    """Evidence sentences of climate-fever's training part, and the claims they belong to."""
    with (data / "pairs" / "climate-fever" / "train.tsv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    evidence = list(dict.fromkeys(row["sentence1"] for row in rows))
    claims = list(dict.fromkeys(row["sentence2"] for row in rows))
    return Corpus("climate", [str(i) for i in range(len(evidence))], evidence, [""] * len(evidence)), claims
