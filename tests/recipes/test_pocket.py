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
from recipes.pocket.build import LEAST, Window, new_model, student_tokenizer
from recipes.pocket.candidates import FirstPass, nearest_rows
from recipes.pocket.corpora import TEST_SETS
from recipes.pocket.finish import (
    WORD_BITS,
    Temperature,
    bits_of,
    calibrate,
    hold_words,
    round_words,
    write_folder,
    write_stage,
)
from recipes.pocket.stages import LOG, MODELS, PACKAGE, file_digest, logged
from secondpass import CrossEncoder
from secondpass.forwards.readout import ReadoutModel
from secondpass.models.building import compressed, expanded
from secondpass.models.folders import PACKAGED, folder_of
from secondpass.models.modules import LATE, WEIGHTS
from secondpass.models.weights import COMPACT, GROUP
from secondpass.training.data.groups import Teaching
from tests.tiny_models import WORDS, make_folder


@pytest.fixture
def tokenizer(tiny_folder: str) -> Tokenizer:
    """The tokenizer of the tiny model."""
    return Tokenizer.from_str(AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer.to_str())


TEXTS = [*["the cat sat on the mat"] * 30, "zebra"]


@pytest.fixture
def rules(tiny_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student's tokenizer, as a file."""
    file = tmp_path_factory.mktemp("student") / "tokenizer.json"
    full = Tokenizer.from_file(f"{tiny_folder}/tokenizer.json")
    student_tokenizer(Path(tiny_folder), TEXTS, file, len(full.get_vocab()) - 12, general=10)
    return file


@pytest.fixture
def model(tiny_folder: str, rules: Path) -> ReadoutModel:
    """The student before any training."""
    return new_model(Path(tiny_folder), Tokenizer.from_file(str(rules)), TEXTS * 10)


def test_the_smaller_vocabulary_reads_the_same_words(
    tiny_folder: str, tokenizer: Tokenizer, rules: Path, model: ReadoutModel
) -> None:
    """Kept words keep their vectors, lost words fall apart into kept pieces; the head is new."""
    small, size = Tokenizer.from_file(str(rules)), len(tokenizer.get_vocab()) - 12
    assert len(small.get_vocab()) == size
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} < set(small.get_vocab())
    assert small.encode(TEXTS[0]).tokens == tokenizer.encode(TEXTS[0]).tokens
    full = AutoModelForSequenceClassification.from_pretrained(tiny_folder)
    rows = [made.get_input_embeddings().weight for made in (model, full)]
    assert torch.equal(rows[0][small.token_to_id("cat")], rows[1][tokenizer.token_to_id("cat")])
    assert (model.config.vocab_size, model.config.num_labels) == (size, 1)
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.0


def test_a_pairs_texts_begin_alike(rules: Path) -> None:
    """Each with the first token, so that it is read as it is alone."""
    read = Tokenizer.from_file(str(rules)).encode("the cat", "the mat")
    assert read.tokens == ["[CLS]", "the", "cat", "[SEP]", "[CLS]", "the", "mat", "[SEP]"]
    assert read.type_ids == [0] * 4 + [1] * 4


def test_rare_words_count_more(rules: Path, model: ReadoutModel) -> None:
    """By the texts that they are in; what stands in each, and special tokens, count least."""
    counted, small = model.state_dict()["readout.0.importance"], Tokenizer.from_file(str(rules))
    counts = dict.fromkeys(("the", "zebra", "[SEP]"), 0.0)
    for word in counts:
        counts[word] = float(counted[small.encode(word, add_special_tokens=False).ids[0]].exp())
    assert counts["[SEP]"] == pytest.approx(LEAST)
    assert counts["the"] == pytest.approx(LEAST)
    assert counts["zebra"] > 10 * counts["the"]


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


def test_the_finished_folder_recommends_the_fast_path(rules: Path, model: ReadoutModel, tmp_path: Path) -> None:
    """config.json says so, and the folder loads: with all that was rounded, and nothing else changed."""
    write_stage(model, rules, tmp_path / "stage")
    write_folder(model, rules, tmp_path / "made")
    encoder, whole = (CrossEncoder(str(tmp_path / name), device="cpu") for name in ("made", "stage"))
    assert encoder.precision == "auto"
    assert isinstance(encoder.activation_fn, torch.nn.Sigmoid)
    given = encoder.predict([("the cat", "the mat")], activation_fct=torch.nn.Identity())
    body = whole.model.body
    body.load_state_dict(expanded(compressed(body.state_dict(), bits_of(body.state_dict()))))
    expected = whole.predict([("the cat", "the mat")], activation_fct=torch.nn.Identity())
    assert given == pytest.approx(expected, abs=0.1)
    assert not any(weight.any() for weight in encoder.model.body.pooler.parameters())
    encoder.save(str(tmp_path / "again"), storage="int8")
    again = CrossEncoder(str(tmp_path / "again"), device="cpu")
    assert again.predict([("the cat", "the mat")], activation_fct=torch.nn.Identity()) == pytest.approx(given, abs=0.1)


def test_words_are_rounded_before_training(rules: Path, tmp_path: Path) -> None:
    """To what is read back of the stored file; all else stays, and rounded once more nothing changes."""
    wide = make_folder(tmp_path, "bert", hidden_size=GROUP, num_attention_heads=4)
    model = new_model(wide, Tokenizer.from_file(str(rules)), TEXTS)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    round_words(model.body)
    after = model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["body.embeddings.word_embeddings.weight"]
    bits = bits_of(after)
    assert bits[changed[0]] == WORD_BITS
    assert torch.equal(expanded(compressed(after, bits))[changed[0]], after[changed[0]])
    hold_words(model)
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == changed


def test_the_calibrated_logit_is_the_fits(rules: Path, model: ReadoutModel, tmp_path: Path) -> None:
    """A line of the logit before, which its inverse takes back."""
    write_stage(model, rules, tmp_path / "stage")
    encoder, pairs = CrossEncoder(str(tmp_path / "stage"), device="cpu"), [("the cat", "the mat"), ("a", "dog dog")]
    before = encoder.predict(pairs, activation_fct=torch.nn.Identity())
    calibrate(encoder, Temperature(0.5, -2.0))
    assert encoder.predict(pairs, activation_fct=torch.nn.Identity()) == pytest.approx(0.5 * before - 2, abs=1e-4)
    calibrate(encoder, Temperature(0.5, -2.0).inverse)
    assert encoder.predict(pairs, activation_fct=torch.nn.Identity()) == pytest.approx(before, abs=1e-4)


def test_a_finished_folder_is_replaced_whole(
    rules: Path, model: ReadoutModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped writing leaves the model that was there, the next one sweeps up; what others put there stays."""
    folder = tmp_path / "pocket"

    def held() -> dict[str, bytes]:
        files = (file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}

    write_folder(model, rules, folder)
    (folder / "README.md").write_text("The card.")
    before = held()

    def stopped(target: Path, *_: object) -> None:
        (target / COMPACT).write_bytes(b"half")
        raise KeyboardInterrupt

    late = model.readout.late
    with torch.no_grad():
        late.scales += 1
    with monkeypatch.context() as patched:
        patched.setattr(finish, "save_compact", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_folder(model, rules, folder)
    assert held() == before
    write_folder(model, rules, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["pocket"]
    after = held()
    assert [name for name in before if after.pop(name) != before[name]] == [f"1_{LATE}/{WEIGHTS}"]
    assert not after
    assert torch.equal(CrossEncoder(str(folder), device="cpu").model.readout.late.scales, late.scales)


def test_figures_are_of_as_many_queries_as_the_card_says() -> None:
    """Its table has a row for each test set, "2,000 of 10,570" where not all are measured."""
    card = (PACKAGE / "pocket" / "README.md").read_text(encoding="utf-8").partition("## Test sets")[2]
    rows = dict(re.findall(r"^\| (\w+) \| ([\d,]+(?: of [\d,]+)?) \|", card, re.MULTILINE))
    assert tuple(rows) == TEST_SETS
    part = {name: int(shown.split()[0].replace(",", "")) for name, shown in rows.items() if "of" in shown}
    assert part == evaluate.TEST_QUERIES


def test_a_stage_is_there_whole_or_not_at_all(rules: Path, model: ReadoutModel, tmp_path: Path) -> None:
    """What an interrupted writing left is swept away, and the folder loads in float32."""
    (tmp_path / "second.partial").mkdir()
    (tmp_path / "second.partial" / "model.safetensors").write_bytes(b"half")
    write_stage(model, rules, tmp_path / "second")
    assert [path.name for path in tmp_path.iterdir()] == ["second"]
    made = CrossEncoder(str(tmp_path / "second"), device="cpu").model.state_dict()
    assert all(torch.equal(weight, made[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("name", PACKAGED)
def test_what_is_published_is_what_the_recipe_made(name: str) -> None:
    """Every file but the card has the digest that the published log has of it."""
    folder = folder_of(name)
    assert {folder.name: folder} == {own: PACKAGE / own for own, _ in MODELS.values() if own == PACKAGED[name]}
    (made,) = (entry["made"] for entry in logged(LOG) if entry["stage"] == folder.name)
    own = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".md"]
    files = {file.relative_to(folder).as_posix(): file_digest(file) for file in own}
    assert files == made["files"]
