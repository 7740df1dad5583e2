"""Where a model's files are: a folder, the package itself, or the model hub; and how a folder gets new ones.

Everything after this stage reads a local folder, so that one set of checks sees every file before it is used.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

from secondpass.calibration import FILE as CALIBRATION
from secondpass.calibration import file_of
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.models.config import LISTED
from secondpass.models.modules import WEIGHTS, parts_of
from secondpass.models.weights import COMPACT

logger = logging.getLogger(__name__)

# Models that come with the package, and their folders in it.
PACKAGED = {"secondpass/pocket": "pocket"}
CASCADE = "cascade.json"

# In a folder: the whole new model, for as long as its files are being put in their places.
FINISHED = ".finished"

# The top folder, and those of modules: others hold exports for other runtimes. Pickles are never read, so never
# downloaded.
WANTED = ("*.json", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.jinja", "model.int8.safetensors")
# Of a chain each module has a folder, "2_Dense"; no other is opened.
MODULE_WEIGHTS, ELSEWHERE = "[0-9]*_*/model.safetensors", ("[!0-9]*/*", "*/*/*")
COMMIT = re.compile("[0-9a-f]{40}")


def folder_of(source: str | os.PathLike[str], *, variant: str | None = None, code: bool = False, **hub: Any) -> Path:
    """Return the local folder of a model, downloading it when the source is a hub name.

    Args:
        source: one of `PACKAGED`, a folder, or a name on the model hub.
        variant: "fp16" means model.fp16.safetensors.
        code: fetch Python files too.
        hub: `snapshot_download`'s cache_dir, revision, local_files_only and token.

    Raises:
        InvalidInput: the source is empty or no path.
        ModelLoadError: there is no such folder, or the name cannot be had.
    """
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        raise InvalidInput(f"model_name is {source!r}, not a folder or a name")
    name = os.fspath(source)
    if name in PACKAGED:
        return _existing(Path(str(resources.files("secondpass") / PACKAGED[name])), f"{name}, inside the package")
    path = Path(name).expanduser()
    if isinstance(source, os.PathLike) or path.is_dir() or looks_like_path(name):
        return _existing(path, name)
    weights = f"model.{variant}" if variant else "model"
    wanted = [*WANTED, f"{weights}.safetensors", f"{weights}-*.safetensors", *["*.py"] * code, MODULE_WEIGHTS]
    try:
        return _downloaded(name, {**hub, "allow_patterns": wanted, "ignore_patterns": [*ELSEWHERE]})
    except Exception as error:  # the client lets errors of several HTTP libraries through
        wanted_one = f"{name!r} at revision {hub['revision']!r}" if hub.get("revision") else repr(name)
        raise ModelLoadError(f"{wanted_one} {_reason(error)}") from error


def cascade_file(path: str | Path) -> Path:
    """A cascade's file: the path itself where it is one of JSON, else in that folder."""
    return file_of(path, CASCADE)


def holds_cascade(source: str) -> bool:
    """Whether `Cascade.save` wrote it; a model's own folder may have a cascade's file beside it."""
    folder = Path(source)
    file = cascade_file(folder)
    return file == folder or (file.is_file() and not (folder / "config.json").exists())


def whole(folder: Path) -> Path:
    """Where the model of a folder is: inside it where a save of weights in several files is, or was, broken off."""
    return folder / FINISHED if (folder / FINISHED).is_dir() else folder


def looks_like_path(name: str) -> bool:
    """Tell whether a name can only be meant as a path: hub names have one slash at most."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or name.count(os.sep) > 1 or "\\" in name


def _existing(path: Path, name: str) -> Path:
    if path.is_file():
        raise ModelLoadError(f"{name!r} is a file; a model is a folder with config.json and model.safetensors")
    if not path.is_dir():
        raise ModelLoadError(f"there is no folder {name!r} (a path is never looked up on the model hub)")
    return whole(path)


def _downloaded(name: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import errors, snapshot_download

    revision = options.get("revision")
    if isinstance(revision, str) and COMMIT.fullmatch(revision) and not options.get("local_files_only"):
        # A commit never changes. The client asks for its list of files all the same where it keeps none, and where the
        # hub cannot be reached that is 23 s of retries.
        with suppress(errors.LocalEntryNotFoundError):
            kept = Path(snapshot_download(name, **{**options, "local_files_only": True}))
            if _is_listed(kept):
                return kept
            if not _is_reached(name, options):
                logger.warning(
                    "the model hub cannot be reached, and whether %s has all files of %r at %s is not known: settings "
                    "that are in a file of their own may be missing", kept, name, revision,
                )  # fmt: skip
                return kept
    return Path(snapshot_download(name, **options))


def _is_listed(snapshot: Path) -> bool:
    """Whether the client had the list of the commit's files, by which it says that none is missing."""
    return (snapshot.parents[1] / "trees" / f"{snapshot.name}.json").is_file()


def _is_reached(name: str, options: dict[str, Any]) -> bool:
    """Whether the hub answers, be it with a refusal; asked once."""
    from huggingface_hub import HfApi, errors

    try:
        HfApi().model_info(name, revision=options["revision"], token=options.get("token"), timeout=10)
    except errors.HfHubHTTPError:
        return True
    except Exception:  # of several HTTP libraries
        return False
    return True


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "is gated: accept its terms on the model hub and give token="
    if isinstance(error, errors.RepositoryNotFoundError):
        return "is no folder here, and the model hub does not know it (or it is private and needs token=)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "does not exist on the model hub; the model itself does"
    if isinstance(error, errors.HFValidationError):
        return "is no folder here, and no name the model hub could have"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return (
            "is no folder here and not in the cache, and the model hub was not asked or not reached; check the name, "
            "the network, local_files_only and cache_dir, or give a folder"
        )
    return f"cannot be had from the model hub ({type(error).__name__}); a downloaded folder works without it"


# ---- A new model in a folder: its files are written beside those that are there, and put in their places at the end.
UNFINISHED = ".unfinished-"
STALE_SECONDS = 3600

INDEX = "model.safetensors.index.json"
LAST = re.compile(r"\.(safetensors|onnx)")
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


@contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """Make a folder inside the target: renaming from it stays in the file system and needs no rights above."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{UNFINISHED}*"):
        if time.time() - stale.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(stale, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename file by file, weights last; weights in one file are replaced in one step.

    Those of a chain, and large ones, are in several: the new model is read from the folder `FINISHED` for so long.
    """
    if (folder / FINISHED).is_dir():
        _finish(folder)  # a save before was killed
    made = _in_order(unfinished)
    for file in made:
        # safetensors makes files that only their owner can read.
        file.chmod((unfinished / "config.json").stat().st_mode)
        with file.open("rb") as written:
            os.fsync(written.fileno())
    weights = [file for file in made if file.suffix == ".safetensors"]
    if len(weights) > 1 or (folder / INDEX).is_file() or _module_folders(folder):
        unfinished.chmod(folder.stat().st_mode)
        unfinished.replace(folder / FINISHED)
        _finish(folder)
    else:
        _place(unfinished, folder, Path.replace)


def _finish(folder: Path) -> None:
    """Put the files of the folder `FINISHED` in their places, and that folder away when all of them are there."""
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder) as beside:
        again = Path(beside) / "again"

        def also(file: Path, target: Path) -> None:
            try:
                again.hardlink_to(file)
            except OSError:  # not every file system has links
                shutil.copy2(file, again)
            again.replace(target)

        _place(folder / FINISHED, folder, also)
        (folder / FINISHED).replace(Path(beside) / "done")


def _in_order(folder: Path) -> list[Path]:
    """The files of a model, those that make it another one last."""
    return sorted(
        (file for file in folder.rglob("*") if file.is_file()),
        key=lambda file: (
            file.name == CALIBRATION,
            file.name == LISTED,
            bool(LAST.search(file.name)),
            len(file.parts),
            file.name,
        ),
    )


def _place(made: Path, folder: Path, put: Callable[[Path, Path], object]) -> None:
    """Put the files of a model in place of those that are there; without modules.json none is read meanwhile."""
    files = _in_order(made)
    names = [file.relative_to(made) for file in files]
    before = _module_folders(folder)
    now = {name.parts[0] for name in names if len(name.parts) > 1}
    if before or now:
        (folder / LISTED).unlink(missing_ok=True)
    (folder / CALIBRATION).unlink(missing_ok=True)
    for old in before - now:
        shutil.rmtree(folder / old, ignore_errors=True)
    for file, name in zip(files, names, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        put(file, folder / name)
    _remove_superseded(folder, {name.name for name in names if len(name.parts) == 1})


def _module_folders(folder: Path) -> set[str]:
    """Those of the chain that was there."""
    try:
        return {part.folder.name for part in parts_of(folder / LISTED)}
    except ModelLoadError:  # there was none, or one that we do not know
        return set()


def _remove_superseded(folder: Path, made: set[str]) -> None:
    """Delete weights of the model before that a reader might take instead: one file, shards, compact."""
    if made.isdisjoint({WEIGHTS, INDEX, COMPACT}):
        return
    for old in folder.glob("model*.safetensors*"):
        if old.name not in made and (old.name in {WEIGHTS, INDEX, COMPACT} or SHARD.fullmatch(old.name)):
            old.unlink()
