"""config.json to a transformers config: data only, no code it names is run, and the seed's num_labels rule."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secondpass.errors import ModelLoadError

logger = logging.getLogger(__name__)

# Keys by which a file could bring code or other files into the process: remote classes, attention kernels from
# the hub (CVE-2026-4372), fused kernels, another weights file. At any depth: nested configs are configs too
# (CVE-2026-5241).
CODE_KEYS = frozenset(
    {
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "fusion_config",
        "distributed_config",
        "transformers_weights",
    }
)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        ModelLoadError: the file is absent, no JSON, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path.parent} holds no {path.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content


def load_config(
    folder: Path,
    num_labels: int | None = None,
    classifier_dropout: float | None = None,
    config_args: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Return the transformers config of a folder, with the number of labels the model shall have.

    `num_labels` wins; else a checkpoint not trained as a sequence classifier gets 1; else the config decides
    (the seed's rule, but a config without `architectures` counts as untrained, as in sentence-transformers 4).

    Raises:
        ModelLoadError: the file is broken, or its architecture needs code that transformers does not have.
    """
    settings = read_json(folder / "config.json")
    remote = trust_remote_code and bool(settings.get("auto_map"))
    config = (_remote_config if remote else _local_config)(folder, settings, dict(config_args or {}))
    if num_labels is None and not _is_trained(settings):
        num_labels = 1
    if num_labels is not None:
        config.num_labels = num_labels
    if classifier_dropout is not None:
        config.classifier_dropout = classifier_dropout
    return config


def _is_trained(settings: Mapping[str, Any]) -> bool:
    architectures = settings.get("architectures") or ()
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def _local_config(folder: Path, settings: dict[str, Any], config_args: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ModelLoadError(_unknown_type(folder, model_type, bool(settings.get("auto_map"))))
    made = CONFIG_MAPPING[model_type]
    if made not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelLoadError(f"{folder}: transformers has no sequence classifier for model type {model_type!r}")
    data = without_code(settings)
    try:
        config, unused = made.from_dict(data, return_unused_kwargs=True, **config_args)
    except Exception as error:  # config classes validate with errors of their own kinds
        reason = " ".join(str(error).split())
        raise ModelLoadError(f"{folder / 'config.json'} is no valid {model_type} config: {reason}") from error
    if unused:
        logger.warning("config_args %s are no settings of %s and have no effect", sorted(unused), made.__name__)
    return config


def _remote_config(folder: Path, settings: dict[str, Any], config_args: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=True, **config_args)
    except Exception as error:  # foreign code may raise anything
        raise ModelLoadError(f"{folder}: the model's own config code failed ({type(error).__name__})") from error


def _unknown_type(folder: Path, model_type: object, has_code: bool) -> str:
    known = f"{folder}: transformers does not know the model type {model_type!r}"
    if has_code:
        return f"{known}; the model brings its own code, which runs only with trust_remote_code=True"
    return known


def without_code(value: Any) -> Any:
    """Copy JSON data without `CODE_KEYS`, at every depth."""
    if isinstance(value, dict):
        return {key: without_code(item) for key, item in value.items() if key not in CODE_KEYS}
    if isinstance(value, list):
        return [without_code(item) for item in value]
    return value
