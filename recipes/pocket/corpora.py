"""The collections the pocket model is trained and measured on, read from BEIR folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secondpass import corpora
from secondpass.corpora import named_file
from secondpass.errors import InvalidInput
from secondpass.evaluation import qrels
from secondpass.evaluation.qrels import Qrels, qrels_file
from secondpass.training.data.sources import read_delimited_rows

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
    """Documents of one collection, in file order; `texts` begin with the title."""

    name: str
    ids: list[str]
    texts: list[str]
    titles: list[str]

    def index(self) -> dict[str, int]:
        return {identifier: row for row, identifier in enumerate(self.ids)}

    def body(self, row: int) -> str:
        """The text without its title; the whole text where there is nothing else."""
        return self.texts[row][len(self.titles[row]) :].strip() or self.texts[row]


def read_corpus(data: Path, name: str) -> Corpus:
    documents = list(corpora.read_corpus(data / name))
    return Corpus(
        name,
        [document.id for document in documents],
        [document.content for document in documents],
        [document.title for document in documents],
    )


def read_queries(data: Path, name: str) -> dict[str, str]:
    return corpora.read_queries(named_file(data / name, "queries.jsonl"))


def read_qrels(data: Path, name: str, split: str) -> Qrels:
    return qrels.read_qrels(qrels_file(data / name, split))


def read_claims(data: Path) -> tuple[Corpus, list[str]]:
    """Evidence sentences of climate-fever's training part, and the claims they belong to."""
    rows = []
    for row in read_delimited_rows(data / "pairs" / "climate-fever" / "train.tsv", "\t", quoted=False):
        if isinstance(row, InvalidInput):
            raise row
        rows.append(row.values)
    evidence = list(dict.fromkeys(row["sentence1"] for row in rows))
    claims = list(dict.fromkeys(row["sentence2"] for row in rows))
    return Corpus("climate", [str(i) for i in range(len(evidence))], evidence, [""] * len(evidence)), claims
