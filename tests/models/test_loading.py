"""Rules of `secondpass.models.loading` and `folders`: names to folders, folders to models, and their device."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as switches

import secondpass
from secondpass import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.models.building import save_compact
from secondpass.models.folders import folder_of, looks_like_path
from secondpass.models.loading import LoadRequest, load, own_gpu, pick_device, quiet_transformers
from secondpass.models.stored import open_model
from tests.hub_cache import add_to_cache, commit_id
from tests.tiny_models import ARCHITECTURES


def test_a_name_is_taken_as_it_is() -> None:
    """A requested device is returned, whether it is a name or a torch device."""
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")


def test_none_picks_what_the_machine_has(caplog: pytest.LogCaptureFixture) -> None:
    """Without a request the accelerator wins over the CPU, and the choice is logged at INFO."""
    with caplog.at_level(logging.INFO, logger="secondpass.models.loading"):
        device = pick_device(None)
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert expected is not None
    assert device.type == expected.type
    assert caplog.messages == [f"Use pytorch device: {device}"]


def test_a_requested_device_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Only a choice made for the caller is news."""
    with caplog.at_level(logging.INFO, logger="secondpass.models.loading"):
        pick_device("cpu")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("name", "environment", "present", "expected"),
    [
        ("cuda", {}, 4, "cuda"),
        ("cuda", {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, 4, "cuda"),
        ("cuda", {"LOCAL_RANK": "3"}, 4, "cuda"),
        ("cuda", {"WORLD_SIZE": "2"}, 4, "cuda"),
        ("cuda", {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, 2, "cuda:0"),
        ("cuda", {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 2, "cuda:1"),
        ("cuda", {"WORLD_SIZE": "16", "RANK": "13", "LOCAL_RANK": "5"}, 8, "cuda:5"),
        ("cuda", {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 1, "cuda:0"),
        ("cuda:0", {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 2, "cuda:0"),
        ("cpu", {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 2, "cpu"),
        ("mps", {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 1, "mps"),
    ],
)
def test_each_process_of_a_launcher_has_a_gpu_of_its_own(
    name: str, environment: dict[str, str], present: int, expected: str
) -> None:
    """By its number on this machine, as accelerate counts; what names a GPU, and what is none, stays."""
    assert own_gpu(name, environment, present) == expected


def test_what_a_launcher_says_moves_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several processes each is on the CPU that was asked for."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "the fast one"])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    """A string torch does not know raises InvalidInput that repeats it."""
    with pytest.raises(InvalidInput, match="device") as caught:
        pick_device(name)
    assert repr(name) in str(caught.value)


def test_an_absent_device_is_refused() -> None:
    """A device this machine lacks is refused when it is named, not at the first batch."""
    with pytest.raises(InvalidInput, match=r"cuda:99.* not available"):
        pick_device("cuda:99")


def test_another_type_is_refused() -> None:
    """A number is not guessed to be a GPU."""
    with pytest.raises(InvalidInput, match="device is int"):
        pick_device(0)  # type: ignore[arg-type]


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
    assert loaded.num_labels == 2
    assert len(loaded.tokenizer) == loaded.config.vocab_size


def test_the_values_are_frozen(tiny_folder: str) -> None:
    """Request and result cannot be changed by accident."""
    request = LoadRequest(tiny_folder)
    with pytest.raises(FrozenInstanceError):
        request.source = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        load(request).token_limit = 1  # type: ignore[misc]


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
    """A model placed by device_map is not moved by the device argument."""
    pytest.importorskip("accelerate")
    asked: dict[str, Any] = {"device_map": {"": "cpu"}}
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


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "0.1"])
def test_a_wrong_dropout_is_refused(tiny_folder: str, share: Any) -> None:
    """Also by a model that nothing has been made of yet, which would be trained with it later."""
    ways: tuple[Callable[[LoadRequest], object], ...] = (load, open_model)
    for way in ways:
        with pytest.raises(InvalidInput, match=r"^classifier_dropout="):
            way(LoadRequest(tiny_folder, classifier_dropout=share))


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


REPORTS = logging.getLogger("transformers.modeling_utils")


def _switch(shown: bool) -> None:
    switch: Callable[[], None] = switches.enable_progress_bar if shown else switches.disable_progress_bar
    switch()


def test_loading_prints_nothing(tiny_folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bar and no load report reaches the terminal, where transformers alone would print a bar."""
    _switch(True)
    AutoModelForSequenceClassification.from_pretrained(tiny_folder)
    assert "Loading weights" in capfd.readouterr().err
    load(LoadRequest(tiny_folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [True, False])
def test_the_switches_are_given_back(shown: bool) -> None:
    """Progress bars are on or off afterwards as they were before, also after an error."""
    before = switches.is_progress_bar_enabled()
    _switch(shown)
    with quiet_transformers():
        assert not switches.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet_transformers():
        raise KeyError
    assert switches.is_progress_bar_enabled() == shown
    assert REPORTS.filters == []
    _switch(before)


def test_bars_of_downloads_stay_off() -> None:
    """A caller who switched off only the hub client's bars still has them off."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    _switch(True)
    disable_progress_bars()
    with quiet_transformers():
        pass
    assert are_progress_bars_disabled()
    enable_progress_bars()


def test_only_load_reports_of_this_thread_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Other messages pass, and so do the reports of other threads."""
    with quiet_transformers():
        REPORTS.warning("LOAD REPORT of ours")
        REPORTS.warning("a deprecation")
        other = threading.Thread(target=REPORTS.warning, args=("LOAD REPORT of another",))
        other.start()
        other.join()
    REPORTS.warning("LOAD REPORT later")
    assert caplog.messages == ["a deprecation", "LOAD REPORT of another", "LOAD REPORT later"]


def test_threads_load_the_same_model(tiny_folder: str) -> None:
    """Loads from several threads at once give equal weights and leave the switches as they were."""
    shown = switches.is_progress_bar_enabled()
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(load(LoadRequest(tiny_folder)).model.state_dict()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert all(weights[key].equal(made[0][key]) for weights in made for key in made[0])
    assert switches.is_progress_bar_enabled() == shown


SECRET = "hf_secret"  # noqa: S105 - it opens nothing


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test at any try to reach the hub."""

    def reached(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the model hub was asked")

    monkeypatch.setattr("huggingface_hub.snapshot_download", reached)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["./model", "../model", "/no/model", "~/no-model", "a/b/c", "C:\\model", "."])
def test_a_path_never_reaches_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can only be a path is looked for on the disk and nowhere else."""
    monkeypatch.chdir(tmp_path)
    assert looks_like_path(name)
    if name != ".":
        with pytest.raises(ModelLoadError, match="there is no folder"):
            folder_of(name)


@pytest.mark.usefixtures("no_hub")
def test_an_existing_folder_wins_over_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with one slash is a folder when that folder is there."""
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert folder_of("org/model") == Path("org/model")


@pytest.mark.usefixtures("no_hub")
def test_a_path_object_is_a_path(tmp_path: Path) -> None:
    """A Path is never a hub name, even if it looks like one."""
    assert folder_of(tmp_path) == tmp_path
    with pytest.raises(ModelLoadError, match="there is no folder"):
        folder_of(Path("org/model"))


@pytest.mark.usefixtures("no_hub")
def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leading ~ is the home folder."""
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder_of("~/model") == tmp_path / "model"


@pytest.mark.usefixtures("no_hub")
def test_a_file_is_refused(tmp_path: Path) -> None:
    """The weights file instead of its folder gets a message that says what a model is."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ModelLoadError, match="is a file; a model is a folder"):
        folder_of(str(path))


@pytest.mark.parametrize("source", ["", None, 3, b""])
def test_no_name_is_refused(source: Any) -> None:
    """An empty name or another type is an argument error, not a failed download."""
    with pytest.raises(InvalidInput, match="model_name is"):
        folder_of(source)


@pytest.mark.usefixtures("no_hub")
def test_the_pocket_model_is_in_the_package() -> None:
    """Its name leads into the installed package, which has the whole model."""
    folder = folder_of("secondpass/pocket")
    assert folder == Path(secondpass.__file__).parent / "pocket"
    assert {file.name for file in folder.iterdir()} >= {"config.json", "model.int8.safetensors", "tokenizer.json"}


def test_a_hub_name_comes_from_the_cache(tiny_folder: str, tmp_path: Path) -> None:
    """A cached name needs no network and gives the folder of the commit its branch points at."""
    add_to_cache(tmp_path, "org/tiny", tiny_folder, commit_id(7))
    found = folder_of("org/tiny", cache_dir=tmp_path, local_files_only=True)
    assert found.name == commit_id(7)
    assert (found / "config.json").is_file()


@pytest.mark.parametrize("local_files_only", [True, False])
def test_a_name_that_is_not_cached_is_one_line(tmp_path: Path, local_files_only: bool) -> None:
    """Offline, a missing name says what it is and what to check, in one line."""
    with pytest.raises(ModelLoadError) as caught:
        folder_of("org/none", cache_dir=tmp_path, local_files_only=local_files_only, revision="v2")
    message = str(caught.value)
    assert message.startswith("'org/none' at revision 'v2' is no folder here and not in the cache")
    assert "local_files_only" in message
    assert "\n" not in message
    assert caught.value.__cause__ is not None


def test_an_impossible_name_is_one_line() -> None:
    """A name the hub could not have is told apart from one that is absent."""
    with pytest.raises(ModelLoadError, match="no name the model hub could have"):
        folder_of("bad name!")


def _hub_error(name: str) -> Exception:
    from huggingface_hub import errors

    made: type[Exception] = getattr(errors, name)
    error = made.__new__(made)
    error.args = ("401 Client Error.\n\nRepository Not Found for url: https://hub/api/models/org/none?t=hf_secret",)
    return error


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "private and needs token="),
        ("RevisionNotFoundError", "does not exist on the model hub"),
        ("HfHubHTTPError", r"cannot be had from the model hub \(HfHubHTTPError\)"),
    ],
)
def test_each_answer_of_the_hub_has_its_line(name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub answers becomes one line of ours, without the client's long text."""

    def answered(*args: Any, **kwargs: Any) -> None:
        raise _hub_error(name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answered)
    with pytest.raises(ModelLoadError, match=says) as caught:
        folder_of("org/none", token=SECRET)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_what_is_read_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Modules have folders of their own; pickles and exports for others are left; Python files only as trusted code."""
    asked: dict[str, Any] = {}

    def answered(name: str, **options: Any) -> str:
        asked.update(options)
        return os.fspath(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answered)
    folder_of("org/model", token=SECRET, revision="v1")
    rules = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    there = ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "chat_template.jinja"]
    there += ["modules.json", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"]
    left = ["pytorch_model.bin", "2_Dense/pytorch_model.bin", "onnx/config.json", "onnx/model.safetensors", "code.py"]
    left += ["openvino/1_Dense/config.json", "2_Dense/old/config.json", "model.fp16.safetensors"]
    assert list(filter_repo_objects([*there, *left], **rules)) == there
    assert (asked["token"], asked["revision"]) == (SECRET, "v1")
    folder_of("org/model", code=True, variant="fp16")
    assert {"*.py", "model.fp16.safetensors"} <= set(asked["allow_patterns"])


@pytest.mark.parametrize(
    ("listed", "answer", "asks"),
    [
        (True, "RevisionNotFoundError", []),
        (False, "OfflineModeIsEnabled", ["info"]),
        (False, "HfHubHTTPError", ["info", "download"]),
        (False, None, ["info", "download"]),
    ],
)
def test_a_commit_is_looked_for_here_first(
    tiny_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    listed: bool,
    answer: str | None,
    asks: list[str],
) -> None:
    """Where the client can say that no file of it is missing nobody is asked; else the hub once, without retries.

    Where the hub does not answer either, it is said that files may be missing, and of which folder.
    """
    from huggingface_hub import HfApi, snapshot_download

    commit, asked = commit_id(7), []
    add_to_cache(tmp_path, "org/tiny", tiny_folder, commit, None)
    if listed:
        (tmp_path / "models--org--tiny" / "trees").mkdir()
        (tmp_path / "models--org--tiny" / "trees" / f"{commit}.json").write_text("{}")

    def info(self: Any, name: str, **options: Any) -> None:
        asked.append("info")
        if answer is not None:
            raise _hub_error(answer)

    def download(name: str, **options: Any) -> str:
        asked.extend(["download"] * (not options.get("local_files_only")))
        return str(snapshot_download(name, **{**options, "local_files_only": True}))

    monkeypatch.setattr(HfApi, "model_info", info)
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    found = folder_of("org/tiny", cache_dir=tmp_path, revision=commit)
    assert found.name == commit
    assert asked == asks
    told = [record.getMessage() for record in caplog.records if record.name == "secondpass.models.folders"]
    assert len(told) == (asks == ["info"])
    assert all(f"whether {found} has all files of 'org/tiny' at {commit} is not known" in line for line in told)
