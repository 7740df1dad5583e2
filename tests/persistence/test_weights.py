"""weights: safetensors into a model, complete or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.persistence.loading import LoadRequest, load
from secondpass.persistence.weights import read_weights, weight_files
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_folder


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that changes it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _without(folder: Path, *starts: str) -> Path:
    path = folder / "model.safetensors"
    kept = {key: weight for key, weight in load_file(path).items() if not key.startswith(starts)}
    path.unlink()
    save_file(kept, path)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_labels", [1, 3])
def test_logits_equal_transformers(tiny_model_folder: Any, architecture: str, num_labels: int) -> None:
    """The loaded model's weights are those of the model transformers loads itself, bit for bit, and so the logits."""
    path = tiny_model_folder(architecture, num_labels)
    tokenizer = AutoTokenizer.from_pretrained(path)
    inputs = tokenizer(["how do i pay"] * 2, ["by card", "the cat sat on the mat"], padding=True, return_tensors="pt")
    theirs = AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.inference_mode():
        ours = load(LoadRequest(path)).model
        logits = ours(**inputs).logits
        assert torch.allclose(logits, theirs(**inputs).logits, rtol=0, atol=ROUNDING)
    weights = theirs.state_dict()
    assert ours.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in ours.state_dict().items())
    assert logits.shape == (2, num_labels)
    assert not torch.allclose(logits[0], logits[1], atol=1e-3)


def test_the_model_is_in_evaluation_mode(tiny_folder: str) -> None:
    """Dropout is off: scores repeat."""
    assert not load(LoadRequest(tiny_folder)).model.training


def test_the_dtype_is_taken_from_the_argument(tiny_folder: str) -> None:
    """automodel_args reaches the model."""
    half = load(LoadRequest(tiny_folder, automodel_args={"dtype": torch.float16}))
    assert half.model.dtype == torch.float16


def test_shards_are_joined(tiny_folder: str, tmp_path: Path) -> None:
    """A checkpoint in several files is the same model."""
    whole = load(LoadRequest(tiny_folder))
    whole.model.save_pretrained(tmp_path, max_shard_size="40KB")
    whole.tokenizer.save_pretrained(tmp_path)
    parts = load(LoadRequest(tmp_path)).model.state_dict()
    assert len(weight_files(tmp_path)) > 1
    assert all(torch.equal(weight, parts[key]) for key, weight in whole.model.state_dict().items())


def test_a_variant_is_read_when_asked_for(folder: Path) -> None:
    """variant="fp16" reads model.fp16.safetensors, and nothing else is taken for it."""
    with pytest.raises(ModelLoadError, match=r"model\.fp16\.safetensors"):
        load(LoadRequest(folder, automodel_args={"variant": "fp16"}))
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    assert load(LoadRequest(folder, automodel_args={"variant": "fp16"})).config.num_labels == 1


@pytest.mark.parametrize("shard", ["pytorch_model.bin", "../model.safetensors", "/other/x.safetensors", 3, None])
def test_an_index_cannot_point_at_other_files(folder: Path, shard: Any) -> None:
    """An index that names a pickle or leaves the folder is refused: transformers would open what it says."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.bias": shard}}))
    with pytest.raises(ModelLoadError, match="no safetensors file of its folder"):
        weight_files(folder)


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_without_shards_is_refused(folder: Path, index: Any) -> None:
    """An empty index is broken, not an empty model."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelLoadError, match="no safetensors file"):
        weight_files(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    """A download that stopped half-way names the file that is not there."""
    (folder / "model.safetensors").unlink()
    shard = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"classifier.bias": shard}}))
    with pytest.raises(ModelLoadError, match=f"lacks {shard}"):
        weight_files(folder)


def test_an_adapter_is_not_half_loaded(folder: Path) -> None:
    """A folder with an adapter is refused: the base weights alone are another model."""
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="holds an adapter"):
        weight_files(folder)


def test_read_weights_gives_the_tensors(folder: Path) -> None:
    """All tensors come back under their names."""
    assert read_weights(weight_files(folder)).keys() == load_file(folder / "model.safetensors").keys()


def test_missing_encoder_weights_are_refused_even_for_a_new_head(folder: Path) -> None:
    """num_labels= allows a new head, never a random layer."""
    _without(folder, "bert.encoder.layer.1.")
    with pytest.raises(ModelLoadError, match=r"16 weights are missing.*bert\.encoder\.layer\.1"):
        load(LoadRequest(folder, num_labels=1))


def test_a_new_head_is_announced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With num_labels= an encoder gets a new head (and pooler) of that size, and a warning says it is untrained."""
    _without(folder, "classifier.", "bert.pooler.")
    with caplog.at_level(logging.WARNING, logger="secondpass"):
        loaded = load(LoadRequest(folder, num_labels=3))
    assert loaded.model.classifier.weight.shape == (3, 32)
    assert "untrained head" in caplog.text


def test_a_trained_head_is_quiet(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """num_labels= on a checkpoint that has that head keeps the trained one."""
    loaded = load(LoadRequest(folder, num_labels=1))
    stored = load_file(folder / "model.safetensors")
    assert torch.equal(loaded.model.classifier.weight, stored["classifier.weight"])
    assert caplog.messages == []


def test_another_head_size_is_refused_unless_asked_for(folder: Path) -> None:
    """A head of another size names both shapes; ignore_mismatched_sizes with num_labels makes a new one."""
    with pytest.raises(ModelLoadError, match=r"classifier\.\w+ has shape \[1.*\[3"):
        load(LoadRequest(folder, num_labels=3))
    asked = {"ignore_mismatched_sizes": True}
    assert load(LoadRequest(folder, num_labels=3, automodel_args=asked)).config.num_labels == 3


def test_another_encoder_size_is_always_refused(folder: Path) -> None:
    """Weights that do not fit the encoder are an error, whatever is asked."""
    asked = {"ignore_mismatched_sizes": True}
    with pytest.raises(ModelLoadError, match="has shape"):
        load(LoadRequest(folder, num_labels=1, automodel_args=asked, config_args={"intermediate_size": 48}))


def test_an_unknown_argument_is_named(folder: Path) -> None:
    """A misspelt keyword is the caller's error."""
    with pytest.raises(InvalidInput, match=r"automodel_args.*no_such_argument"):
        load(LoadRequest(folder, automodel_args={"no_such_argument": 1}))


def test_weights_without_a_place_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A config with fewer layers than the file leaves weights unused; a warning counts and names them."""
    load(LoadRequest(folder, config_args={"num_hidden_layers": 1}))
    assert "16 stored weights have no place in the model: bert.encoder.layer.1" in caplog.text


def test_a_model_that_cannot_be_built_is_one_line(folder: Path) -> None:
    """What transformers refuses is a ModelLoadError with its reason, in one line."""
    with pytest.raises(ModelLoadError, match=r"cannot be built: .*no_such_attention") as caught:
        load(LoadRequest(folder, automodel_args={"attn_implementation": "no_such_attention"}))
    assert "\n" not in str(caught.value)


def test_a_plain_encoder_of_another_class_trains_a_new_head(tmp_path: Path) -> None:
    """A masked-language model is a base for training when num_labels is given, and refused when it is not."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    path = make_folder(tmp_path / "base", "roberta")
    config = RobertaConfig.from_pretrained(path)
    RobertaForMaskedLM(config).save_pretrained(path)
    with pytest.raises(ModelLoadError, match="no classification head"):
        load(LoadRequest(path))
    assert load(LoadRequest(path, num_labels=2)).config.num_labels == 2
