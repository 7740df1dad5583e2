"""Rows 39 and 40 of the fault table: no code that a model folder brings or names is run."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.models.loading import LoadRequest, load

# A model class that leaves a mark when it is imported: proof that foreign code ran.
FOREIGN = """
from pathlib import Path
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

Path({mark!r}).touch()


class ForeignConfig(BertConfig):
    model_type = "foreign"


class ForeignModel(BertForSequenceClassification):
    config_class = ForeignConfig


class ForeignTokenizer(PreTrainedTokenizerFast):
    pass
"""


AUTO_MAP = {"AutoConfig": "foreign.ForeignConfig", "AutoModelForSequenceClassification": "foreign.ForeignModel"}


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that spoils it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture
def mark(folder: Path) -> Path:
    """Put foreign code into the folder; the returned file exists once it has run."""
    path = folder.parent / "ran"
    (folder / "foreign.py").write_text(FOREIGN.format(mark=str(path)))
    return path


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_row_39_a_known_architecture_never_uses_code_of_the_folder(folder: Path, mark: Path) -> None:
    """An auto_map on a BERT is passed over: the class is transformers' own."""
    _edit(folder / "config.json", auto_map=AUTO_MAP)
    _edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "foreign.ForeignTokenizer"]})
    loaded = load(LoadRequest(folder))
    assert type(loaded.model).__module__ == "transformers.models.bert.modeling_bert"
    assert type(loaded.tokenizer).__module__.startswith("transformers.")
    assert not mark.exists()


def test_row_39_an_architecture_with_its_own_code_is_refused(folder: Path, mark: Path) -> None:
    """A model type that only the folder's code knows is refused, naming the switch, and nothing runs."""
    _edit(folder / "config.json", auto_map=AUTO_MAP, model_type="foreign")
    with pytest.raises(ModelLoadError, match="trust_remote_code=True"):
        load(LoadRequest(folder))
    assert not mark.exists()


def test_row_39_weights_for_code_of_the_folder_are_explained(folder: Path, mark: Path) -> None:
    """A known model type whose weights fit only the folder's own class is refused, and the message says why."""
    from safetensors.torch import load_file, save_file

    _edit(folder / "config.json", auto_map=AUTO_MAP)
    path = folder / "model.safetensors"
    renamed = {key.replace("attention.self", "mixer"): weight for key, weight in load_file(path).items()}
    path.unlink()
    save_file(renamed, path)
    with pytest.raises(ModelLoadError, match=r"weights are missing.*its own code.*trust_remote_code=True"):
        load(LoadRequest(folder))
    assert not mark.exists()


def test_row_39_nested_configs_and_attention_names_bring_no_code(folder: Path, mark: Path) -> None:
    """The two ways around the flag that had a CVE are closed: nested auto_map, and a kernel named as attention."""
    _edit(
        folder / "config.json",
        _attn_implementation_internal="org/kernel",
        attn_implementation="org/kernel",
        text_config={"auto_map": AUTO_MAP, "model_type": "foreign", "_attn_implementation_internal": "org/kernel"},
    )
    loaded = load(LoadRequest(folder))
    assert loaded.config._attn_implementation in ("eager", "sdpa")
    assert "org/kernel" not in loaded.config.to_json_string()
    assert not mark.exists()


@pytest.mark.parametrize("asked", [{"attn_implementation": "org/kernel"}, {"use_kernels": True}])
def test_row_39_kernels_of_the_hub_need_the_switch(folder: Path, asked: dict[str, Any]) -> None:
    """Native code from the hub is remote code."""
    with pytest.raises(InvalidInput, match="needs trust_remote_code=True"):
        load(LoadRequest(folder, automodel_args=asked))


def test_row_39_code_runs_only_when_asked_for(folder: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With trust_remote_code=True the folder's own class is used, and it still reads safetensors alone."""
    modules = folder.parent / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", [*sys.path])
    _edit(folder / "config.json", auto_map=AUTO_MAP, model_type="foreign")
    loaded = load(LoadRequest(folder, trust_remote_code=True))
    assert mark.exists()
    assert type(loaded.model).__name__ == "ForeignModel"
    _edit(folder / "config.json", auto_map={"AutoConfig": "foreign.ForeignConfig"})
    with pytest.raises(ModelLoadError, match="no sequence classifier for a ForeignConfig"):
        load(LoadRequest(folder, trust_remote_code=True))
    _edit(folder / "config.json", auto_map=AUTO_MAP | {"AutoModelForSequenceClassification": "foreign.Absent"})
    with pytest.raises(ModelLoadError, match="the model's own code failed"):
        load(LoadRequest(folder, trust_remote_code=True))
    _edit(folder / "config.json", auto_map={"AutoModel": "foreign.ForeignModel"}, model_type="bert")
    assert type(load(LoadRequest(folder, trust_remote_code=True)).model).__module__.startswith("transformers.")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match="pickle files"):
        load(LoadRequest(folder, trust_remote_code=True))


def test_row_39_trusted_code_that_fails_is_a_load_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even trusted code ends in our error, with the folder, when it cannot be imported."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder.parent / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "foreign.py").write_text("raise RuntimeError")
    _edit(folder / "config.json", auto_map=AUTO_MAP, model_type="foreign")
    with pytest.raises(ModelLoadError, match="the model's own config code failed"):
        load(LoadRequest(folder, trust_remote_code=True))


@pytest.mark.parametrize("name", ["subprocess.Popen", "os.system", "foreign.ForeignModel", "torch.hub.load"])
@pytest.mark.parametrize("generation", [1, 2, 3])
def test_row_40_an_activation_name_imports_nothing(
    folder: Path,
    mark: Path,
    name: str,
    generation: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A config that names any other class than an activation of torch.nn gets the default and a warning.

    Even where the class could be imported by its name.
    """
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "foreign", raising=False)
    assert find_spec("foreign") is not None
    if generation == 1:
        _edit(folder / "config.json", sbert_ce_default_activation_function=name)
    elif generation == 2:
        _edit(folder / "config.json", sentence_transformers={"activation_fn": name})
    else:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"activation_fn": name}))
    with caplog.at_level(logging.WARNING, logger="secondpass"):
        engine = CrossEncoder(str(folder), device="cpu")
    assert type(engine.default_activation_function) is nn.Sigmoid
    assert name in caplog.text
    assert not mark.exists()
