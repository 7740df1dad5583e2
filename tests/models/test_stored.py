"""Rules of `secondpass.models.stored`: a folder without torch is what torch makes of it, or torch reads it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING

from secondpass import CrossEncoder
from secondpass.errors import CheckpointError, InvalidInput, MissingExtra, ModelLoadError
from secondpass.forwards.description import Broken, NotDescribed, StoredArray
from secondpass.forwards.families import ENCODERS, describe, describe_stored, stored_family
from secondpass.forwards.readout import ReadoutModel
from secondpass.models.building import compressed, expanded, save_compact
from secondpass.models.identity import weights_digest
from secondpass.models.loading import Loaded, LoadRequest, load
from secondpass.models.stored import StoredModel, _read, open_model
from secondpass.models.weights import GROUP, HeldFiles, arrays_of
from secondpass.tuning.probabilities import fitted
from tests.parity.test_families import ARCHITECTURES, tiny
from tests.tiny_models import make_chain, make_folder

STORED = [
    (family, name) for family in ENCODERS for name, own in family.architectures.items() if own.model_type is not None
]
PAIRS = [("cat", "a cat sat on the mat"), ("cold river", ""), ("how", "how to reset " * 30), ("a", "[SEP] cat")]


def opened(folder: Any, **asked: Any) -> StoredModel:
    """A folder that needs no torch."""
    made = open_model(LoadRequest(str(folder), **asked))
    assert isinstance(made, StoredModel)
    return made


def same(own: Any, theirs: Any) -> None:
    """Two descriptions have the same parts and the same numbers."""
    assert type(own) is type(theirs) or isinstance(own, (StoredArray, np.ndarray))
    if isinstance(own, tuple):
        for one, other in zip(own, theirs, strict=True):
            same(one, other)
    elif is_dataclass(own):
        for part in fields(own):
            same(getattr(own, part.name), getattr(theirs, part.name))
    elif hasattr(own, "shape"):
        numbers = theirs.numpy() if isinstance(theirs, torch.Tensor) else theirs
        assert tuple(own.shape) == np.asarray(own).shape
        # frequencies are powers, which torch rounds otherwise
        assert np.allclose(np.asarray(own), numbers, rtol=2e-7 if own is not theirs else 0, atol=0)
    else:
        assert own == theirs


@pytest.mark.parametrize(("family", "name"), STORED, ids=lambda given: given if isinstance(given, str) else "")
def test_a_folder_is_described_as_its_model_of_torch(family: Any, name: str, tmp_path: Path) -> None:
    """Every architecture that is read without torch, with every weight at its place and none left over."""
    model = tiny(name)
    body = model.body if isinstance(model, ReadoutModel) else model
    body.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    assert stored_family(settings["architectures"][0], settings["model_type"]) is family
    arrays = arrays_of(HeldFiles(tmp_path, ["model.safetensors"]), "model.safetensors")
    theirs: Any = describe(model)
    readout = theirs.readout if isinstance(model, ReadoutModel) else None
    own, unused = describe_stored(family, name, settings, arrays, readout)
    same(own, theirs)
    assert [name for name in unused if "pooler" not in name] == []


def test_architectures_without_a_type_need_torch() -> None:
    """What nobody can read without torch is named here: distances and decoders."""
    left = {*ARCHITECTURES} - {name for _, name in STORED}
    assert {name for name in left if not name.startswith(("Qwen", "Llama", "Mistral", "Gemma"))} == {
        "DebertaV2ForSequenceClassification",
        "DebertaV2Model",
    }


@pytest.mark.parametrize("kind", sorted({kind for family in ENCODERS for kind in family.stored}))
def test_what_a_config_does_not_say_is_what_transformers_has(kind: str) -> None:
    """Each default of each model type."""
    config = CONFIG_MAPPING[kind]()
    own = next(family.stored[kind] for family in ENCODERS if kind in family.stored)
    ours_alone = {
        "global_attn_every_n_layers",
        "rope_scaling",
        "global_rope_theta",
        "local_rope_theta",
        "sliding_window",
    }
    made_of_others = {"layer_types", "rope_parameters"}
    for key, value in own.defaults.items():
        theirs = own.aliases.get(key, key)
        if key in ours_alone | made_of_others or (kind == "distilbert" and key == "layer_norm_eps"):
            continue
        assert getattr(config, theirs) == value, key
    if kind == "modernbert":
        thetas = [config.rope_parameters[layer]["rope_theta"] for layer in ("full_attention", "sliding_attention")]
        assert thetas == [own.defaults["global_rope_theta"], own.defaults["local_rope_theta"]]
        assert config.layer_types[:4] == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


@pytest.mark.parametrize("architecture", ["bert", "electra", "distilbert", "roberta", "modernbert", "xlm-roberta"])
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_scores_are_those_of_the_model_of_torch(tiny_model_folder: Any, architecture: str, labels: int) -> None:
    """Before somebody asks for the model and afterwards, bit for bit; what is changed in it then is noticed."""
    folder = tiny_model_folder(architecture, labels)
    own, theirs = CrossEncoder(folder), CrossEncoder(folder, automodel_args={"dtype": "float32"})
    assert isinstance(own._loaded, StoredModel)
    assert isinstance(theirs._loaded, Loaded)
    exact = 0 if architecture != "modernbert" else 1e-5
    first = own.predict(PAIRS)
    assert np.allclose(first, theirs.predict(PAIRS), rtol=0, atol=exact)
    assert [own.window, own.num_labels, own.precision, repr(own)] == [
        theirs.window,
        theirs.num_labels,
        theirs.precision,
        repr(theirs),
    ]
    assert own.config.to_dict() == theirs.config.to_dict()
    assert (own.predict(PAIRS) == first).all()
    with torch.no_grad():
        own.model.base_model.embeddings.get_parameter(
            "tok_embeddings.weight" if architecture == "modernbert" else "word_embeddings.weight"
        ).mul_(2)
    assert (own.predict(PAIRS) != first).any()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("architecture", ["modernbert", "bert"])
def test_a_chain_needs_no_torch(
    tmp_path: Path, architecture: str, pooling: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its modules are read from their folders; saved again it is the same. A pooler below them is no odd weight."""
    folder = make_chain(tmp_path / "chain", architecture, pooling)
    own, theirs = CrossEncoder(str(folder)), CrossEncoder(str(folder), automodel_args={"dtype": "float32"})
    assert isinstance(own._loaded, StoredModel)
    assert np.allclose(own.predict(PAIRS), theirs.predict(PAIRS), rtol=0, atol=1e-5)
    own.save(str(tmp_path / "again"))
    assert np.allclose(CrossEncoder(str(tmp_path / "again")).predict(PAIRS), own.predict(PAIRS), rtol=0, atol=1e-5)
    assert caplog.messages == []


def test_chains_of_the_same_files_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the list of their modules, some of which have no file: none gets what the cache keeps of another."""
    monkeypatch.setenv("SECONDPASS_CACHE", str(tmp_path / "cache"))
    plain, other = make_chain(tmp_path / "plain", "bert"), tmp_path / "other"
    shutil.copytree(plain, other)
    modules = json.loads((other / "modules.json").read_text())
    kind = "sentence_transformers.models.Normalize"
    modules.insert(2, {"idx": 2, "name": "n", "path": "9_Normalize", "type": kind})
    (other / "modules.json").write_text(json.dumps(modules))
    first, second = (CrossEncoder(str(folder)).predict(PAIRS) for folder in (plain, other))
    assert len([*(tmp_path / "cache" / "kernel").glob("*.weights")]) == 2
    monkeypatch.setenv("SECONDPASS_CACHE", "off")
    assert (CrossEncoder(str(other)).predict(PAIRS) == second).all()
    assert (first != second).all()


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "int8", "5 bits", "shards"])
def test_every_form_of_weights_is_read(tiny_model_folder: Any, tmp_path: Path, kind: str) -> None:
    """As float32, whatever the file has, to the bit that torch has."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("bert"), folder)
    if kind == "int8":
        CrossEncoder(str(folder)).save(str(folder), storage="int8")
    elif kind == "5 bits":
        make_folder(folder, "bert", hidden_size=GROUP, intermediate_size=2 * GROUP)
        weights = load_file(folder / "model.safetensors")
        fewer = [name for name, one in weights.items() if one.ndim > 1 and name != "classifier.weight"]
        save_compact(folder, weights, dict.fromkeys(fewer, 5))
        (folder / "model.safetensors").unlink()
    elif kind == "shards":
        model = CrossEncoder(str(folder)).model
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="20KB")
        assert len([*folder.glob("model-*.safetensors")]) > 1
    else:
        weights = load_file(folder / "model.safetensors")
        save_file({name: one.to(getattr(torch, kind)) for name, one in weights.items()}, folder / "model.safetensors")
    own, theirs = (
        CrossEncoder(str(folder)),
        CrossEncoder(str(folder), automodel_args={"dtype": "float32"})
        if kind not in ("int8", "5 bits")
        else load(LoadRequest(folder)),
    )
    assert isinstance(own._loaded, StoredModel)
    first = own.predict(PAIRS)
    if isinstance(theirs, CrossEncoder):
        assert (first == theirs.predict(PAIRS)).all()
    assert own.model.dtype == torch.float32
    assert (own.predict(PAIRS) == first).all()


def _config(change: dict[str, Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "config.json"
        content = {**json.loads(path.read_text()), **change}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return write


def _compact(folder: Path) -> None:
    CrossEncoder(str(folder)).save(str(folder), storage="int8")
    _config({"dtype": "bfloat16"})(folder)


def _altered(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return write


def _cut(weights: dict[str, Any], places: str) -> None:
    weights |= {name: one[:16].clone() for name, one in weights.items() if re.search(places, name)}


def _encoder_alone(folder: Path) -> None:
    _config({"architectures": ["BertForMaskedLM"]})(folder)
    _altered(lambda weights: [weights.pop(f"classifier.{name}") for name in ("weight", "bias")])(folder)


def _names_of_2018(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    named = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): one for name, one in weights.items()}
    save_file({name.replace("LayerNorm.bias", "LayerNorm.beta"): one for name, one in named.items()},
              folder / "model.safetensors")  # fmt: skip


UNUSUAL: dict[str, tuple[dict[str, Any], Callable[[Path], None], str]] = {
    "arguments of transformers": ({"tokenizer_args": {"model_max_length": 64}}, lambda folder: None, "arguments"),
    "an activation": ({}, _config({"hidden_act": "mish"}), "activation"),
    "a decoder": ({}, _config({"is_decoder": True}), "that is not known"),
    "int8 that becomes a half type": ({}, _compact, "half type"),
    "a quantised model": ({}, _config({"quantization_config": {"quant_method": "none"}}), "quantization_config"),
    "no class": ({"num_labels": 1}, _config({"architectures": ...}), "no class"),
    "a class without a head": ({"num_labels": 1}, _config({"architectures": ["BertModel"]}), "BertModel"),
    "a head of a class without one": ({}, _config({"architectures": ["BertModel"]}), "BertModel"),
    "another type of the same names": ({}, _config({"architectures": ["RobertaForSequenceClassification"]}), "bert"),
    "names of 2018": ({}, _names_of_2018, "LayerNorm"),
    "labels by name": ({}, _config({"id2label": {"x": "a"}, "label2id": {"a": "x"}}), "labels"),
    "another device": ({"device": "meta"}, lambda folder: None, "meta"),
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_unusual_is_left_to_torch(
    tiny_model_folder: Any, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads as it always did, or is refused in the same words; without torch the reason is told."""
    asked, change, reason = UNUSUAL[case]
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("bert"), folder)
    change(folder)
    results: list[object] = []
    for way in (open_model, load):
        try:
            results.append(type(way(LoadRequest(str(folder), **asked))))
        except Exception as error:  # whatever today's is
            results.append(str(error))
    assert results[0] == results[1]
    assert results[0] is Loaded or isinstance(results[0], str)
    monkeypatch.setattr("secondpass.models.stored.has_torch", lambda: False)
    with pytest.raises(MissingExtra, match=f"{reason}.*secondpass\\[torch\\]"):
        open_model(LoadRequest(str(folder), **asked))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "another vocabulary": (_config({"vocab_size": 30_000}), r"the embeddings have shape \[\d+, 32\]"),
    "fewer positions": (_config({"max_position_embeddings": 64}), "the positions have shape"),
    "no layers": (_config({"num_hidden_layers": 0}), "num_hidden_layers of config.json is 0"),
    "more layers": (_config({"num_hidden_layers": 3}), r"no weight bert\.encoder\.layer\.2"),
    "more labels": (_config({"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}), "the head has 1 labels"),
    "a type that nobody knows": (_config({"model_type": "nosuch"}), "model_type is 'nosuch'"),
    "a type of another": (_config({"model_type": "albert"}), "model_type is 'albert'"),
    "no type": (_config({"model_type": ...}), "model_type is None"),
    "a lost bias": (_altered(lambda weights: weights.pop("classifier.bias")), r"classifier\.bias is missing"),
    "a lost part": (
        _altered(lambda weights: [weights.pop(f"bert.pooler.dense.{name}") for name in ("weight", "bias")]),
        r"no weight bert\.pooler",
    ),
    "a short norm": (_altered(lambda weights: _cut(weights, r"1\.attention\.output\.LayerNorm")), r"norms .*\[16\]"),
    "no head": (_encoder_alone, "BertForMaskedLM, which has no head, and none is there"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folders_own_fault_is_no_want_of_torch(
    tiny_model_folder: Any, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch refuses is refused without torch, and nobody is told to install it; num_labels= may mend it."""
    change, reason = BROKEN[case]
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("bert"), folder)
    change(folder)
    for way in (open_model, load):
        with pytest.raises(ModelLoadError, match=re.escape(str(folder))):
            way(LoadRequest(str(folder)))
    monkeypatch.setattr("secondpass.models.stored.has_torch", lambda: False)
    with pytest.raises(ModelLoadError, match=f"{re.escape(str(folder))}: .*{reason}") as refused:
        open_model(LoadRequest(str(folder)))
    assert "pip install" not in str(refused.value)
    with pytest.raises(MissingExtra):
        open_model(LoadRequest(str(folder), num_labels=1))


# Without the kernel, and with a file of every system in the place of an accelerator's.
TOO_OLD = """
import sys
from secondpass import CrossEncoder
from secondpass.biencoder import BiEncoder
from secondpass.errors import MissingExtra
from secondpass.forwards.kernel import native
from secondpass.models import loading, stored
stored.ACCELERATORS = ("null",)
native.routines = lambda: "the kernel was not compiled"
pocket = "secondpass/pocket"
encoder = CrossEncoder(pocket)
print([hit["corpus_id"] for hit in encoder.rank("a new password", ["A dog.", "Reset your password."])])
for call in (lambda: encoder.model, lambda: CrossEncoder(pocket, device="cuda"), lambda: BiEncoder(pocket),
             lambda: loading.pick_device(None)):
    try:
        call()
    except MissingExtra as error:
        print(error)
print({"torch", "transformers"} & {*sys.modules})
"""


def test_a_transformers_that_is_too_old_is_as_good_as_none(tmp_path: Path) -> None:
    """It is not imported, which may fail, and named with its version; what needs none goes on, by numpy too."""
    (tmp_path / "transformers").mkdir()
    (tmp_path / "transformers" / "__init__.py").write_text("raise ImportError('huggingface-hub<1.0 is required')\n")
    (tmp_path / "transformers-4.57.6.dist-info").mkdir()
    told = "Metadata-Version: 2.4\nName: transformers\nVersion: 4.57.6\n"
    (tmp_path / "transformers-4.57.6.dist-info" / "METADATA").write_text(told)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", TOO_OLD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert "transformers 4.57.6 is too old (5.3 is needed): an accelerator, if there is one, is not used" in done.stderr
    ranked, *refused, imported = done.stdout.splitlines()
    assert (ranked, imported) == ("[1, 0]", "set()")
    too_old = "needs torch and transformers, and transformers 4.57.6 is too old (5.3 is needed)"
    why = f'{too_old}: pip install "secondpass[torch]"'
    assert refused == [
        f"model is an object of transformers: that {why}",
        f"secondpass/pocket: device='cuda' is not the CPU; that {why}",
        f"a bi-encoder {why}",
        f"device=None {why}",
    ]


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"automodel_args": {"dtype": "float16"}}, {"true_token": "yes"}])
def test_nothing_is_downloaded_for_a_call_that_cannot_work(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments that only torch has a use for are refused before the hub is asked; wrong ones before that."""
    monkeypatch.setattr("secondpass.models.stored.has_torch", lambda: False)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(MissingExtra, match=r"^org/large: .*secondpass\[torch\]"):
        open_model(LoadRequest("org/large", **asked))
    with pytest.raises(InvalidInput, match="num_labels=0"):
        open_model(LoadRequest("org/large", num_labels=0, **asked))


def test_the_processor_has_a_number_too(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is "cpu:0" and, as torch has it, "cpu:1"; nothing else is."""
    monkeypatch.setattr("secondpass.models.stored.has_torch", lambda: False)
    assert (torch.ones(2, device="cpu:1") + torch.ones(2)).tolist() == [2.0, 2.0]
    for name in ("cpu:0", "cpu:1", "cpu"):
        assert CrossEncoder(tiny_folder, device=name).device_name == "cpu"
        assert isinstance(opened(tiny_folder, device=name), StoredModel)
    for name in ("cpu:", "cpu:01", "cpu:x", "cpus"):
        with pytest.raises(RuntimeError):
            torch.device(name)
        with pytest.raises(MissingExtra, match="is not the CPU"):
            opened(tiny_folder, device=name)


def test_rotary_settings_are_saved_without_torch_as_older_libraries_read_them(
    tiny_model_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with torch; all else is what it was, and a folder that has the names already is copied."""
    monkeypatch.setattr("secondpass.cross_encoder.has_torch", lambda: False)
    monkeypatch.setattr("secondpass.models.stored.has_torch", lambda: False)
    source = Path(tiny_model_folder("modernbert"))
    settings = json.loads((source / "config.json").read_text())
    names = "global_rope_theta", "local_rope_theta"
    thetas = [settings["rope_parameters"][kind]["rope_theta"] for kind in ("full_attention", "sliding_attention")]
    assert not settings.keys() & {*names}
    CrossEncoder(str(source)).save(str(tmp_path / "saved"))
    saved = (tmp_path / "saved" / "config.json").read_text()
    assert json.loads(saved) == settings | dict(zip(names, thetas, strict=True))
    assert (tmp_path / "saved" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    (tmp_path / "saved" / "config.json").write_text(f"{saved}\n\n")
    again = CrossEncoder(str(tmp_path / "saved"))
    again.save(str(tmp_path / "again"))
    assert (tmp_path / "again" / "config.json").read_text() == f"{saved}\n\n"


@pytest.mark.parametrize("form", ["float32", "int8", "shards", "chain"])
def test_a_model_is_saved_without_torch(
    tiny_model_folder: Any, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As the files that it was loaded from, with its calibration, also in their own place and over another model."""
    source = tmp_path / "source"
    if form == "chain":
        make_chain(source, "bert")
    else:
        shutil.copytree(tiny_model_folder("bert"), source)
    if form == "int8":
        CrossEncoder(str(source)).save(str(source), storage="int8")
    if form == "shards":
        CrossEncoder(str(source)).save(str(source), max_shard_size="20KB")
    monkeypatch.setattr("secondpass.cross_encoder.has_torch", lambda: False)
    monkeypatch.setattr("secondpass.models.stored.has_torch", lambda: False)
    beside = ("finished.json", "cascade.json", "mine.json")
    for name in beside:
        (source / name).write_text("{}")
    own, target = CrossEncoder(str(source)), tmp_path / "target"
    before = own.predict(PAIRS)
    scores = np.linspace(-2, 2, 40)
    own.use_calibration(fitted(scores, (scores + np.tile([1, -1], 20) > 0).astype(int), np.repeat(np.arange(20), 2)))
    shutil.copytree(tiny_model_folder("electra"), target)
    for folder in (target, source):
        own.save(str(folder))
        again = CrossEncoder(str(folder))
        assert (again.predict(PAIRS) == before).all()
        assert again.calibration is not None
        assert {*again._loaded.files.names()} >= {*own._loaded.files.names()} - {*beside}  # type: ignore[union-attr]
        assert [(folder / name).exists() for name in beside] == [folder == source] * len(beside)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    assert caplog.messages == []
    own.max_length = 1024  # more than the model reads changes nothing, which is told once in a process
    own.save(str(target))
    caplog.clear()
    assert isinstance(own._loaded, StoredModel)
    own.max_length = 17
    with pytest.raises(MissingExtra, match=r"saving a model otherwise.*secondpass\[torch\]"):
        own.save(str(target))
    own.max_length, own.prompts = None, {"a": "b"}
    with pytest.raises(MissingExtra):
        own.save(str(target))
    own.prompts = {}
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be saved"):
        own.save(str(tmp_path / "file"))
    with pytest.raises(MissingExtra):
        own.save(str(target), storage="int8")
    if form != "chain":
        with pytest.raises(MissingExtra, match="saving a model otherwise"):
            CrossEncoder(str(source), classifier_dropout=0.25).save(str(tmp_path / "other"))
        assert not (tmp_path / "other").exists()
    assert caplog.messages == []


ODD: dict[str, dict[str, list[Any]]] = {
    "bert": {
        "num_attention_heads": [None, 3, "2", 2.0, True, []],
        "num_labels": [[1], {}],
        "is_decoder": [True],
    },
    "roberta": {"pad_token_id": [None, "1", 1.0, [1], -5]},
    "modernbert": {
        "layer_types": [3, "x", ["full_attention"]],
        "local_attention": [None, "8", 8.5],
        "classifier_pooling": [["cls"], "max"],
        "num_attention_heads": [None, 3, float("nan")],
        "rope_parameters": [{"full_attention": {"rope_type": "yarn"}}, 5],
        "hidden_size": ["32", None],
        # what transformers goes by, and we would not see
        "sliding_window": [1, 0, True],
        "num_hidden_layers": [1],
        "attention_bias": [True],
        "mlp_bias": [True],
        "norm_bias": [True],
        "classifier_bias": [True],
    },
    "distilbert": {"num_hidden_layers": [1], "id2label": [{"x": "a"}, 5, []]},
}


@pytest.mark.parametrize("architecture", ODD)
def test_odd_values_of_a_config_have_a_reason(tiny_model_folder: Any, tmp_path: Path, architecture: str) -> None:
    """Of whatever kind they are, nothing but a sentence about them comes of it, for torch to say better."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder(architecture), folder)
    for key, values in ODD[architecture].items():
        for value in values:
            _config({key: value})(folder)
            with pytest.raises(NotDescribed, match=r"\w+ \w+"):
                _read(folder, LoadRequest(str(folder)))
        shutil.copy(Path(tiny_model_folder(architecture), "config.json"), folder)


def test_a_model_outlives_its_folder(tiny_model_folder: Any, tmp_path: Path) -> None:
    """Asked for later, model, config and tokenizer are those of the files that were opened."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("bert"), folder)
    own = CrossEncoder(str(folder))
    first = own.predict(PAIRS)
    shutil.rmtree(folder)
    assert (own.predict(PAIRS) == first).all()
    assert own.config.name_or_path == str(folder)
    assert (own.predict(PAIRS) == first).all()
    own.save(str(tmp_path / "again"))
    assert (CrossEncoder(str(tmp_path / "again")).predict(PAIRS) == first).all()


def test_what_is_closed_while_its_model_is_made_stays_closed(tiny_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing holds on to the weights afterwards."""
    own, build = CrossEncoder(tiny_folder), StoredModel.build

    def closing(stored: StoredModel, reason: str) -> Loaded:
        own.close()
        return build(stored, reason)

    monkeypatch.setattr(StoredModel, "build", closing)
    assert own.model is not None
    assert own.model is None


def test_a_file_that_came_later_is_not_read(tiny_model_folder: Any, tmp_path: Path) -> None:
    """An adapter, or weights that would go before those that were opened."""
    folder = tmp_path / "model"
    CrossEncoder(tiny_model_folder("bert")).save(str(folder), storage="int8")
    own = CrossEncoder(str(folder))
    first = own.predict(PAIRS)
    shutil.copy(Path(tiny_model_folder("electra"), "model.safetensors"), folder)
    (folder / "adapter_config.json").write_text("{}")
    assert own.model.config.model_type == "bert"
    assert own.tokenizer.name_or_path == own.config.name_or_path == str(folder)
    assert (own.predict(PAIRS) == first).all()


def test_files_that_were_written_to_are_no_longer_the_models(tiny_model_folder: Any, tmp_path: Path) -> None:
    """An old model is not mixed with new weights."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("bert"), folder)
    own = CrossEncoder(str(folder))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\1\0")
    with pytest.raises(ModelLoadError, match=r"model\.safetensors was written to after it was opened"):
        _ = own.model


@pytest.mark.parametrize("way", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))])  # noqa: S301
def test_a_copy_needs_neither_torch_nor_the_folder(
    tiny_model_folder: Any, tmp_path: Path, way: Callable[[CrossEncoder], CrossEncoder]
) -> None:
    """It scores alike, and gives transformers' objects when asked."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("roberta"), folder)
    source = tiny_model_folder("roberta")
    own = CrossEncoder(str(folder), max_length=40)
    first, copied = own.predict(PAIRS), way(own)
    shutil.rmtree(folder)
    assert isinstance(copied._loaded, StoredModel)
    assert b"hf_secret" not in pickle.dumps(CrossEncoder(str(source), token="hf_secret"))  # noqa: S106
    assert (copied.predict(PAIRS) == first).all()
    assert way(copied).model.config.model_type == "roberta"


@pytest.mark.parametrize("door", ["predict", "rank", "repr", "pickle"])
def test_no_door_of_a_score_imports_torch(tiny_folder: str, door: str) -> None:
    """In a process that has it installed."""
    ask = {
        "predict": "encoder.predict(['a', 'b'])",
        "rank": "encoder.rank('cat', ['a cat', 'a mat', ''])",
        "repr": "repr(encoder), encoder.num_labels, encoder.window, encoder.precision, encoder.max_seq_length",
        "pickle": "pickle.loads(pickle.dumps(encoder)).predict(['a', 'b'])",
    }[door]
    code = (
        "import pickle, sys\nfrom secondpass import CrossEncoder\n"
        f"encoder = CrossEncoder({tiny_folder!r})\n{ask}\n"
        "print({'torch', 'transformers'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_weight_without_a_place_is_told(
    tiny_model_folder: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As torch tells it; buffers that old checkpoints have are no such."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("bert"), folder)
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.position_ids"] = torch.arange(128)[None]
    weights |= {f"left.over{number}": torch.ones(2) for number in range(5)}
    save_file(weights, folder / "model.safetensors")
    opened(folder)
    (own,) = [record.message for record in caplog.records if "no place" in record.message]
    caplog.clear()
    load(LoadRequest(str(folder)))
    (theirs,) = [record.message for record in caplog.records if "no place" in record.message]
    assert own == theirs


@pytest.mark.parametrize(
    ("architecture", "lost", "added"),
    [
        ("bert", r"token_type_embeddings", ()),
        ("bert", r"(query|key|value)\.bias", ()),
        ("electra", r"embeddings_project", ()),
        ("distilbert", "", ("distilbert.embeddings.token_type_embeddings.weight",)),
        ("modernbert", r"^classifier\.bias", ()),
        ("modernbert", "", ("model.final_norm.bias",)),
    ],
)
def test_what_a_class_has_is_there_and_nothing_else(
    tiny_model_folder: Any, architecture: str, lost: str, added: tuple[str, ...]
) -> None:
    """A part that some classes have is no part of the others, nor can a file leave it out."""
    folder = Path(tiny_model_folder(architecture))
    arrays = arrays_of(HeldFiles(folder, ["model.safetensors"]), "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    name = settings["architectures"][0]
    family = stored_family(name, settings["model_type"])
    assert family is not None
    assert describe_stored(family, name, settings, arrays)[1] == []
    kept = {key: array for key, array in arrays.items() if not (lost and re.search(lost, key))}
    kept |= {key: StoredArray((2, 32) if "token_type" in key else (32,), dict) for key in added}  # type: ignore[arg-type]
    with pytest.raises(NotDescribed, match=r"\w+ \w+"):
        describe_stored(family, name, settings, kept)


@pytest.mark.parametrize(
    ("architecture", "place", "said"),
    [
        ("modernbert", r"^model\.layers\.1\.attn_norm\.weight", r"norms have shape \[16\]"),
        ("modernbert", r"^model\.final_norm\.weight", r"norms have shape \[16\]"),
        ("modernbert", r"^head\.norm\.weight", r"a norm of the head has shape \[16\], where 32 numbers"),
        ("electra", r"\.embeddings_project\.bias", "a bias has another length"),
    ],
)
def test_a_norm_or_bias_of_another_length_is_refused(
    tiny_model_folder: Any, architecture: str, place: str, said: str
) -> None:
    """Zeros in place of what it lacks would give other scores, and nobody would hear of it."""
    folder = Path(tiny_model_folder(architecture))
    arrays = dict(arrays_of(HeldFiles(folder, ["model.safetensors"]), "model.safetensors"))
    settings = json.loads((folder / "config.json").read_text())
    name = settings["architectures"][0]
    family = stored_family(name, settings["model_type"])
    assert family is not None
    [key] = [key for key in arrays if re.search(place, key)]
    arrays[key] = StoredArray((16,), dict)  # type: ignore[arg-type]
    with pytest.raises(Broken, match=said):
        describe_stored(family, name, settings, arrays)


def test_weights_of_folders_that_nobody_lists_are_not_read(tiny_model_folder: Any, tmp_path: Path) -> None:
    """A copy of last year's model in a numbered folder is neither the model's nor part of what it is known by."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("bert"), folder)
    before, digest = CrossEncoder(str(folder)).predict(PAIRS), weights_digest(folder)
    (folder / "2024_old").mkdir()
    save_file({"classifier.bias": torch.tensor([77.0])}, folder / "2024_old" / "model.safetensors")
    own = opened(folder)
    assert own.files.names().count("model.safetensors") == 1
    assert not [name for name in own.files.names() if "old" in name]
    assert (CrossEncoder(str(folder)).predict(PAIRS) == before).all()
    assert weights_digest(folder) == digest is not None


@pytest.mark.parametrize(
    ("architecture", "change"),
    [
        ("distilbert", {"layer_norm_eps": 0.5, "intermediate_size": 7}),
        ("modernbert", {"layer_norm_eps": 0.5}),
    ],
)
def test_a_setting_that_the_class_lacks_changes_nothing(
    tiny_model_folder: Any, tmp_path: Path, architecture: str, change: dict[str, Any]
) -> None:
    """transformers has DistilBERT's epsilon in its code, and ModernBERT's under another name."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder(architecture), folder)
    _config(change)(folder)
    opened(folder)
    own, theirs = CrossEncoder(str(folder)), CrossEncoder(str(folder), automodel_args={"dtype": "float32"})
    assert isinstance(own._loaded, StoredModel)
    assert np.allclose(own.predict(PAIRS), theirs.predict(PAIRS), rtol=0, atol=1e-5)
    assert np.allclose(own.predict(PAIRS), CrossEncoder(tiny_model_folder(architecture)).predict(PAIRS), atol=1e-6)


def test_scales_of_another_kind_are_left_to_torch(tiny_model_folder: Any, tmp_path: Path) -> None:
    """Which takes whole numbers for scales, and refuses a column of them."""
    CrossEncoder(tiny_model_folder("bert")).save(str(tmp_path), storage="int8")
    file = tmp_path / "model.int8.safetensors"
    weights = load_file(file)
    scale = next(name for name in weights if name.endswith(".scale"))
    for odd in (weights[scale].to(torch.int32), weights[scale][:, None]):
        save_file({**weights, scale: odd}, file)
        with pytest.raises(NotDescribed, match=scale):
            arrays_of(HeldFiles(tmp_path, [file.name]), file.name, compact=True)
    made = compressed({"w": torch.ones(2, 2 * GROUP)}, {"w": 4})
    for odd in (made["w.scale"][:, :1].repeat(1, 5), made["w.scale"][:1], made["w.scale"][:, :0]):
        save_file({"w": made["w"], "w.scale": odd.contiguous()}, file)
        with pytest.raises(NotDescribed, match=r"w\.scale .* numbers of shape \[2, 64\] have scales of shape"):
            arrays_of(HeldFiles(tmp_path, [file.name]), file.name, compact=True)
        with pytest.raises(ValueError, match="have scales of shape"):
            expanded(load_file(file))


def test_a_missing_weight_is_named(tiny_model_folder: Any, tmp_path: Path) -> None:
    """What is not described says which part is not there."""
    folder = make_folder(tmp_path / "model", "bert")
    arrays = arrays_of(HeldFiles(Path(folder), ["model.safetensors"]), "model.safetensors")
    settings = json.loads((Path(folder) / "config.json").read_text())
    family = stored_family("BertForSequenceClassification", "bert")
    assert family is not None
    for name in ("bert.encoder.layer.1.output.dense.bias", "classifier.weight", "bert.pooler.dense.weight"):
        with pytest.raises(NotDescribed, match=name.rpartition(".")[0].replace(".", r"\.")):
            describe_stored(
                family, settings["architectures"][0], settings, {k: v for k, v in arrays.items() if k != name}
            )
