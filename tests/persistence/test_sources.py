"""sources: which names are folders, which go to the hub, and what a name that cannot be had says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import secondpass
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.persistence.sources import POCKET, folder_of, looks_like_path
from tests.hub_cache import add_to_cache, commit_id

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
    folder = folder_of(POCKET)
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
    """Pickles and exports in subfolders are not downloaded; Python files only when code is trusted."""
    asked: dict[str, Any] = {}

    def answered(name: str, **options: Any) -> str:
        asked.update(options)
        return os.fspath(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", answered)
    folder_of("org/model", token=SECRET, revision="v1")
    assert asked["ignore_patterns"] == ["*/*"]
    assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in asked["allow_patterns"])
    assert (asked["token"], asked["revision"]) == (SECRET, "v1")
    folder_of("org/model", code=True, variant="fp16")
    assert {"*.py", "model.fp16.safetensors"} <= set(asked["allow_patterns"])
