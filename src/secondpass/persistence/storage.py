"""The activation's name in a model folder, in the three ways sentence-transformers has stored it.

Up to 3.x: config.json, `sbert_ce_default_activation_function`. 4.0 to 5.3: config.json, `sentence_transformers`.
From 5.4: config_sentence_transformers.json, with modules.json and sentence_bert_config.json beside it. We read
the newest that is there and write all three, so that every generation finds the same activation.
"""

from __future__ import annotations

import json
import logging
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
        logger.warning("%s: the model's default prompt is not applied; put it before the query yourself", folder)
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


def write_activation(folder: Path, activation: str | None) -> None:
    """Write the name in all three ways into a folder that has a config.json; None removes what stood there."""
    path = folder / "config.json"
    config = {key: value for key, value in read_json(path).items() if key not in (OLDEST_KEY, MIDDLE_KEY)}
    newest: dict[str, Any] = {
        "model_type": "CrossEncoder",
        "__version__": _versions(),
        "prompts": {},
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
