"""A model to a folder that secondpass and sentence-transformers 3 to 6 read alike.

Everything is written beside the old files first and put in place by renaming: a save that stops half-way,
whatever the reason, leaves the model that was there.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from secondpass.activations import Activation, stored_name
from secondpass.errors import CheckpointError, InvalidInput, ModelLoadError
from secondpass.model_card import MARK
from secondpass.persistence.fast_tokenizer import token_limit
from secondpass.persistence.model_config import read_json
from secondpass.persistence.quiet import quiet_transformers
from secondpass.persistence.storage import write_activation
from secondpass.persistence.weights import COMPACT

logger = logging.getLogger(__name__)

UNFINISHED = ".unfinished-"
STALE_SECONDS = 3600

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")

# How this process came by the tokenizer is nobody else's business, and a token among it none at all.
PRIVATE_SETTINGS = ("cache_dir", "is_local", "local_files_only", "name_or_path", "revision", "token", "use_auth_token")


def save(
    path: str | os.PathLike[str] | None,
    model: Any,
    tokenizer: Any,
    activation: Activation,
    max_length: int | None = None,
    safe_serialization: bool = True,
    prompts: Mapping[str, str] | None = None,
    card: str | None = None,
    **options: Any,
) -> None:
    """Write model (in its own dtype), tokenizer and activation; other files of the folder stay.

    Args:
        path: the folder, made if needed; None does nothing.
        model: a transformers sequence classifier; not changed.
        tokenizer: its fast tokenizer; not changed.
        activation: stored by class name, see `activations.stored_name`.
        max_length: stored as the tokenizer's `model_max_length`, where every reader finds it; None stores what
            tokenizer and model allow.
        safe_serialization: only True: pickles are not written.
        prompts: stored by name.
        card: text of README.md; a README.md of another origin is left alone, with a warning.
        options: further arguments of the model's `save_pretrained`, e.g. max_shard_size.

    Raises:
        InvalidInput: an argument is refused.
        CheckpointError: the folder cannot be written; what was there before is still there.
    """
    if path is None:
        return
    _check_options(safe_serialization, options)
    folder = Path(path)
    logger.info("Save model to %s", path)
    try:
        with _unfinished_folder(folder) as unfinished:
            with quiet_transformers():
                model.save_pretrained(unfinished, **options)
                tokenizer.save_pretrained(unfinished)
            _tidy_tokenizer(unfinished, _limit(max_length, tokenizer, model))
            write_activation(unfinished, stored_name(activation), prompts)
            _write_card(unfinished, folder, card)
            _put_in_place(unfinished, folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"the model cannot be saved to {folder}: {' '.join(str(error).split())}") from error


def _check_options(safe_serialization: bool, options: Mapping[str, Any]) -> None:
    if not safe_serialization:
        raise InvalidInput("safe_serialization=False would write pickle files: only safetensors are written")
    if options.get("push_to_hub"):
        raise InvalidInput("push_to_hub=True is not an option of save: call push_to_hub()")


@contextmanager
def _unfinished_folder(folder: Path) -> Iterator[Path]:
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


def _tidy_tokenizer(folder: Path, limit: int | None) -> None:
    path = folder / "tokenizer_config.json"
    settings = {key: value for key, value in read_json(path).items() if key not in PRIVATE_SETTINGS}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        # The name of the same class before transformers 5, which transformers 5 still reads.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if limit is not None:
        settings["model_max_length"] = limit
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_card(unfinished: Path, folder: Path, card: str | None) -> None:
    there = folder / "README.md"
    if card is None:
        return
    if there.exists() and MARK not in there.read_text(encoding="utf-8", errors="replace"):
        logger.warning("%s was written by somebody: the figures of model_card_data are not put into it", there)
        return
    (unfinished / there.name).write_text(card, encoding="utf-8")


def _limit(max_length: int | None, tokenizer: Any, model: Any) -> int | None:
    if max_length is not None:
        return max_length
    try:
        return token_limit(tokenizer, model)
    except ModelLoadError:
        return None


def _put_in_place(unfinished: Path, folder: Path) -> None:
    """Rename file by file, weights last; weights in one file are replaced in one step."""
    made = sorted(unfinished.iterdir(), key=lambda file: (".safetensors" in file.name, file.name))
    for file in made:
        if file.is_file():
            # safetensors makes files that only their owner can read.
            file.chmod((unfinished / "config.json").stat().st_mode)
            with file.open("rb") as written:
                os.fsync(written.fileno())
    for file in made:
        if file.is_dir():
            shutil.rmtree(folder / file.name, ignore_errors=True)
        file.replace(folder / file.name)
    _remove_superseded(folder, {file.name for file in made})


def _remove_superseded(folder: Path, made: set[str]) -> None:
    """Delete weights of the model before that a reader might take instead: one file, shards, compact."""
    if made.isdisjoint({WEIGHTS, INDEX}):
        return
    for old in folder.glob("model*.safetensors*"):
        if old.name not in made and (old.name in {WEIGHTS, INDEX, COMPACT} or SHARD.fullmatch(old.name)):
            old.unlink()
