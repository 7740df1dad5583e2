"""Rules of `secondpass.models.saving`."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, Qwen2Config, Qwen2ForSequenceClassification

from secondpass import CrossEncoder
from secondpass.errors import CheckpointError, InvalidInput, MissingExtra, ModelLoadError
from secondpass.forwards.contract import Computation
from secondpass.forwards.module import ModelForward
from secondpass.forwards.readout import POOLINGS, Dense, LayerNorm, ModuleChain, Pooling, ReadoutModel
from secondpass.lazy import optional
from secondpass.models import saving
from secondpass.models.building import compressed, expanded, save_compact
from secondpass.models.card import MARK, Measured, ModelCardData
from secondpass.models.config import write_older_rotary
from secondpass.models.folders import STALE_SECONDS, UNFINISHED
from secondpass.models.loading import Loaded, LoadRequest, load
from secondpass.models.saving import save
from tests import fork_server
from tests.tiny_models import ARCHITECTURES, ROUNDING, make_folder
from tests.toy_task import same, state


class Evaluator:
    """Has a name, as sentence-transformers' evaluators do."""

    def __init__(self, name: str = "") -> None:
        self.name = name


def test_the_latest_figures_of_each_evaluator_are_kept() -> None:
    """By its class and name; in the order of first measurement, as plain floats, or as the text that it gave."""
    data = ModelCardData()
    data.set_evaluation_metrics(Evaluator("dev"), {"dev_map": np.float64(0.5)}, epoch=1, step=10)
    data.set_evaluation_metrics(Evaluator("test"), {"test_map": "0.4 (+0.1)"})
    metrics = {"dev_map": np.float32(0.75)}
    data.set_evaluation_metrics(Evaluator("dev"), metrics, epoch=2, step=20)
    metrics.clear()
    assert data.measured == [
        Measured("Evaluator dev", {"dev_map": 0.75}, 2, 20),
        Measured("Evaluator test", {"test_map": "0.4 (+0.1)"}, -1, -1),
    ]
    assert type(data.measured[0].metrics["dev_map"]) is float


def test_a_card_is_a_table_with_front_matter() -> None:
    """Text of others cannot break out of its cell; without figures there is no card."""
    data = ModelCardData()
    assert data.text() is None
    data.set_evaluation_metrics(Evaluator("a|b\nc"), {"map": 1 / 3}, 1, 2)
    text = data.text()
    assert text.startswith("---\nlibrary_name: sentence-transformers\ntags:\n- cross-encoder\n---\n")
    assert "| Evaluator a\\|b c | 1 | 2 | map | 0.333333 |\n" in text


def test_saving_tells_the_figures(own_tiny: CrossEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """README.md is written and replaced by ours; one that somebody wrote stays, with a warning."""
    own_tiny.save(str(tmp_path))
    assert not (tmp_path / "README.md").exists()
    for figure in (0.25, 0.125):
        own_tiny.model_card_data.set_evaluation_metrics(Evaluator(), {"map": figure})
        own_tiny.save(str(tmp_path))
        text = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert f"| map | {figure} |" in text
        assert MARK in text
    (tmp_path / "README.md").write_text("mine")
    own_tiny.save(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "mine"
    assert "was written by somebody" in caplog.text


PAIRS = [("how do i reset my password", "reset the password by email"), ("a", "the cat sat on the mat")]


@pytest.fixture
def loaded(tiny_folder: str) -> Loaded:
    """Load the tiny model for this test alone."""
    return load(LoadRequest(tiny_folder))


def _saved(loaded: Loaded, path: Path, **options: Any) -> Path:
    save(path, loaded.model, loaded.tokenizer, nn.Sigmoid(), **options)
    return path


def _shifted(loaded: Loaded) -> Loaded:
    """Give the same model other weights."""
    with torch.no_grad():
        loaded.model.classifier.bias += 1
    return loaded


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_scores_the_same(tiny_model_folder: Any, architecture: str, tmp_path: Path) -> None:
    """Save and load again gives the same weights, bit for bit, and so the scores, for every architecture."""
    before = CrossEncoder(tiny_model_folder(architecture), device="cpu", default_activation_function=nn.Tanh())
    before.save(str(tmp_path / "made" / "here"))
    after = CrossEncoder(str(tmp_path / "made" / "here"), device="cpu")
    assert type(after.default_activation_function) is nn.Tanh
    assert same(state(after), state(before))
    assert after.predict(PAIRS) == pytest.approx(before.predict(PAIRS), rel=0, abs=ROUNDING)


def test_no_path_saves_nothing(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    """Without a path nothing happens, as in the seed."""
    with caplog.at_level(logging.INFO):
        save(None, loaded.model, loaded.tokenizer, nn.Sigmoid())
    assert caplog.messages == []


def test_the_path_is_logged(loaded: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A save is announced at INFO."""
    with caplog.at_level(logging.INFO, logger="secondpass.models.saving"):
        _saved(loaded, tmp_path)
    assert caplog.messages == [f"Save model to {tmp_path}"]


def test_pickles_are_not_written(loaded: Loaded, tmp_path: Path) -> None:
    """safe_serialization=False is refused and leaves no folder."""
    with pytest.raises(InvalidInput, match="safe_serialization=False"):
        _saved(loaded, tmp_path / "new", safe_serialization=False)
    assert not (tmp_path / "new").exists()


def test_uploading_is_another_call(loaded: Loaded, tmp_path: Path) -> None:
    """push_to_hub=True would upload a temporary name, so it is refused."""
    with pytest.raises(InvalidInput, match="push_to_hub"):
        _saved(loaded, tmp_path / "new", push_to_hub=True)


@pytest.mark.parametrize("options", [{"filename_prefix": "a"}, {"legacy_format": True}])
def test_a_tokenizers_files_have_one_form(loaded: Loaded, tmp_path: Path, options: dict[str, Any]) -> None:
    """Arguments of the tokenizer's own saving, which had no effect, are refused by name."""
    with pytest.raises(InvalidInput, match=f"^{next(iter(options))}="):
        _saved(loaded, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("limit", "stored"), [(64, 64), (None, 128)])
def test_the_length_limit_is_stored(loaded: Loaded, tmp_path: Path, limit: int | None, stored: int) -> None:
    """max_length goes where every reader looks for it, the tokenizer; None stores what the model allows."""
    loaded.tokenizer.model_max_length = 10**30
    _saved(loaded, tmp_path, max_length=limit)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == stored
    assert load(LoadRequest(tmp_path)).token_limit == stored
    assert loaded.tokenizer.model_max_length == 10**30


@pytest.mark.parametrize(("wish", "stored"), [(1024, 128), (np.int64(64), 64), (None, 128)])
def test_the_window_in_force_is_stored(own_tiny: CrossEncoder, tmp_path: Path, wish: Any, stored: int) -> None:
    """A wish beyond what the model reads is not written; numpy's whole numbers are."""
    own_tiny.max_length = wish
    own_tiny.save(str(tmp_path))
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == stored == own_tiny.window


def test_the_tokenizers_length_is_in_force_and_stored(own_tiny: CrossEncoder, tmp_path: Path) -> None:
    """Where no `max_length` was asked for, as in 3.4; up to what the model reads. What is saved scores the same."""
    pairs = [("the cat", "a dog and a cat " * 20)]
    whole = own_tiny.predict(pairs)
    own_tiny.tokenizer.model_max_length = 16
    assert own_tiny.window == own_tiny.max_seq_length == 16
    scores = own_tiny.predict(pairs)
    assert scores.tolist() != whole.tolist()
    own_tiny.save(str(tmp_path))
    again = CrossEncoder(str(tmp_path), device="cpu")
    assert again.window == 16
    assert again.predict(pairs) == pytest.approx(scores, rel=0, abs=ROUNDING)
    own_tiny.max_length = 64
    assert own_tiny.window == 64
    own_tiny.max_length = None
    own_tiny.tokenizer.model_max_length = 10**30
    assert own_tiny.predict(pairs) == pytest.approx(whole, rel=0, abs=ROUNDING)


def test_the_dtype_is_kept(tiny_folder: str, tmp_path: Path) -> None:
    """A half-precision model is written in half precision."""
    half = load(LoadRequest(tiny_folder, automodel_args={"dtype": torch.bfloat16}))
    weights = load_file(_saved(half, tmp_path) / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_compact_weights_become_ordinary_ones(loaded: Loaded, tiny_folder: str, tmp_path: Path) -> None:
    """A model read from int8 is saved as float32, and the int8 file it replaces is gone."""
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    save_compact(tmp_path, loaded.model.state_dict())
    compact = load(LoadRequest(tmp_path))
    weights = load_file(_saved(compact, tmp_path) / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert "model.int8.safetensors" not in _names(tmp_path)


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_compact_storage(tiny_model_folder: Callable[..., str], architecture: str, tmp_path: Path) -> None:
    """A quarter of the size in place of what was there; it loads to what was stored, and back again."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    encoder.save(str(tmp_path), max_shard_size="20KB")
    encoder.save(str(tmp_path), storage="int8")
    assert [name for name in _names(tmp_path) if "safetensors" in name] == ["model.int8.safetensors"]
    whole = sum(weight.numel() * weight.element_size() for weight in encoder.model.state_dict().values())
    assert (tmp_path / "model.int8.safetensors").stat().st_size < 0.5 * whole
    small = CrossEncoder(str(tmp_path), device="cpu")
    expected = expanded(compressed(encoder.model.state_dict()))
    assert same(state(small), {name: expected[name] for name in state(small)})
    small.save_pretrained(str(tmp_path))
    assert "model.int8.safetensors" not in _names(tmp_path)
    assert same(state(CrossEncoder(str(tmp_path), device="cpu")), state(small))


@pytest.mark.parametrize("options", [{"storage": "int4"}, {"storage": "int8", "max_shard_size": "1MB"}])
def test_compact_storage_refuses(own_tiny: CrossEncoder, options: dict[str, Any], tmp_path: Path) -> None:
    """Another form, or an option that has no effect on it; nothing is written."""
    with pytest.raises(InvalidInput, match="storage"):
        own_tiny.save(str(tmp_path / "new"), **options)
    assert not (tmp_path / "new").exists()


def test_other_files_stay(loaded: Loaded, tmp_path: Path) -> None:
    """What an evaluator wrote into the folder is still there."""
    (tmp_path / "results.csv").write_text("epoch,steps\n")
    (tmp_path / "model.fp16.safetensors").write_bytes(b"theirs")
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "scores.csv").write_text("1")
    _saved(loaded, tmp_path)
    assert (tmp_path / "results.csv").read_text() == "epoch,steps\n"
    assert (tmp_path / "model.fp16.safetensors").read_bytes() == b"theirs"
    assert (tmp_path / "eval" / "scores.csv").read_text() == "1"


def test_a_variant_is_saved_beside_the_others(loaded: Loaded, tmp_path: Path) -> None:
    """Options reach the model's own save, and a variant replaces nothing but itself."""
    _saved(loaded, tmp_path)
    _saved(loaded, tmp_path, variant="fp16")
    assert {"model.safetensors", "model.fp16.safetensors"} <= _names(tmp_path)


def test_without_any_known_limit_the_tokenizers_stays(loaded: Loaded, tmp_path: Path) -> None:
    """Where nothing says how long an input may be, nothing is invented."""
    loaded.tokenizer.model_max_length = 10**30
    loaded.model.config.max_position_embeddings = -1
    loaded.model.bert.embeddings.position_embeddings = None
    _saved(loaded, tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] >= 10**29


def test_only_the_needed_files_are_left(loaded: Loaded, tmp_path: Path) -> None:
    """A save leaves the model's files and no temporary ones, readable like any other file."""
    _saved(loaded, tmp_path)
    assert _names(tmp_path) == {
        "config.json",
        "config_sentence_transformers.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    plain = tmp_path.parent / "plain"
    plain.write_text("")
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {plain.stat().st_mode}


def test_weights_of_the_model_before_do_not_stay(loaded: Loaded, tmp_path: Path) -> None:
    """Shards over a single file, and a single file over shards: only the newest weights are left and read."""
    _saved(loaded, tmp_path)
    _saved(_shifted(loaded), tmp_path, max_shard_size="40KB")
    assert "model.safetensors" not in _names(tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    assert torch.equal(load(LoadRequest(tmp_path)).model.classifier.bias, loaded.model.classifier.bias)
    _saved(_shifted(loaded), tmp_path)
    assert {name for name in _names(tmp_path) if "safetensors" in name} == {"model.safetensors"}
    assert torch.equal(load(LoadRequest(tmp_path)).model.classifier.bias, loaded.model.classifier.bias)


@pytest.mark.parametrize("stop", [0, 1, 6])
def test_shards_are_of_one_model(loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """A save that stops while they are put in place leaves the model before, or the new one."""
    _saved(loaded, tmp_path, max_shard_size="20KB")
    old = load(LoadRequest(tmp_path)).model.state_dict()
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight.add_(1)
    replace, done = Path.replace, iter(range(stop))

    def stopping(path: Path, target: Path) -> Path:
        if next(done, None) is None:
            raise OSError("no space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(CheckpointError):
        _saved(loaded, tmp_path, max_shard_size="20KB")
    wanted = loaded.model.state_dict() if stop else old
    found = load(LoadRequest(tmp_path)).model.state_dict()
    assert all(torch.equal(weight, found[name]) for name, weight in wanted.items())


def test_the_callers_objects_are_not_changed(loaded: Loaded, tmp_path: Path) -> None:
    """Saving writes; config, tokenizer and training mode are as before."""
    loaded.model.train()
    before = loaded.model.config.to_json_string(), loaded.tokenizer.backend_tokenizer.to_str(), loaded.model.training
    _saved(loaded, tmp_path, max_length=32)
    after = loaded.model.config.to_json_string(), loaded.tokenizer.backend_tokenizer.to_str(), loaded.model.training
    assert after == before


def test_older_readers_know_the_tokenizer_class(loaded: Loaded, tmp_path: Path) -> None:
    """The generic class is named as transformers 4 names it, and how we loaded the tokenizer is not written."""
    settings = json.loads((_saved(loaded, tmp_path) / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    private = {"local_files_only", "localfiles_only", "is_local", "token", "revision", "name_or_path"}
    assert settings.keys().isdisjoint(private)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "localfiles_only": True}))
    again = json.loads(
        (_saved(load(LoadRequest(str(tmp_path))), tmp_path / "again") / "tokenizer_config.json").read_text()
    )
    assert again.keys().isdisjoint(private)


DEFAULT = {"rope_type": "default"}
SCALED = {"rope_type": "linear", "factor": 8.0}
ROTARY: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "modernbert",
        {"full_attention": DEFAULT | {"rope_theta": 5e3}, "sliding_attention": DEFAULT | {"rope_theta": 300.0}},
        {"global_rope_theta": 5e3, "local_rope_theta": 300.0},
    ),
    (
        "gemma3_text",
        {"full_attention": SCALED | {"rope_theta": 7e5}, "sliding_attention": DEFAULT | {"rope_theta": 200.0}},
        {"rope_theta": 7e5, "rope_local_base_freq": 200.0, "rope_scaling": SCALED},
    ),
    ("qwen3", DEFAULT | {"rope_theta": 1e6}, {"rope_theta": 1e6}),
    ("llama", SCALED | {"rope_theta": 6e5}, {"rope_theta": 6e5, "rope_scaling": SCALED}),
    ("bert", {}, {}),
]


@pytest.mark.parametrize(("family", "rotary", "older"), ROTARY, ids=[family for family, *_ in ROTARY])
def test_older_readers_find_the_rotary_settings(
    family: str, rotary: dict[str, Any], older: dict[str, Any], tmp_path: Path
) -> None:
    """Under the names that transformers 4 knows; without them it takes defaults. transformers 5 reads what it wrote."""
    config = AutoConfig.for_model(family, **({"rope_parameters": rotary} if rotary else {}))
    config.save_pretrained(tmp_path)
    write_older_rotary(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    names = ("rope_theta", "rope_local_base_freq", "global_rope_theta", "local_rope_theta", "rope_scaling")
    assert {name: written[name] for name in names if name in written} == older
    again = AutoConfig.from_pretrained(tmp_path)
    assert getattr(again, "rope_parameters", None) == getattr(config, "rope_parameters", None)


def test_a_saved_model_has_the_older_rotary_names(tiny_model_folder: Callable[..., str], tmp_path: Path) -> None:
    """By its save, whatever wrote the folder that it came from."""
    CrossEncoder(tiny_model_folder("modernbert"), device="cpu").save(str(tmp_path / "saved"))
    written = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert written["local_rope_theta"] == written["rope_parameters"]["sliding_attention"]["rope_theta"]


def test_a_failed_save_keeps_the_model_before(loaded: Loaded, tmp_path: Path) -> None:
    """When the tokenizer cannot be written after the weights were, the folder is what it was."""
    _saved(loaded, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Unwritable:
        model_max_length = 128

        def save_pretrained(self, folder: Path) -> None:
            raise OSError("no space left")

    with pytest.raises(CheckpointError, match="no space left"):
        save(tmp_path, _shifted(loaded).model, Unwritable(), nn.Sigmoid())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_keeps_the_model_before(tiny_folder: str, tmp_path: Path) -> None:
    """A real write that the system refuses raises CheckpointError and leaves the saved model whole."""
    code = (
        "import resource, sys\n"
        "from torch import nn\n"
        "from secondpass.models.loading import LoadRequest, load\n"
        "from secondpass.models.saving import save\n"
        "loaded = load(LoadRequest(sys.argv[1]))\n"
        "save(sys.argv[2], loaded.model, loaded.tokenizer, nn.Sigmoid())\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "save(sys.argv[2], loaded.model, loaded.tokenizer, nn.Tanh())\n"
    )
    target = tmp_path / "model"
    done = fork_server.run([sys.executable, "-c", code, tiny_folder, target], text=True, timeout=60)
    assert "CheckpointError: the model cannot be saved to" in done.stderr
    assert not list(target.glob(f"{UNFINISHED}*"))
    assert load(LoadRequest(target)).stored_activation == "torch.nn.modules.activation.Sigmoid"


def test_a_kill_at_any_time_leaves_a_whole_model(tiny_folder: str, tmp_path: Path) -> None:
    """A process that saves without end is stopped at random times; what is on the disk then always loads."""
    code = (
        "import sys\n"
        "from torch import nn\n"
        "from secondpass.models.loading import LoadRequest, load\n"
        "from secondpass.models.saving import save\n"
        "loaded = load(LoadRequest(sys.argv[1]))\n"
        "while True:\n"
        "    save(sys.argv[2], loaded.model, loaded.tokenizer, nn.Sigmoid())\n"
        "    print('saved', flush=True)\n"
    )
    target = tmp_path / "model"
    process = fork_server.Popen([sys.executable, "-c", code, tiny_folder, target], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        process.stdout.readline()
        try:
            for _ in range(30):
                process.send_signal(signal.SIGSTOP)
                assert load(LoadRequest(target)).stored_activation == "torch.nn.modules.activation.Sigmoid"
                process.send_signal(signal.SIGCONT)
                time.sleep(random.random() / 20)
        finally:
            process.kill()
            process.wait()
    assert load(LoadRequest(target)).token_limit == 128


def test_old_leftovers_are_swept(loaded: Loaded, tmp_path: Path) -> None:
    """What a killed save left is removed by a later one, but not what another process may still be writing."""
    old, young = tmp_path / f"{UNFINISHED}old", tmp_path / f"{UNFINISHED}young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    os.utime(old, (time.time() - STALE_SECONDS - 60,) * 2)
    _saved(loaded, tmp_path)
    assert not old.exists()
    assert young.exists()


def test_a_path_that_is_a_file_is_refused(loaded: Loaded, tmp_path: Path) -> None:
    """A file where the folder should be raises CheckpointError and stays."""
    target = tmp_path / "model"
    target.write_text("mine")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        _saved(loaded, target)
    assert target.read_text() == "mine"


def test_a_wider_head_comes_back(tmp_path: Path) -> None:
    """The number of labels travels with the model."""
    wide = load(LoadRequest(make_folder(tmp_path / "wide", "distilbert", num_labels=4)))
    assert load(LoadRequest(_saved(wide, tmp_path / "again"))).config.num_labels == 4


# ---- One ONNX file.
PAIRS = [("where is the house", "cold water"), ("red", "the small cat sat on the mat and " * 9), ("open", "")]


def read_elsewhere(folder: Path, pairs: list[tuple[str, str]], limit: int) -> np.ndarray:
    """Logits of onnxruntime, from what the folder holds alone, as somebody without torch reads it."""
    session = pytest.importorskip("onnxruntime", reason="needs the extra onnx").InferenceSession(folder / "model.onnx")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding(pad_id=config["pad_token_id"])
    found = tokenizer.encode_batch(pairs)
    columns = {"input_ids": "ids", "token_type_ids": "type_ids", "attention_mask": "attention_mask"}
    named = {one.name: np.array([getattr(item, columns[one.name]) for item in found]) for one in session.get_inputs()}
    return np.asarray(session.run(["logits"], named)[0])


@pytest.mark.parametrize("architecture", ["bert", "deberta-v2"])
def test_an_onnx_file_gives_our_scores(architecture: str, tmp_path: Path) -> None:
    """Of any number of pairs of any length, with one label and several; what runs it stands beside it."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    labels = 3 if architecture == "bert" else 1
    make_folder(tmp_path / "model", architecture, num_labels=labels)
    model = CrossEncoder(str(tmp_path / "model"), device="cpu", max_length=64)
    made = model.export_onnx(str(tmp_path / "onnx"))
    assert (made.difference <= 1e-5, made.pairs) == (True, 13)
    assert made.path == tmp_path / "onnx" / "model.onnx"
    for pairs in (PAIRS[:2], PAIRS[:1], PAIRS[1:2] * 5):
        ours = model.predict(pairs, activation_fct=nn.Identity()).reshape(len(pairs), labels)
        np.testing.assert_allclose(read_elsewhere(made.path.parent, pairs, 64), ours, atol=ROUNDING)
    settings = json.loads((tmp_path / "onnx" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["model_max_length"] == 64
    assert {"special_tokens_map.json", "config_sentence_transformers.json"} <= set(os.listdir(tmp_path / "onnx"))
    with pytest.raises(ModelLoadError, match="holds an ONNX model"):
        CrossEncoder(str(tmp_path / "onnx"), device="cpu")


def test_a_module_chain_becomes_onnx_too(tmp_path: Path) -> None:
    """With its readout, however it pools; a model in half precision is written in float32, and stays as it is."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    make_folder(tmp_path / "model", "modernbert")
    model = CrossEncoder(str(tmp_path / "model"), device="cpu")
    torch.manual_seed(3)
    chain = ModuleChain(
        [
            Pooling(32, tuple(POOLINGS)),
            Dense((32 * len(POOLINGS), 32), False, nn.GELU()),
            LayerNorm(32),
            Dense((32, 1), True, nn.Identity(), writes="scores"),
        ]
    )
    model.model = whole = ReadoutModel(model.model.model, chain).eval().bfloat16()
    made = model.export_onnx(tmp_path / "onnx")
    assert made.difference < 1e-5
    assert whole.dtype == torch.bfloat16
    samples = model.tokens(*zip(*PAIRS, strict=True))
    wanted = ModelForward(whole.float(), model.tokenizer.model_input_names, model.padding, "fp32").ready()
    np.testing.assert_allclose(read_elsewhere(tmp_path / "onnx", PAIRS, 128), wanted.logits(samples), atol=ROUNDING)


def test_an_onnx_file_with_other_scores_is_not_written(
    tiny: CrossEncoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error has the difference; the file of before stays, and nothing else is left."""
    pytest.importorskip("onnx", reason="needs the extra onnx")
    folder = tmp_path / "onnx"
    tiny.export_onnx(str(folder))
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    computed = ModelForward.ready

    def wrong(self: ModelForward) -> Computation:
        return replace(computed(self), logits=lambda inputs: computed(self).logits(inputs) + np.float32(2e-4))

    monkeypatch.setattr(ModelForward, "ready", wrong)
    with monkeypatch.context() as patched:
        patched.setattr("torch.onnx.export", lambda *_, **__: {}["operator"])
        with pytest.raises(CheckpointError, match=f"cannot be exported to {folder}: 'operator'"):
            tiny.export_onnx(str(folder))
    with pytest.raises(CheckpointError, match=r"differ from ours by up to 2\.0e-04 on 13 sample pairs, more than 1e-0"):
        tiny.export_onnx(str(folder))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_cannot_become_onnx_is_refused(
    own_tiny: CrossEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoders, folders that hold a model, a file for a folder, missing libraries: before anything is written."""
    own = own_tiny.model
    own_tiny.model = Qwen2ForSequenceClassification(
        Qwen2Config(vocab_size=500, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(InvalidInput, match=r"Qwen2ForSequenceClassification is not exported .* are: Bert, .*Modern"):
        own_tiny.export_onnx(tmp_path / "a")
    own_tiny.model = own
    with pytest.raises(InvalidInput, match=r"is to be a folder: model\.onnx is written into it"):
        own_tiny.export_onnx(str(tmp_path / "a.onnx"))
    own_tiny.save(str(tmp_path / "saved"))
    with pytest.raises(InvalidInput, match="holds a model of its own"):
        own_tiny.export_onnx(str(tmp_path / "saved"))
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setattr(saving, "optional", partial(first_missing, name))
        with pytest.raises(MissingExtra, match=rf'{name} is not installed: pip install "secondpass\[onnx\]"'):
            own_tiny.export_onnx(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()


def first_missing(name: str, module: str, library: str, extra: str) -> object:
    """`lazy.optional` where all but one library is there."""
    return optional(module, library, extra) if module == name else None
