"""All collections that the recipe reads, a few dozen made-up texts each, in BEIR's layout."""

from __future__ import annotations

import random
from pathlib import Path

from recipes.pocket.corpora import TRAINING_CORPORA
from tests.small_collection import write_json_lines
from tests.tiny_models import WORDS

DOCUMENTS, QUERIES = 24, 12
PLAIN = [word for word in WORDS if len(word) > 2]


def write_all(data: Path) -> Path:
    """Documents of four sentences; each query has the words of one of them, and the splits share the queries."""
    for number, name in enumerate(TRAINING_CORPORA):
        rng = random.Random(number)
        documents = [_document(f"{name}{row}", rng) for row in range(DOCUMENTS)]
        (data / name / "qrels").mkdir(parents=True)
        write_json_lines(data / name / "corpus.jsonl", documents)
        asked = [(f"q{row}", " ".join(documents[row]["text"].split()[:5])) for row in range(QUERIES)]
        write_json_lines(data / name / "queries.jsonl", [{"_id": query, "text": text} for query, text in asked])
        lines = ["query-id\tcorpus-id\tscore"]
        for row in range(QUERIES):
            lines += [f"q{row}\t{name}{row}\t1", *(f"q{row}\t{name}{row + step}\t0" for step in range(1, 6))]
        for split in ("train", "dev", "test"):
            (data / name / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = data / "pairs" / "climate-fever"
    pairs.mkdir(parents=True)
    rng = random.Random(99)
    rows = [f"{_sentence(rng)}\t{_sentence(rng)}\t1" for _ in range(DOCUMENTS)]
    (pairs / "train.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]) + "\n", encoding="utf-8")
    return data


def _document(name: str, rng: random.Random) -> dict[str, str]:
    return {"_id": name, "title": " ".join(rng.sample(PLAIN, 3)), "text": " ".join(_sentence(rng) for _ in range(4))}


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(PLAIN) for _ in range(9)) + "."
