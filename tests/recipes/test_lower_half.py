"""Rules of the recipe's third stage: which sentences are judged against each other, and which weights change."""

from __future__ import annotations

from pathlib import Path

from recipes.pocket.corpora import read_corpus
from recipes.pocket.lower_half import DRAWS, judged_groups, lower_half
from secondpass import CrossEncoder


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


def test_the_lower_half_is_the_embeddings_and_three_layers() -> None:
    """Of the embedded model, whose names they are; upper layers, pooler and head are not in it."""
    model = CrossEncoder("secondpass/pocket", device="cpu").model
    lower = ("bert.embeddings.", *(f"bert.encoder.layer.{number}." for number in range(3)))
    assert lower_half(model) == {name for name, _ in model.named_parameters() if name.startswith(lower)}
