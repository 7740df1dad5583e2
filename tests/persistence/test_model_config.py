"""model_config: config.json as data, and how many labels a model has."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from secondpass.errors import ModelLoadError
from secondpass.persistence.model_config import load_config, read_json, without_code


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
