"""A cross-encoder with a smaller vocabulary: the same scores, fewer rows, a folder like any other."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from secondpass import CrossEncoder
from secondpass.corpora import read_corpus
from secondpass.errors import InvalidInput
from secondpass.training.distillation.vocabulary import trim_vocabulary, with_rows
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_folder
from tests.toy_task import same, state

TEXTS = ["the cat sat on the mat and", "a dog in london"]
KNOWN = [("the cat", "the mat sat and"), ("a dog", "in london cat"), ("cat " * 90, "dog " * 90)]
OTHERS = [("river bank", "user password [SEP] x 中 é"), ("</s>[MASK]", ""), ("secondpass", "\ud800")]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_scores_before_and_after_saving(tiny_model_folder, tmp_path, architecture):
    """Pairs of kept pieces score as before; all is the same after saving, here and in transformers."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    size = len(encoder.tokenizer) - 20
    made = trim_vocabulary(encoder, TEXTS, size)
    assert made.predict(KNOWN) == pytest.approx(encoder.predict(KNOWN), rel=0, abs=ROUNDING)
    assert len(made.tokenizer) == made.config.vocab_size == made.model.get_input_embeddings().num_embeddings == size
    made.save(str(tmp_path))
    again = CrossEncoder(str(tmp_path), device="cpu")
    assert same(state(again), state(made))
    assert again.predict([*KNOWN, *OTHERS]) == pytest.approx(made.predict([*KNOWN, *OTHERS]), rel=0, abs=ROUNDING)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        logits = plain(**tokenizer(*KNOWN[0], return_tensors="pt")).logits[0]
    assert logits.sigmoid().item() == pytest.approx(float(encoder.predict(KNOWN)[0]), abs=1e-5)
    for name in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"):
        assert getattr(tokenizer, name) == getattr(encoder.tokenizer, name)
        assert getattr(tokenizer, f"{name}_id") == tokenizer.convert_tokens_to_ids(getattr(tokenizer, name))
    assert plain.config.pad_token_id == tokenizer.pad_token_id


def test_the_given_encoder_stays_as_it_is(own_tiny):
    """It may be in use by other threads."""
    before = own_tiny.predict([*KNOWN, *OTHERS]).tolist()
    state = {name: weight.clone() for name, weight in own_tiny.model.state_dict().items()}
    trim_vocabulary(own_tiny, TEXTS, 120)
    assert own_tiny.predict([*KNOWN, *OTHERS]).tolist() == before
    assert all(torch.equal(weight, state[name]) for name, weight in own_tiny.model.state_dict().items())
    assert len(own_tiny.tokenizer) == own_tiny.config.vocab_size == 171


def test_settings_are_taken_over(tiny_folder):
    """Activation, lengths, limits, type of the weights and name are those of the given encoder."""
    activation = lambda logits: logits * 3  # noqa: E731
    encoder = CrossEncoder(
        tiny_folder,
        device="cpu",
        max_length=40,
        default_activation_function=activation,
        truncation="only_document",
        max_batch_tokens=300,
        max_documents=7,
        automodel_args={"dtype": torch.float64},
    )
    made = trim_vocabulary(encoder, TEXTS, 120)
    assert made.predict(KNOWN) == pytest.approx(encoder.predict(KNOWN), rel=0, abs=ROUNDING)
    for name in ("max_length", "truncation", "max_batch_tokens", "max_documents", "default_activation_function"):
        assert getattr(made, name) == getattr(encoder, name)
    assert made.model.dtype == torch.float64
    assert made.config.name_or_path == encoder.config.name_or_path


def test_spare_rows_and_ids_of_the_configuration(tmp_path):
    """Tables are often longer than the vocabulary; ids that the configuration names follow the tokens."""
    folder = make_folder(tmp_path, "xlm-roberta")
    encoder = CrossEncoder(str(folder), device="cpu")
    mask = encoder.tokenizer.mask_token_id
    encoder.model.config.mask_token_id = mask
    encoder.model.config.strange_token_id = 10_000
    encoder.model.resize_token_embeddings(160)
    made = trim_vocabulary(encoder, TEXTS, 110)
    assert made.predict(KNOWN) == pytest.approx(encoder.predict(KNOWN), rel=0, abs=ROUNDING)
    assert made.config.mask_token_id == made.tokenizer.mask_token_id == 109 != mask
    assert made.config.strange_token_id is None
    assert made.config.pad_token_id == encoder.config.pad_token_id == 1


def test_rows_are_copied(own_tiny):
    """The copy shares no weight with the model, and has the rows in the order asked for."""
    made = with_rows(own_tiny.model, [0, 5, 9])
    table, old = made.get_input_embeddings().weight, own_tiny.model.get_input_embeddings().weight
    assert torch.equal(table, old[[0, 5, 9]])
    table.data.zero_()
    made.classifier.weight.data.zero_()
    assert old[5].abs().sum() > 0
    assert own_tiny.model.classifier.weight.abs().sum() > 0
    assert table.requires_grad


def test_always_and_refusals(tiny):
    """Tokens to keep by their spelling; one that there is not, and a size that is too small, are named."""
    made = trim_vocabulary(tiny, [], 112, always=["password", "##z"])
    assert "password" in made.tokenizer.get_vocab()
    with pytest.raises(InvalidInput, match="no token 'nowhere'"):
        trim_vocabulary(tiny, TEXTS, 120, always=["cat", "nowhere"])
    with pytest.raises(InvalidInput, match="size=20: special tokens and characters alone are 109"):
        trim_vocabulary(tiny, TEXTS, 20)
    small = trim_vocabulary(tiny, ["abc"], 65, characters=string.ascii_lowercase)
    assert len(small.tokenizer) <= 65


def test_the_embedded_model_on_a_real_collection(data_folder, tmp_path):
    """Half the vocabulary, kept by adi's texts, and every pair of them scores as before."""
    encoder = CrossEncoder("secondpass/pocket", device="cpu")
    texts = [document.content for document in read_corpus(data_folder / "adi")]
    made = trim_vocabulary(encoder, texts, 5000)
    pairs = [(texts[0][:60], text) for text in texts[:12]]
    assert made.predict(pairs).tolist() == pytest.approx(encoder.predict(pairs).tolist(), rel=0, abs=ROUNDING)
    made.save(str(tmp_path))
    assert json.loads((Path(tmp_path) / "config.json").read_text())["vocab_size"] == 5000
