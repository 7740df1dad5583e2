"""Five documents, four queries and their judgements in BEIR's form: what any search can be tried on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

CORPUS = [
    {"_id": "d1", "title": "Password", "text": "Reset the password of your account in the second step."},
    {"_id": "d2", "title": "", "text": "The cat sat on the mat and sat on the hat."},
    {"_id": "d3", "title": "Paris", "text": "The capital of France is a big city on a river."},
    {"_id": "d4", "title": "Train", "text": "Where to order a train to Paris and what it costs."},
    {"_id": "d5", "title": "Bank", "text": "Open a bank account and delete the second account."},
]
QUERIES = [
    {"_id": "q1", "text": "reset my password"},
    {"_id": "q2", "text": "train to the capital of France"},
    {"_id": "q3", "text": "delete a bank account"},
    {"_id": "unjudged", "text": "cat on a hat"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq2\td3\t1\nq2\td4\t2\nq3\td5\t1\nq3\td2\t0\nunjudged\td2\t0\n"


def write_beir(folder: Path) -> Path:
    """Write the collection as a BEIR folder, split "test", and return the folder."""
    (folder / "qrels").mkdir(parents=True)
    write_json_lines(folder / "corpus.jsonl", CORPUS)
    write_json_lines(folder / "queries.jsonl", QUERIES)
    (folder / "qrels" / "test.tsv").write_text(QRELS, encoding="utf-8")
    return folder


def write_json_lines(path: Path, rows: Sequence[object]) -> Path:
    """Write a JSON Lines file and return its path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
