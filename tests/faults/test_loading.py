"""Rows 38 to 46 of the fault table: what a model folder, a name or a token may not do to us."""

from __future__ import annotations

import json
import logging
import shutil
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.models.building import save_compact
from secondpass.models.loading import LoadRequest, load
from tests import fork_server
from tests.hub_cache import add_to_cache, commit_id
from tests.tiny_models import make_folder

TOKEN = "hf_aVerySecretToken"  # noqa: S105 - it opens nothing


@pytest.fixture
def folder(tiny_folder: str, tmp_path: Path) -> Path:
    """Copy the tiny model for a test that spoils it."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _drop(folder: Path, *starts: str) -> None:
    path = folder / "model.safetensors"
    kept = {key: weight for key, weight in load_file(path).items() if not key.startswith(starts)}
    path.unlink()
    save_file(kept, path)


def test_row_38_a_pickle_only_checkpoint_is_refused(folder: Path) -> None:
    """A folder with pytorch_model.bin alone is refused before the pickle is opened, with how to convert it."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(ModelLoadError, match="pickle files, which can run code") as caught:
        load(LoadRequest(folder))
    assert "AutoModelForSequenceClassification.from_pretrained(FOLDER).save_pretrained(FOLDER)" in str(caught.value)
    assert "\n" not in str(caught.value)
    for architecture, made in (("Qwen3ForCausalLM", "AutoModelForCausalLM"), ("BertModel", "AutoModel")):
        _edit(folder / "config.json", architectures=[architecture])
        for pickled, message in ((True, "trust them: "), (False, "converted with ")):
            (folder / "pytorch_model.bin").unlink(missing_ok=True)
            if pickled:
                (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
            with pytest.raises(ModelLoadError, match=f"{message}{made}\\.from_pretrained"):
                load(LoadRequest(folder))


@pytest.mark.parametrize(
    "asked", [{"use_safetensors": False}, {"use_safetensors": None}, {"weights_only": False}, {"weights_only": 0}]
)
def test_row_38_no_argument_opens_a_pickle(folder: Path, asked: dict[str, Any]) -> None:
    """The switches that lead transformers to pickles are refused, whatever is in the folder."""
    with pytest.raises(InvalidInput, match="must stay True"):
        load(LoadRequest(folder, automodel_args=asked))


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "adapter_model.bin", "optimizer.pt"])
def test_row_38_no_other_pickle_in_the_folder_is_opened(folder: Path, name: str) -> None:
    """A pickle beside the weights stays closed: opening this one would fail, or run what it says."""
    (folder / name).write_bytes(b"\x80\x04cos\nabort\n(tR.")
    assert load(LoadRequest(folder)).config.num_labels == 1


def test_row_38_the_config_cannot_name_a_pickle(folder: Path) -> None:
    """A weights file named in config.json is not opened instead of model.safetensors."""
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04cos\nabort\n(tR.")
    _edit(folder / "config.json", transformers_weights="adapter_model.bin")
    assert load(LoadRequest(folder)).config.num_labels == 1


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "huge header": lambda whole: struct.pack("<Q", 1 << 60) + whole[8:],
    "header beyond the file": lambda whole: struct.pack("<Q", len(whole)) + whole[8:],
    "no JSON": lambda whole: whole[:8] + b"[" * (len(whole) - 8),
    "a pickle": lambda whole: b"\x80\x04cos\nabort\n(tR.",
}


@pytest.mark.parametrize("damage", HEADERS)
def test_row_41_broken_safetensors_are_refused_with_their_path(folder: Path, damage: str) -> None:
    """Half-written files and absurd headers raise ModelLoadError with the file's path, in one line."""
    path = folder / "model.safetensors"
    path.write_bytes(HEADERS[damage](path.read_bytes()))
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest(folder))
    assert str(caught.value).startswith(f"{path} is broken: ")
    assert "\n" not in str(caught.value)


def test_row_42_a_missing_head_is_refused(folder: Path) -> None:
    """An encoder without a classification head would score at random; the message says so and what to do."""
    _drop(folder, "classifier.")
    with pytest.raises(ModelLoadError, match=r"no classification head.*random.*num_labels="):
        load(LoadRequest(folder))


def test_row_42_a_bare_encoder_is_refused(folder: Path) -> None:
    """The usual mistake, an embedding model as cross-encoder, is caught although its config loads well."""
    load(LoadRequest(folder)).model.bert.save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="no classification head"):
        load(LoadRequest(folder))
    assert load(LoadRequest(folder, num_labels=1)).config.num_labels == 1


def test_row_43_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """A tokenizer with ids beyond the embedding table is found at load, not as an IndexError in the model."""
    other = make_folder(tmp_path / "other", "roberta")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / name, folder / name)
    with pytest.raises(ModelLoadError, match=r"ids up to 306, the model's embedding table only 171 rows"):
        load(LoadRequest(folder))


def test_row_43_a_tokenizer_without_padding_is_refused(folder: Path) -> None:
    """Without a padding token no batch can be made; one that the vocabulary has may be named."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError, match="no padding token"):
        load(LoadRequest(folder))
    assert load(LoadRequest(folder, tokenizer_args={"pad_token": "[PAD]"})).tokenizer.pad_token_id == 0
    with pytest.raises(ModelLoadError, match="embedding table"):
        load(LoadRequest(folder, tokenizer_args={"pad_token": "[A NEW ONE]"}))


def test_row_43_a_slow_tokenizer_is_refused(folder: Path) -> None:
    """The engine needs the rules of a fast tokenizer; one without them is refused at load."""
    _edit(folder / "tokenizer_config.json", tokenizer_class="CanineTokenizer")
    with pytest.raises(ModelLoadError, match="CanineTokenizer is a slow tokenizer"):
        load(LoadRequest(folder))


@pytest.mark.parametrize("name", ["org/no-such-model", "no-such-model", "./no-such-folder", "/no/such/folder"])
def test_row_44_a_name_that_cannot_be_had_is_one_line(name: str, tmp_path: Path) -> None:
    """Offline or misspelt, the message is one line that names the source, with the cause chained."""
    with pytest.raises(ModelLoadError) as caught:
        CrossEncoder(name, cache_dir=str(tmp_path))
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_row_44_a_local_path_needs_no_network(folder: Path) -> None:
    """A process that may not open any socket loads a folder."""
    code = (
        "import huggingface_hub.constants, socket, sys\n"
        "huggingface_hub.constants.HF_HUB_OFFLINE = False\n"
        "def refuse(*args, **kwargs): raise SystemExit('a socket was opened')\n"
        "from secondpass import CrossEncoder\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "print(CrossEncoder(sys.argv[1], device='cpu').config.num_labels)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)}
    done = fork_server.run([sys.executable, "-c", code, folder], text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_row_45_a_revision_pins_the_weights(tiny_folder: str, tmp_path: Path) -> None:
    """revision= takes a branch or a commit, and every file comes from that one commit."""
    newer = make_folder(tmp_path / "newer", "bert", num_labels=3)
    add_to_cache(tmp_path, "org/tiny", tiny_folder, commit_id(1), branch=None)
    add_to_cache(tmp_path, "org/tiny", newer, commit_id(2), branch="main")
    asked: dict[str, Any] = {"cache_dir": tmp_path, "local_files_only": True}
    assert load(LoadRequest("org/tiny", **asked)).config.num_labels == 3
    assert load(LoadRequest("org/tiny", revision="main", **asked)).config.num_labels == 3
    assert load(LoadRequest("org/tiny", revision=commit_id(1), **asked)).config.num_labels == 1
    with pytest.raises(ModelLoadError, match="at revision 'v9'"):
        load(LoadRequest("org/tiny", revision="v9", **asked))


def test_row_46_a_token_is_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The token is in no message, no log line at any level and no repr."""
    request = LoadRequest("org/none", token=TOKEN, cache_dir=tmp_path)
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelLoadError) as caught:
        load(request)
    assert TOKEN not in repr(request)
    assert TOKEN not in caplog.text
    assert TOKEN not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["automodel_args", "tokenizer_args", "config_args", None])
def test_row_46_a_token_is_never_saved(folder: Path, name: str | None) -> None:
    """Given as an argument or, as with the seed, in one of the dicts, the token is in no file that is saved."""
    asked: dict[str, Any] = {"token": TOKEN} if name is None else {name: {"token": TOKEN}}
    engine = CrossEncoder(str(folder), device="cpu", **asked)
    engine.save(str(folder.parent / "saved"))
    for path in (folder.parent / "saved").iterdir():
        assert TOKEN.encode() not in path.read_bytes(), path
    assert TOKEN not in engine.config.to_json_string()
    assert TOKEN not in str(engine.tokenizer.init_kwargs)


def test_row_46_a_token_in_a_dict_is_used(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The seed's users put the token into the dicts; it reaches the hub client."""
    asked: list[Any] = []

    def answered(name: str, **options: Any) -> str:
        asked.append(options["token"])
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answered)
    load(LoadRequest("org/private", automodel_args={"token": TOKEN}))
    load(LoadRequest("org/private", tokenizer_args={"token": TOKEN}))
    load(LoadRequest("org/private", token=TOKEN, config_args={"token": "other"}))
    assert asked == [TOKEN] * 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_labels", 10**9),
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", 500),
        ("hidden_size", 10**9),
        ("vocab_size", 10**12),
        ("intermediate_size", 10**10),
        ("max_position_embeddings", 10**12),
        ("type_vocab_size", 10**11),
        ("num_attention_heads", 10**9),
        ("num_attention_heads", -1),
        ("text_config", {"num_hidden_layers": 10**9}),
        ("architectures", 7),
    ],
)
@pytest.mark.parametrize("compact", [False, True])
def test_a_config_that_asks_for_more_than_the_weights_have(folder: Path, key: str, value: Any, compact: bool) -> None:
    """It is refused before anything of that size is made; what is only nonsense is refused too, or has no effect."""
    if compact:
        save_compact(folder, load_file(folder / "model.safetensors"))
        (folder / "model.safetensors").unlink()
    _edit(folder / "config.json", **{key: value})
    if key == "architectures":
        assert load(LoadRequest(folder)).config.num_labels == 1
        return
    with pytest.raises(ModelLoadError) as caught:
        load(LoadRequest(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 10**6), ("num_hidden_groups", 10**6)])
def test_shared_layers_are_counted_too(tmp_path: Path, key: str, value: int) -> None:
    """ALBERT's layers have one set of weights, so their number is bounded by what no model has."""
    from transformers import AlbertConfig, AlbertForSequenceClassification

    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_size": 8, "num_attention_heads": 1, "vocab_size": 20}
    AlbertForSequenceClassification(AlbertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path)
    _edit(tmp_path / "config.json", **{key: value})
    with pytest.raises(ModelLoadError, match=f"{key} is {value}"):
        load(LoadRequest(tmp_path))
