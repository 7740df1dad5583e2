"""Rules of the recipe's third stage: which sentences are judged against each other, and which weights change."""

from __future__ import annotations

from pathlib import Path

import torch

from recipes.pocket.corpora import read_corpus
from recipes.pocket.lower_half import DRAWS, Change, judged_groups, with_lower_changes


def test_a_group_is_one_right_sentence_among_judged_wrong_ones(tmp_path: Path) -> None:
    """As often as asked for; a question without both kinds is left out."""
    folder = tmp_path / "trecqa"
    (folder / "qrels").mkdir(parents=True)
    documents = [f'{{"_id": "{number}", "title": "", "text": "sentence {number}"}}' for number in range(12)]
    (folder / "corpus.jsonl").write_text("\n".join(documents))
    (folder / "queries.jsonl").write_text("\n".join(f'{{"_id": "{name}", "text": "what is {name}"}}' for name in "ab"))
    rows = ["query-id\tcorpus-id\tscore", "a\t0\t1", "a\t1\t1", *(f"a\t{row}\t0" for row in range(2, 6)), "b\t9\t1"]
    (folder / "qrels" / "train.tsv").write_text("\n".join(rows) + "\n")
    groups = judged_groups(tmp_path, read_corpus(tmp_path, "trecqa"))
    assert len(groups) == DRAWS
    for group in groups:
        assert group.query == "what is a"
        assert group.labels == (1.0, 0.0, 0.0, 0.0, 0.0)
        assert group.documents[0] in {"sentence 0", "sentence 1"}
        assert set(group.documents[1:]) == {f"sentence {row}" for row in range(2, 6)}


def test_only_the_lower_half_changes_by_the_shares() -> None:
    """Embeddings and layers 0 to 2 get the sum; upper layers, the head and what is no number stay."""
    names = [
        "bert.embeddings.word_embeddings.weight",
        "bert.encoder.layer.2.output.dense.weight",
        "bert.encoder.layer.3.output.dense.weight",
        "classifier.weight",
    ]
    start = {name: torch.ones(2) for name in names} | {"bert.embeddings.position_ids": torch.arange(2)}
    up, down = ({name: tensor + step for name, tensor in start.items()} for step in (2, 4))
    made = with_lower_changes(start, Change(up, 1.0), Change(down, -0.25))
    assert [made[name][0].item() for name in names] == [2.0, 2.0, 1.0, 1.0]
    assert made["bert.embeddings.position_ids"].tolist() == [0, 1]
    assert all(tensor.tolist() == [1.0, 1.0] for name, tensor in start.items() if name in names)
