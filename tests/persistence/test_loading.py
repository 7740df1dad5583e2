"""loading: the whole way from a name to a checked model."""

from __future__ import annotations

import json
import shutil
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.persistence.compact import FILE, save_compact
from secondpass.persistence.loading import LoadRequest, load
from secondpass.persistence.weights import COMPACT
from tests.hub_cache import add_to_cache, commit_id
from tests.tiny_models import ARCHITECTURES


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that changes it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def compact_folder(folder: Path) -> Path:
    """Give the tiny model int8 weights instead of its own."""
    save_compact(folder, load(LoadRequest(folder)).model.state_dict())
    (folder / "model.safetensors").unlink()
    return folder


def _request(source: str, **arguments: Any) -> LoadRequest:
    return LoadRequest(source, **arguments)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_part_is_there(tiny_model_folder: Any, architecture: str) -> None:
    """Config, model, tokenizer and limit belong to one another, for every architecture."""
    path = tiny_model_folder(architecture, 2)
    loaded = load(LoadRequest(path))
    assert loaded.config is loaded.model.config
    assert loaded.config.num_labels == 2
    assert loaded.config.name_or_path == path
    assert loaded.token_limit == 128
    assert loaded.stored_activation is None
    assert not loaded.placed
    assert len(loaded.tokenizer) == loaded.config.vocab_size


def test_the_values_are_frozen(tiny_folder: str) -> None:
    """Request and result cannot be changed by accident."""
    request = LoadRequest(tiny_folder)
    with pytest.raises(FrozenInstanceError):
        request.source = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        load(request).placed = True  # type: ignore[misc]


def test_a_path_object_is_taken(folder: Path) -> None:
    """A Path is as good as a str."""
    assert load(LoadRequest(folder)).token_limit == 128


def test_a_hub_name_keeps_its_name(tiny_folder: str, tmp_path: Path) -> None:
    """A cached hub model loads offline, and its config says the name rather than the cache's folder."""
    add_to_cache(tmp_path, "org/tiny", tiny_folder, commit_id(1))
    loaded = load(LoadRequest("org/tiny", cache_dir=tmp_path, local_files_only=True))
    assert loaded.config.name_or_path == "org/tiny"


def test_compact_weights_are_read(compact_folder: Path, tiny_folder: str) -> None:
    """A folder with model.int8.safetensors alone loads as float32, close to the model it was made from."""
    exact, compact = load(LoadRequest(tiny_folder)).model, load(LoadRequest(compact_folder)).model
    assert compact.dtype == torch.float32
    original = exact.classifier.weight.detach()
    assert torch.allclose(compact.classifier.weight, original, atol=float(original.abs().max()) / 127)
    assert FILE == COMPACT


def test_full_weights_win_over_compact_ones(folder: Path) -> None:
    """With both files in the folder the exact weights are read."""
    before = load(LoadRequest(folder)).model
    save_compact(folder, {key: weight * 0 for key, weight in before.state_dict().items()})
    assert torch.equal(load(LoadRequest(folder)).model.classifier.weight, before.classifier.weight)


def test_a_compact_model_takes_a_dtype_and_nothing_else(compact_folder: Path) -> None:
    """A dtype is honoured; an argument that would have no effect is refused, not ignored."""
    asked = {"dtype": torch.bfloat16}
    assert load(LoadRequest(compact_folder, automodel_args=asked)).model.dtype == torch.bfloat16
    with pytest.raises(InvalidInput, match=r"device_map.* cannot be used with a compact model"):
        load(LoadRequest(compact_folder, automodel_args={"device_map": "cpu"}))


def test_a_compact_head_of_another_size_is_refused(compact_folder: Path) -> None:
    """num_labels= does not turn a compact model into one with a random head."""
    with pytest.raises(ModelLoadError):
        load(LoadRequest(compact_folder, num_labels=2))


def test_a_device_map_is_left_alone(tiny_folder: str) -> None:
    """A model placed by device_map says so, and the device argument does not move it."""
    pytest.importorskip("accelerate")
    asked: dict[str, Any] = {"device_map": {"": "cpu"}}
    assert load(LoadRequest(tiny_folder, automodel_args=asked)).placed
    assert CrossEncoder(tiny_folder, automodel_args=asked, device="meta").device.type == "cpu"


@pytest.mark.parametrize("name", ["automodel_args", "tokenizer_args", "config_args"])
@pytest.mark.parametrize("key", ["trust_remote_code", "revision", "cache_dir", "local_files_only", "num_labels"])
def test_arguments_with_a_parameter_are_not_taken_twice(tiny_folder: str, name: str, key: str) -> None:
    """What the constructor has a parameter for is refused in the dicts, with the parameter to use."""
    with pytest.raises(InvalidInput, match=rf"{name}\['{key}'\]: give {key}= itself"):
        load(_request(tiny_folder, **{name: {key: True}}))


@pytest.mark.parametrize("key", ["state_dict", "gguf_file", "subfolder", "adapter_kwargs", "config"])
def test_arguments_that_read_other_files_are_refused(tiny_folder: str, key: str) -> None:
    """No argument makes transformers open a file that the checks have not seen."""
    with pytest.raises(InvalidInput, match=rf"automodel_args\['{key}'\] is not supported"):
        load(LoadRequest(tiny_folder, automodel_args={key: "x"}))


@pytest.mark.parametrize("labels", [0, -1, True, 1.0, "2"])
def test_a_number_of_labels_that_is_none_is_refused(tiny_folder: str, labels: Any) -> None:
    """num_labels is a positive int or None."""
    with pytest.raises(InvalidInput, match="num_labels="):
        load(LoadRequest(tiny_folder, num_labels=labels))


def test_the_dicts_must_be_dicts(tiny_folder: str) -> None:
    """A list of settings is named with its type."""
    with pytest.raises(InvalidInput, match="tokenizer_args is list"):
        load(LoadRequest(tiny_folder, tokenizer_args=[]))  # type: ignore[arg-type]


def test_the_callers_dicts_are_not_changed(tiny_folder: str) -> None:
    """The same dicts can be used for a second model."""
    given: dict[str, dict[str, Any]] = {
        "automodel_args": {"dtype": torch.float32, "use_safetensors": True},
        "tokenizer_args": {"model_max_length": 64},
        "config_args": {"hidden_dropout_prob": 0.0},
    }
    before = {name: dict(part) for name, part in given.items()}
    load(_request(tiny_folder, **given))
    assert given == before


def test_a_stored_activation_is_handed_on_as_a_name(folder: Path) -> None:
    """Loading makes no function of the stored name; that is decided later, by the rules of trust."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sbert_ce_default_activation_function": "os.abort"}))
    assert load(LoadRequest(folder)).stored_activation == "os.abort"
