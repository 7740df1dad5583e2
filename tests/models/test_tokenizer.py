"""Rules of `secondpass.models.tokenizer`: how long an input may be, and that tokenizer and model belong together."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from secondpass import CrossEncoder
from secondpass.errors import ModelLoadError
from secondpass.models.limits import token_limit
from secondpass.models.loading import LoadRequest, load
from secondpass.models.stored_tokenizer import read_tokenizer
from tests.tiny_models import ARCHITECTURES, make_folder, make_model, make_tokenizer

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


SMALL = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
NO_ACTIVATION = json.dumps({"model_type": "bert", "hidden_act": "nope", **SMALL})
FROM_BOTH = "the tokenizer cannot be read from tokenizer.json, tokenizer_config.json: "


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", "", "tokenizer.json is not a tokenizer: EOF"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer: Model missing"),
        ("tokenizer.json", "[]", "tokenizer.json is not a tokenizer: invalid type"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1", "tokenizer.json is not a tokenizer: expected"),
        ("tokenizer.json", b"\xff\xfe", "tokenizer.json is not a tokenizer: stream"),
        ("tokenizer.json", '{"model": {"type": "Nope"}}', "tokenizer.json is not a tokenizer: data did not match"),
        ("tokenizer_config.json", "{", "tokenizer_config.json cannot be read as JSON (JSONDecodeError: Expecting"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json holds a JSON list"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', FROM_BOTH + "AttributeError: "),
        ("tokenizer_config.json", '{"pad_token": 7}', FROM_BOTH + "TypeError: Special token pad_token"),
        ("tokenizer_config.json", '{"pad_token": "[PAD]", "model_max_length": "many"}', "model_max_length of the"),
        ("special_tokens_map.json", '{"pad', "special_tokens_map.json cannot be read as JSON"),
        ("special_tokens_map.json", "[]", "special_tokens_map.json holds a JSON list"),
        ("added_tokens.json", "{", "added_tokens.json cannot be read as JSON"),
        ("config.json", "{", "config.json cannot be read as JSON (JSONDecodeError: Expecting property name"),
        ("config.json", b"\xff", "config.json cannot be read as JSON (UnicodeDecodeError: "),
        (
            "config.json",
            NO_ACTIVATION,
            "config.json cannot be built: KeyError: 'nope'",
        ),
    ],
)
def test_a_broken_file_is_named(tiny_folder: str, tmp_path: Path, file: str, content: str | bytes, said: str) -> None:
    """And what is wrong with it, in one line, instead of the bare words of whoever read it."""
    for there in Path(tiny_folder).iterdir():
        (tmp_path / there.name).symlink_to(there)
    (tmp_path / file).unlink(missing_ok=True)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ModelLoadError, match=re.escape(said)) as caught:
        CrossEncoder(str(tmp_path), device="cpu")
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    if file == "config.json":
        return
    refused = None
    try:
        ours = read_tokenizer(tmp_path, json.loads((tmp_path / "config.json").read_text()))
    except ModelLoadError as error:
        refused = str(error)
    assert isinstance(ours, str) if refused is None else refused == str(caught.value)


PAIR = ("How do I reset my password?", "the account page, then zebra 123")


def _edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None as a value removes the key."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def _qwen2(path: Path, like: str) -> Path:
    tokenizer = make_tokenizer(like)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 1}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": len(tokenizer), "pad_token_id": 1}
    model: Any = Qwen2ForSequenceClassification
    model(Qwen2Config(**sizes)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("stored_class", ["Qwen2Tokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("like", ["bert", "roberta", "xlm-roberta"])
def test_the_stored_rules_count_and_not_those_of_the_models_type(
    tmp_path: Path, like: str, stored_class: str | None
) -> None:
    """Transformers 5 makes Qwen's tokenizer of whatever lies beside a qwen2 config, and known words have no tokens."""
    folder = _qwen2(tmp_path, like)
    _edit(folder / "tokenizer_config.json", tokenizer_class=stored_class)
    made = CrossEncoder(str(folder), device="cpu").tokens([PAIR[0]], [PAIR[1]])[0]
    assert made.ids.tolist() == make_tokenizer(like)(*PAIR)["input_ids"]


def test_the_stored_end_of_a_pair_stays(tmp_path: Path) -> None:
    """The setting add_bos_token, which Qwen's tokenizers have, is about the beginning; only the caller's drops both."""
    folder = _qwen2(tmp_path, "roberta")
    _edit(folder / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer", add_bos_token=False)
    made = CrossEncoder(str(folder), device="cpu").tokens([PAIR[0]], [PAIR[1]])[0]
    assert made.ids.tolist() == make_tokenizer("roberta")(*PAIR)["input_ids"]
    asked = load(LoadRequest(folder, tokenizer_args={"add_bos_token": False})).tokenizer
    assert 2 not in asked(*PAIR)["input_ids"], "the caller decides"


@pytest.mark.parametrize(
    ("setting", "given", "lowers"), [(None, {}, True), (False, {}, False), (True, {"do_lower_case": False}, False)]
)
def test_settings_of_berts_normaliser_count(tmp_path: Path, setting: bool | None, given: Any, lowers: bool) -> None:
    """As in transformers 4: tokenizer_config.json, or what the caller says, over what tokenizer.json has."""
    folder = make_folder(tmp_path, "bert")
    _edit(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=setting)
    made = load(LoadRequest(folder, tokenizer_args=given)).tokenizer
    assert (made.tokenize("CAT") == ["cat"]) is lowers


def test_words_without_tokens_are_refused(tmp_path: Path) -> None:
    """Rules that give pieces which the vocabulary lacks, and no token for unknown ones: an error at load."""
    folder = make_folder(tmp_path, "roberta")
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["model"] |= {"vocab": dict(list(rules["model"]["vocab"].items())[:5]), "merges": [], "unk_token": None}
    (folder / "tokenizer.json").write_text(json.dumps(rules))
    with pytest.raises(ModelLoadError, match="makes no token of 'a b'"):
        CrossEncoder(str(folder), device="cpu")


def test_a_missing_post_processor_is_refused_or_made_good(tmp_path: Path) -> None:
    """Without it texts run into each other: BERT's own class brings it along, the generic one cannot."""
    folder = make_folder(tmp_path, "bert")
    right = CrossEncoder(str(folder), device="cpu").predict([PAIR])
    _edit(folder / "tokenizer.json", post_processor=None)
    with pytest.raises(ModelLoadError, match=r"no post-processor, so \[CLS\] and \[SEP\]"):
        load(LoadRequest(folder))
    plain = CrossEncoder(str(folder), device="cpu", tokenizer_args={"cls_token": None})
    assert plain.tokens(*[[text] for text in PAIR])[0].ids[0] != 2, "as it was trained"
    _edit(folder / "tokenizer_config.json", tokenizer_class="BertTokenizer")
    assert CrossEncoder(str(folder), device="cpu").predict([PAIR]) == right


def _albert(folder: Path, tokenizer_class: str, version: str | None, **settings: Any) -> Path:
    tokenizer = make_tokenizer("bert")
    sizes: dict[str, Any] = {"embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 32, "vocab_size": len(tokenizer), "num_labels": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    model = AlbertForSequenceClassification(AlbertConfig(**sizes))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0.0, 0.3)
    return _as_saved_by(folder, model, tokenizer, tokenizer_class, version, **settings)


def _as_saved_by(folder: Path, model: Any, tokenizer: Any, kind: str, version: str | None, **settings: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _edit(folder / "config.json", transformers_version=version)
    _edit(folder / "tokenizer_config.json", tokenizer_class=kind, backend=None, model_input_names=None)
    _edit(folder / "tokenizer_config.json", **settings)
    return folder


@pytest.mark.parametrize(
    ("tokenizer_class", "version", "settings", "given", "segments"),
    [
        ("AlbertTokenizerFast", "4.57.3", {}, {}, True),
        ("PreTrainedTokenizerFast", "4.30.0.dev0", {}, {}, True),
        ("PreTrainedTokenizerFast", None, {}, {}, True),
        ("RemBertTokenizer", "4.57.3", {}, {}, True),
        ("RobertaTokenizerFast", "4.57.3", {}, {}, False),
        ("AlbertTokenizer", "5.24.0", {}, {}, False),
        ("PreTrainedTokenizerFast", "4.57.3", {"backend": "tokenizers"}, {}, False),
        ("PreTrainedTokenizerFast", "4.57.3", {"model_input_names": ["input_ids", "attention_mask"]}, {}, False),
        ("AlbertTokenizer", "4.57.3", {}, {"model_input_names": ["input_ids", "attention_mask"]}, False),
        (
            "AlbertTokenizer",
            "5.0.0",
            {},
            {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
            True,
        ),
    ],
)
def test_segment_ids_are_those_of_the_version_that_wrote_the_checkpoint(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tokenizer_class: str,
    version: str | None,
    settings: Any,
    given: Any,
    segments: bool,
) -> None:
    """Classes of transformers 4 gave them where those of 5 do not; a warning says so, and the caller may decide."""
    folder = _albert(tmp_path / "a", tokenizer_class, version, **settings)
    encoder = CrossEncoder(str(folder), device="cpu", tokenizer_args=given)
    made = encoder.tokens(*[[text] for text in PAIR])[0]
    types = {"token_type_ids": torch.tensor(made.type_ids[None]).long()} if segments else {}
    with torch.inference_mode():
        logit = encoder.model(input_ids=torch.tensor(made.ids[None]).long(), **types).logits.item()
    score = encoder.predict([PAIR], activation_fct=torch.nn.Identity())
    assert made.type_ids.any()
    assert score == pytest.approx([logit], abs=1e-5)
    assert caplog.text.count("saved by transformers 4, whose") == (segments and not given)
    encoder.save(str(tmp_path / "b"))
    saved = CrossEncoder(str(tmp_path / "b"), device="cpu")
    assert saved.predict([PAIR], activation_fct=torch.nn.Identity()) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("like", ["bert", "roberta"])
def test_a_generic_tokenizer_of_transformers_4_gives_segment_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, like: str
) -> None:
    """To BERT; to RoBERTa, whose segment ids are all 0, they make no difference and nothing is said."""
    tokenizer = make_tokenizer(like)
    model = make_model(like, len(tokenizer))
    right = CrossEncoder(str(make_folder(tmp_path / "right", like)), device="cpu").predict([PAIR])
    folder = _as_saved_by(tmp_path / "old", model, tokenizer, "PreTrainedTokenizerFast", "4.57.3")
    with caplog.at_level(logging.WARNING):
        assert CrossEncoder(str(folder), device="cpu").predict([PAIR]) == right
    assert ("gave segment ids" in caplog.text) is (like == "bert")
