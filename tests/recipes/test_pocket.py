"""Rules of the recipe that makes the embedded model: its vocabulary, what groups show, the finished folder."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipes.pocket import evaluate, finish
from recipes.pocket.build import Window, kept_tokens, new_model
from recipes.pocket.candidates import FirstPass, nearest_rows
from recipes.pocket.corpora import TEST_SETS
from recipes.pocket.finish import bits_of, write_folder, write_stage
from recipes.pocket.stages import PACKAGE
from secondpass import CrossEncoder
from secondpass.models.building import compressed, expanded
from secondpass.models.weights import COMPACT
from secondpass.training.data.groups import Teaching
from secondpass.training.distillation.vocabulary import smaller_tokenizer
from tests.tiny_models import WORDS


@pytest.fixture
def tokenizer(tiny_folder: str) -> Tokenizer:
    """The tokenizer of the tiny model."""
    return Tokenizer.from_str(AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer.to_str())


def test_the_smaller_vocabulary_reads_the_same_words(tiny_folder: str, tokenizer: Tokenizer) -> None:
    """Kept words keep their vectors, lost words fall apart into kept pieces, the template stays; the head is new."""
    size = len(tokenizer.get_vocab()) - 12
    texts = ["the cat sat on the mat"] * 3 + ["zebra"]
    small = smaller_tokenizer(tokenizer, kept_tokens(tokenizer, texts, size, general=10))
    assert len(small.get_vocab()) == size
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} < set(small.get_vocab())
    assert small.encode(texts[0]).tokens == tokenizer.encode(texts[0]).tokens
    model = new_model(Path(tiny_folder), small)
    full = AutoModelForSequenceClassification.from_pretrained(tiny_folder)
    rows = [made.get_input_embeddings().weight for made in (model, full)]
    assert torch.equal(rows[0][small.token_to_id("cat")], rows[1][tokenizer.token_to_id("cat")])
    assert (model.config.vocab_size, model.config.num_labels) == (size, 1)
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.0


def test_a_smaller_window_is_what_the_model_would_have_read(tiny_folder: str, tokenizer: Tokenizer) -> None:
    """Cut between tokens: the large window reads of the cut text what the small one reads of the whole."""
    rng = random.Random(1)
    query = "where is the cat"
    documents = [
        " ".join(rng.choice([*WORDS, "unhappily", "x-ray,"]) for _ in range(rng.randint(1, 60))) for _ in range(30)
    ]
    shown = Window(tokenizer).shown(query, documents, 24)
    whole = CrossEncoder(tiny_folder, device="cpu", max_length=24).tokens([query] * 30, documents)
    cut = CrossEncoder(tiny_folder, device="cpu").tokens([query] * 30, shown)
    assert [item.ids.tolist() for item in cut] == [item.ids.tolist() for item in whole]
    assert all(item.cut is None for item in cut)
    assert any(text != document for text, document in zip(shown, documents, strict=True))


def test_a_text_stands_once_in_a_group(tokenizer: Tokenizer) -> None:
    """Of equal texts the relevant one stays, with its own score; blank ones go; one text is no group."""
    window = Window(tokenizer)
    teaching = Teaching((1.0, 2.0, 3.0, 4.0), 0.5, 0.25)
    group = window.group("a cat", ["the mat", "the mat", " ", "a dog"], [1], teaching, 64)
    assert group is not None
    assert (group.documents, group.labels) == (("the mat", "a dog"), (1.0, 0.0))
    assert group.teaching == Teaching((2.0, 4.0), 0.5, 0.25)
    assert window.group("a cat", ["the mat", "the mat"], [], Teaching((1.0, 2.0)), 64) is None


def test_the_first_pass_is_the_librarys_bm25() -> None:
    """The rows of the highest scores, best first; fewer than asked for where there are fewer texts."""
    rows, scores = FirstPass(["a cat on a mat", "dogs and cats", "nothing here"]).search(["cat mat", "dog"], depth=9)
    assert (rows.shape, rows[:, 0].tolist()) == ((2, 3), [0, 1])
    assert scores[0, 0] > scores[0, 1] > scores[0, 2] == 0


def test_the_nearest_are_those_of_the_highest_cosine() -> None:
    """Over blocks of documents, best first."""
    rng = np.random.default_rng(3)
    documents = rng.normal(size=(50, 8)).astype(np.float16)
    asked = rng.normal(size=(3, 8)).astype(np.float16)
    expected = np.argsort(-(asked.astype(np.float32) @ documents.astype(np.float32).T), axis=1)[:, :7]
    assert nearest_rows(asked, documents, 7).tolist() == expected.tolist()


def test_the_finished_folder_recommends_the_fast_path(tiny_folder: str, tmp_path: Path) -> None:
    """config.json says so, and the folder loads."""
    model, source = AutoModelForSequenceClassification.from_pretrained(tiny_folder).eval(), Path(tiny_folder)
    write_folder(model, source / "tokenizer.json", tmp_path)
    encoder = CrossEncoder(str(tmp_path), device="cpu")
    assert encoder.precision == "auto"
    given = encoder.predict([("the cat", "the mat")], activation_fct=torch.nn.Identity())
    whole = CrossEncoder(tiny_folder, device="cpu")
    whole.model.load_state_dict(expanded(compressed(model.state_dict(), bits_of(model.state_dict()))))
    expected = whole.predict([("the cat", "the mat")], activation_fct=torch.nn.Identity())
    assert given == pytest.approx(expected, abs=0.1)


def test_a_finished_folder_is_replaced_whole(tiny_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped writing leaves the model that was there, the next one sweeps up; what others put there stays."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder)
    tokenizer, folder = Path(tiny_folder) / "tokenizer.json", tmp_path / "pocket"
    write_folder(model, tokenizer, folder)
    (folder / "README.md").write_text("The card.")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def stopped(target: Path, *_: object) -> None:
        (target / COMPACT).write_bytes(b"half")
        raise KeyboardInterrupt

    with torch.no_grad():
        model.classifier.bias += 1
    with monkeypatch.context() as patched:
        patched.setattr(finish, "save_compact", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_folder(model, tokenizer, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    write_folder(model, tokenizer, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pocket"]
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert [name for name in before if after.pop(name) != before[name]] == [COMPACT]
    assert not after
    bias = CrossEncoder(str(folder), device="cpu").model.classifier.bias
    assert torch.equal(bias, model.classifier.bias.half().float())


def test_figures_are_of_as_many_queries_as_the_card_says() -> None:
    """Its table has a row for each test set, "528 of 10,570" where not all are measured."""
    card = (PACKAGE / "pocket" / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| ([\d,]+(?: of [\d,]+)?) \|", card, re.MULTILINE))
    assert tuple(rows) == TEST_SETS
    assert {name: int(shown.split()[0]) for name, shown in rows.items() if "of" in shown} == evaluate.TEST_QUERIES


def test_a_stage_is_there_whole_or_not_at_all(tiny_folder: str, tmp_path: Path) -> None:
    """What an interrupted writing left is swept away, and the folder loads in float32."""
    (tmp_path / "second.partial").mkdir()
    (tmp_path / "second.partial" / "model.safetensors").write_bytes(b"half")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_folder)
    write_stage(model, Path(tiny_folder) / "tokenizer.json", tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["second"]
    made = CrossEncoder(str(tmp_path / "second"), device="cpu").model.state_dict()
    assert all(torch.equal(weight, made[name]) for name, weight in model.state_dict().items())
