"""All collections that the recipe reads, two dozen made-up texts each, in BEIR's layout; and its teachers, tiny."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import AutoModel

from recipes.pocket.corpora import DEVELOPMENT
from recipes.pocket.queries import ASKED, JUDGED, PASSAGES
from recipes.pocket.stages import MINI_UNITS
from recipes.pocket.teachers import TEACHERS
from tests.small_collection import write_json_lines
from tests.tiny_models import WORDS, make_folder

DOCUMENTS, QUERIES = 24, 12
PLAIN = [word for word in WORDS if len(word) > 2]
# Ids say more than a name in these.
PREFIXES = {"squad": ("tr",), "stackexchange": ("beer-", "coffee-"), "blog-usgov": ("page1-", "page2-", "page3-")}
# Pages of so many passages, one behind the other, are in these; the second is thinned by the recipe.
PAGED, PAGE = ("help-gnome", "factbook"), 6
LAYERS = {"minilm": 6}


def write_all(data: Path) -> Path:
    """Documents of four sentences; each query has the words of one of them, and the splits share the queries."""
    open_sets = ("boolq", "help-arduino", "docs-microsoft", "blog-usgov")
    names = {*PASSAGES, *JUDGED, *ASKED, "nq-gold", "adi", "trecqa", *(f"open/{name}" for name in open_sets)}
    for number, name in enumerate(sorted(names)):
        own = name.rpartition("/")[2]
        ids = [f"guide-{row // PAGE}-{row % PAGE}" for row in range(DOCUMENTS)] if own in PAGED else None
        _write_set(data / name, PREFIXES.get(own, ("d",)), random.Random(number), ids)
    claims = data / "pairs" / "climate-fever"
    claims.mkdir(parents=True)
    rng = random.Random(99)
    for split in ("train", "test"):
        said = [_sentence(rng) for _ in range(6)]
        rows = [f"{said[row % 6]}\t{' '.join(said[row // 4].split()[:6])}\t{label}" for row, label in enumerate(LABELS)]
        (claims / f"{split}.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *rows]) + "\n", encoding="utf-8")
    assert {"climate-fever"} == set(DEVELOPMENT) - {name.rpartition("/")[2] for name in names}
    return data


LABELS = ("entailment", "neutral", "neutral", "contradiction") * 5


def _write_set(folder: Path, prefixes: tuple[str, ...], rng: random.Random, ids: list[str] | None) -> None:
    ids = ids or [f"{prefixes[row % len(prefixes)]}{row}" for row in range(DOCUMENTS)]
    documents = [
        {"_id": name, "title": " ".join(rng.sample(PLAIN, 3)), "text": " ".join(_sentence(rng) for _ in range(4))}
        for name in ids
    ]
    (folder / "qrels").mkdir(parents=True)
    write_json_lines(folder / "corpus.jsonl", documents)
    asked = [f"{prefixes[row % len(prefixes)]}q{row}" for row in range(QUERIES)]
    texts = [" ".join(documents[row]["text"].split()[:5]) for row in range(QUERIES)]
    write_json_lines(
        folder / "queries.jsonl", [{"_id": name, "text": text} for name, text in zip(asked, texts, strict=True)]
    )
    lines = ["query-id\tcorpus-id\tscore"]
    for row, query in enumerate(asked):
        lines += [f"{query}\t{ids[row]}\t2", *(f"{query}\t{ids[row + step]}\t0" for step in range(1, 8))]
    # medquad's passages of other splits are not trained on: most of its queries are in train alone
    for split, kept in (("train", lines), ("dev", lines[:9]), ("test", lines[:9])):
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(kept) + "\n", encoding="utf-8")


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(PLAIN) for _ in range(9)) + "."


def write_teachers(work: Path) -> None:
    """Bi-encoders in the places of those that are fetched."""
    for number, spec in enumerate(TEACHERS):
        folder = make_folder(
            work / "teachers" / spec.name,
            "bert",
            seed=number,
            num_hidden_layers=LAYERS.get(spec.name, 2),
            intermediate_size=2 * MINI_UNITS,
        )
        whole = AutoModel.from_pretrained(folder, add_pooling_layer=False, dtype=torch.float32)
        (folder / "model.safetensors").unlink()
        whole.save_pretrained(folder)
