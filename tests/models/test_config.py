"""Rules of `secondpass.models.config`: config.json as data, and how many labels a model has."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import ModelLoadError
from secondpass.models.config import (
    load_config,
    read_activation,
    read_json,
    read_prompts,
    without_code,
    write_activation,
)


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that changes it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


@pytest.mark.parametrize(
    ("architectures", "given", "labels"),
    [
        (["BertForSequenceClassification"], None, 3),
        (["BertForMaskedLM"], None, 1),
        (["BertForMaskedLM", "BertForSequenceClassification"], None, 3),
        ([], None, 1),
        (None, None, 1),
        (..., None, 1),
        (["BertForSequenceClassification"], 5, 5),
        (["BertForMaskedLM"], 2, 2),
    ],
)
def test_the_number_of_labels(folder: Path, architectures: Any, given: int | None, labels: int) -> None:
    """The caller's number wins; an untrained checkpoint gets 1; a trained one keeps its own."""
    _rewrite(folder, architectures=architectures, id2label={str(i): f"LABEL_{i}" for i in range(3)}, label2id=...)
    config = load_config(folder, given)
    assert config.num_labels == labels
    assert len(config.id2label) == labels


def test_dropout_of_the_head_is_set(folder: Path) -> None:
    """classifier_dropout reaches the config, and only when it is given."""
    assert load_config(folder).classifier_dropout is None
    assert load_config(folder, classifier_dropout=0.0).classifier_dropout == 0.0


def test_config_args_reach_the_config(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Settings of the architecture are taken over; one it does not have is named in a warning."""
    with caplog.at_level(logging.WARNING):
        config = load_config(folder, config_args={"hidden_dropout_prob": 0.0, "no_such_setting": 1})
    assert config.hidden_dropout_prob == 0.0
    assert "['no_such_setting']" in caplog.text


def test_code_keys_are_dropped_at_every_depth() -> None:
    """Remote classes, hub kernels and other weights files are removed from nested configs too."""
    dirty = {
        "model_type": "bert",
        "auto_map": {"AutoModel": "code.Model"},
        "transformers_weights": "adapter_model.bin",
        "text_config": {"hidden_size": 8, "_attn_implementation_internal": "org/kernel", "auto_map": {}},
        "parts": [{"attn_implementation": "org/kernel", "size": 1}],
    }
    assert without_code(dirty) == {"model_type": "bert", "text_config": {"hidden_size": 8}, "parts": [{"size": 1}]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "no-such-type"}, "does not know the model type 'no-such-type'"),
        ({"model_type": ...}, "does not know the model type None"),
        ({"model_type": ["bert"]}, "does not know the model type"),
        ({"model_type": "vit"}, "no sequence classifier|does not know"),
        ({"model_type": "clip_text_model"}, "no sequence classifier for model type"),
        ({"hidden_size": "wide"}, "no valid bert config"),
    ],
)
def test_a_config_that_cannot_be_a_cross_encoder_is_refused(folder: Path, changes: Any, says: str) -> None:
    """An unknown type, one without a classifier, or a value of a wrong type is a one-line ModelLoadError."""
    _rewrite(folder, **changes)
    with pytest.raises(ModelLoadError, match=says) as caught:
        load_config(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"bert"', "[" * 100_000])
def test_a_broken_file_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    """Anything but a JSON object raises ModelLoadError with the path."""
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ModelLoadError, match=str(path)):
        read_json(path)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    """An empty folder says what it lacks."""
    with pytest.raises(ModelLoadError, match=r"holds no config\.json"):
        load_config(tmp_path)


OLDEST, MIDDLE, NEWEST = "torch.nn.Tanh", "torch.nn.ReLU", "torch.nn.Identity"


def _edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def test_no_name_is_none(folder: Path) -> None:
    """A folder without any of the keys has no stored activation."""
    assert read_activation(folder) is None


def test_each_generation_is_read_newest_first(folder: Path) -> None:
    """All three ways are understood; where several are present, the newest wins."""
    _edit(folder / "config.json", sbert_ce_default_activation_function=OLDEST)
    assert read_activation(folder) == OLDEST
    _edit(folder / "config.json", sentence_transformers={"activation_fn": MIDDLE, "version": "4.1.0"})
    assert read_activation(folder) == MIDDLE
    _edit(folder / "config_sentence_transformers.json", activation_fn=NEWEST)
    assert read_activation(folder) == NEWEST


def test_a_newer_file_without_a_name_leaves_the_older_one(folder: Path) -> None:
    """A null, or a file of an embedding model, does not hide what an older key says."""
    _edit(folder / "config_sentence_transformers.json", activation_fn=None, model_type="SentenceTransformer")
    _edit(folder / "config.json", sentence_transformers={"version": "4.1.0"})
    _edit(folder / "config.json", sbert_ce_default_activation_function=OLDEST)
    assert read_activation(folder) == OLDEST


@pytest.mark.parametrize("value", [["torch.nn.Tanh"], {"a": 1}, 3, ""])
def test_a_value_that_is_no_name_is_ignored_aloud(folder: Path, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing but a string is taken for a name; what is skipped is logged."""
    _edit(folder / "config_sentence_transformers.json", activation_fn=value)
    assert read_activation(folder) is None
    assert "is no name" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", "\xff\xfe", "null"])
def test_a_broken_file_is_a_load_error(folder: Path, text: str) -> None:
    """A file that is no JSON object is refused with its path instead of falling back to another activation."""
    (folder / "config_sentence_transformers.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelLoadError, match=r"config_sentence_transformers\.json"):
        read_activation(folder)


def test_a_default_prompt_is_one_of_the_stored(folder: Path) -> None:
    """The name of the prompt that every call gets comes with them; one that names none is refused."""
    file = folder / "config_sentence_transformers.json"
    _edit(file, prompts={"web": "query: ", "bad": 3}, default_prompt_name="web")
    assert read_prompts(folder) == ({"web": "query: "}, "web")
    _edit(file, default_prompt_name="bad")
    with pytest.raises(ModelLoadError, match=r"config_sentence_transformers\.json.*'bad' is none of its prompts"):
        read_prompts(folder)


def test_all_three_ways_are_written(folder: Path) -> None:
    """Every generation's key holds the name after writing, with format versions old enough for its readers."""
    write_activation(folder, NEWEST)
    config = json.loads((folder / "config.json").read_text())
    newest = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert config["sbert_ce_default_activation_function"] == NEWEST
    assert config["sentence_transformers"] == {"activation_fn": NEWEST, "version": "4.0.0"}
    assert newest["activation_fn"] == NEWEST
    assert newest["model_type"] == "CrossEncoder"
    assert newest["__version__"]["sentence_transformers"] == "5.4.0"
    assert config["architectures"] == ["BertForSequenceClassification"]


def test_writing_none_removes_old_names(folder: Path) -> None:
    """An activation without a name must not leave the name of the one before it."""
    write_activation(folder, OLDEST)
    write_activation(folder, None)
    assert read_activation(folder) is None
    assert "sentence_transformers" not in json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("generation", [1, 2, 3])
def test_the_engine_uses_the_stored_activation(folder: Path, generation: int) -> None:
    """A model stored by any generation scores with its own activation, not with Sigmoid."""
    if generation == 1:
        _edit(folder / "config.json", sbert_ce_default_activation_function=NEWEST)
    elif generation == 2:
        _edit(folder / "config.json", sentence_transformers={"activation_fn": NEWEST, "version": "5.0.0"})
    else:
        _edit(folder / "config_sentence_transformers.json", activation_fn=NEWEST, model_type="CrossEncoder")
    assert type(CrossEncoder(str(folder), device="cpu").default_activation_function) is nn.Identity


def test_sentence_transformers_reads_what_we_write(folder: Path) -> None:
    """The installed sentence-transformers finds the same activation and gives the same scores."""
    reference = pytest.importorskip("sentence_transformers")
    ours = CrossEncoder(str(folder), device="cpu", default_activation_function=nn.Tanh())
    ours.save(str(folder / "saved"))
    theirs = reference.CrossEncoder(str(folder / "saved"), device="cpu")
    assert type(theirs.activation_fn) is nn.Tanh
    pair = [("how do i reset my password", "reset the password by email")]
    assert theirs.predict(pair) == pytest.approx(ours.predict(pair), abs=1e-5)


def test_we_read_what_sentence_transformers_writes(folder: Path, tmp_path: Path) -> None:
    """A folder saved by the installed sentence-transformers comes back with its activation and its length limit."""
    reference = pytest.importorskip("sentence_transformers")
    theirs = reference.CrossEncoder(str(folder), device="cpu", activation_fn=nn.Identity(), max_length=64)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours = CrossEncoder(str(tmp_path / "theirs"), device="cpu")
    assert type(ours.default_activation_function) is nn.Identity
    pair = [("how do i reset my password", "reset the password by email")]
    assert ours.predict(pair) == pytest.approx(theirs.predict(pair), abs=1e-5)
    assert ours.tokenizer.model_max_length == 64
