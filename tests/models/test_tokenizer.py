"""Rules of `secondpass.models.tokenizer`: how long an input may be, and that tokenizer and model belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BartConfig, BartForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from secondpass.errors import ModelLoadError
from secondpass.models.loading import LoadRequest, load
from secondpass.models.tokenizer import token_limit
from tests.tiny_models import ARCHITECTURES, make_folder

UNKNOWN = {"model_max_length": 10**30}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_a_tokenizer_limit_the_position_table_decides(tmp_path: Path, architecture: str) -> None:
    """The longest input is what the table holds; RoBERTa's 130 rows hold 128, as its first two are never used."""
    loaded = load(LoadRequest(make_folder(tmp_path, architecture, tokenizer_options=UNKNOWN)))
    assert loaded.token_limit == 128
    ids = torch.full((1, loaded.token_limit), 7)
    with torch.inference_mode():
        assert torch.isfinite(loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_one_token_more_would_fail(tmp_path: Path, architecture: str) -> None:
    """The limit is not too careful: the next length is beyond the table."""
    loaded = load(LoadRequest(make_folder(tmp_path, architecture, tokenizer_options=UNKNOWN)))
    ids = torch.full((1, loaded.token_limit + 1), 7)
    with torch.inference_mode(), pytest.raises((IndexError, RuntimeError)):
        loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize(("stored", "limit"), [(64, 64), (512, 128), (0, 128), (10**12, 128)])
def test_the_smaller_limit_wins(tmp_path: Path, stored: int, limit: int) -> None:
    """A sane tokenizer limit counts when it is the smaller one."""
    assert (
        load(LoadRequest(make_folder(tmp_path, "bert", tokenizer_options={"model_max_length": stored}))).token_limit
        == limit
    )


def test_the_caller_can_set_the_limit(tiny_folder: str) -> None:
    """tokenizer_args reaches the tokenizer."""
    assert load(LoadRequest(tiny_folder, tokenizer_args={"model_max_length": 32})).token_limit == 32


def test_no_limit_anywhere_is_refused(tmp_path: Path) -> None:
    """When neither tokenizer nor model knows a limit, the message says how to give one."""
    loaded = load(LoadRequest(make_folder(tmp_path, "deberta-v2", tokenizer_options=UNKNOWN)))
    loaded.model.deberta.embeddings.position_embeddings = None
    loaded.model.config.max_position_embeddings = -1
    with pytest.raises(ModelLoadError, match="tokenizer_args="):
        token_limit(loaded.tokenizer, loaded.model)


def test_tables_of_other_families_are_found() -> None:
    """GPT-2's table has no unused rows, BART's two in front."""

    class Unlimited:
        model_max_length = 10**30

    sizes: dict[str, Any] = {"vocab_size": 50, "pad_token_id": 1}
    gpt = GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=40, **sizes))
    bart = BartForSequenceClassification(
        BartConfig(d_model=16, encoder_layers=1, decoder_layers=1, max_position_embeddings=40, **sizes)
    )
    assert token_limit(Unlimited(), gpt) == 40
    assert token_limit(Unlimited(), bart) == 40


def test_a_decoder_learns_its_padding_token(tmp_path: Path) -> None:
    """A decoder scores at the last token before the padding, so it must know the tokenizer's padding id."""
    path = make_folder(tmp_path, "roberta")
    sizes: dict[str, Any] = {"vocab_size": 320, "bos_token_id": 0, "eos_token_id": 2, "num_labels": 1}
    model = GPT2ForSequenceClassification(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=40, **sizes))
    model.save_pretrained(path)
    loaded = load(LoadRequest(path))
    assert loaded.config.pad_token_id == loaded.tokenizer.pad_token_id == 1
    batch = loaded.tokenizer(["a", "a"], ["bank", "the cat sat"], padding=True, return_tensors="pt")
    alone = loaded.tokenizer("a", "bank", return_tensors="pt")
    with torch.inference_mode():
        assert torch.allclose(loaded.model(**batch).logits[0], loaded.model(**alone).logits[0], atol=1e-5)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    """Without a vocabulary transformers would read every text as unknown tokens; here the folder is refused."""
    path = make_folder(tmp_path, "bert")
    (path / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match="holds no tokenizer") as caught:
        load(LoadRequest(path))
    assert str(tmp_path) in str(caught.value)


def test_an_old_folder_with_only_a_word_list_is_read(tmp_path: Path) -> None:
    """Checkpoints from before tokenizer.json hold vocab.txt; their ids are the same."""
    path = make_folder(tmp_path, "bert")
    new = load(LoadRequest(path)).tokenizer
    words = sorted(new.get_vocab(), key=new.get_vocab().__getitem__)
    (path / "tokenizer.json").unlink()
    (path / "vocab.txt").write_text("".join(f"{word}\n" for word in words))
    (path / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    loaded = load(LoadRequest(path))
    pair = ("How do I reset my password?", "the account page, then zebra 123")
    assert loaded.tokenizer(*pair)["input_ids"] == new(*pair)["input_ids"]
    assert loaded.token_limit == 128


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    """A tokenizer.json that is no tokenizer names the folder, in one line."""
    path = make_folder(tmp_path, "bert")
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="the tokenizer cannot be read") as caught:
        load(LoadRequest(path))
    assert "\n" not in str(caught.value)
