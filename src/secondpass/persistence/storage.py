"""The activation's name in a model folder, in the three ways sentence-transformers has stored it.

Up to 3.x: config.json, `sbert_ce_default_activation_function`. 4.0 to 5.3: config.json, `sentence_transformers`.
From 5.4: config_sentence_transformers.json, with modules.json and sentence_bert_config.json beside it. We read
the newest that is there and write all three, so that every generation finds the same activation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secondpass.persistence.model_config import read_json

logger = logging.getLogger(__name__)

OLDEST_KEY = "sbert_ce_default_activation_function"
MIDDLE_KEY = "sentence_transformers"
NEWEST_FILE = "config_sentence_transformers.json"

# Versions of the formats, not of this program: readers warn about anything newer than themselves.
MIDDLE_VERSION = "4.0.0"
NEWEST_VERSION = "5.4.0"

MODULES = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]
MODULE_CONFIG = {
    "transformer_task": "sequence-classification",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "scores",
}


def read_activation(folder: Path) -> str | None:
    """Return the stored dotted name of the activation, newest way first; None if there is none.

    A default prompt, which sentence-transformers would put before every query, is not applied: a warning says so.

    Raises:
        ModelLoadError: a file is no JSON object.
    """
    newest = _read_if_present(folder / NEWEST_FILE)
    config = _read_if_present(folder / "config.json")
    if newest.get("default_prompt_name"):
        logger.warning("%s: the model's default prompt is not applied; give its name as prompt_name", folder)
    middle = config.get(MIDDLE_KEY)
    candidates = (
        newest.get("activation_fn"),
        middle.get("activation_fn") if isinstance(middle, dict) else None,
        config.get(OLDEST_KEY),
    )
    for name in candidates:
        if isinstance(name, str) and name:
            return name
        if name is not None:
            logger.warning("%s: the stored activation %r is no name and is ignored", folder, name)
    return None


def read_prompts(folder: Path) -> dict[str, str]:
    """Return the stored prompts by name: texts that the model was trained to find before a query.

    Raises:
        ModelLoadError: the file is no JSON object.
    """
    stored = _read_if_present(folder / NEWEST_FILE).get("prompts")
    found = stored if isinstance(stored, dict) else {}
    return {name: prompt for name, prompt in found.items() if isinstance(prompt, str)}


def write_activation(folder: Path, activation: str | None, prompts: Mapping[str, str] | None = None) -> None:
    """Write the name in all three ways into a folder that has a config.json; None removes what stood there.

    Prompts are stored too, but no default one: sentence-transformers would apply it, and scores would differ from ours.
    """
    path = folder / "config.json"
    config = {key: value for key, value in read_json(path).items() if key not in (OLDEST_KEY, MIDDLE_KEY)}
    newest: dict[str, Any] = {
        "model_type": "CrossEncoder",
        "__version__": _versions(),
        "prompts": dict(prompts or {}),
        "default_prompt_name": None,
    }
    if activation is not None:
        config |= {OLDEST_KEY: activation, MIDDLE_KEY: {"activation_fn": activation, "version": MIDDLE_VERSION}}
        newest["activation_fn"] = activation
    _write_json(path, config)
    _write_json(folder / NEWEST_FILE, newest)
    _write_json(folder / "modules.json", MODULES)
    _write_json(folder / "sentence_bert_config.json", MODULE_CONFIG)


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {
        "sentence_transformers": NEWEST_VERSION,
        "transformers": transformers.__version__,
        "pytorch": str(torch.__version__),
    }


def _read_if_present(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=isinstance(content, dict)) + "\n", encoding="utf-8")
