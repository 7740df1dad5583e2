"""config.json to a transformers config: data only, no code it names is run, and the seed's num_labels rule."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

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


Task = Literal["sequence-classification", "feature-extraction", "text-generation"]
"""What of a transformers model is loaded, in sentence-transformers' words: with a head, without, with a vocabulary."""

KINDS: dict[Task, tuple[str, str]] = {
    "sequence-classification": ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING", "sequence classifier"),
    "feature-extraction": ("MODEL_MAPPING", "encoder"),
    "text-generation": ("MODEL_FOR_CAUSAL_LM_MAPPING", "causal language model"),
}


def classes_of(task: Task) -> Mapping[Any, Any]:
    """Transformers' model classes for a task by those of their configs."""
    import transformers

    found: Mapping[Any, Any] = getattr(transformers, KINDS[task][0])
    return found


def architecture_in(folder: Path) -> str:
    """The class that config.json says its weights are of; empty where it says none."""
    named = read_json(folder / "config.json").get("architectures")
    return str(named[0]) if isinstance(named, list) and named else ""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises ModelLoadError where it is absent, no JSON, or holds no object."""
    content: dict[str, Any] = _parsed(path, dict, "an object")
    return content


def read_list(path: Path) -> list[Any]:
    """The same for a list."""
    content: list[Any] = _parsed(path, list, "a list")
    return content


def _parsed(path: Path, kind: type, wanted: str) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelLoadError(f"{path.parent} holds no {path.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} cannot be read as JSON ({type(error).__name__}: {error})") from error
    if not isinstance(content, kind):
        raise ModelLoadError(f"{path} holds a JSON {type(content).__name__}, not {wanted}")
    return content


def load_config(
    folder: Path,
    num_labels: int | None = None,
    classifier_dropout: float | None = None,
    config_args: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    task: Task = "sequence-classification",
) -> Any:
    """Return the transformers config of a folder, with the number of labels that a sequence classifier shall have.

    `num_labels` wins; else a checkpoint not trained as a sequence classifier gets 1; else the config decides
    (the seed's rule, but a config without `architectures` counts as untrained, as in sentence-transformers 4).

    Raises:
        ModelLoadError: the file is broken, or its architecture needs code that transformers does not have.
    """
    settings = read_json(folder / "config.json")
    remote = trust_remote_code and bool(settings.get("auto_map"))
    if remote:
        config = _remote_config(folder, dict(config_args or {}))
    else:
        config = _local_config(folder, settings, dict(config_args or {}), task)
    if task != "sequence-classification":
        return config
    architectures = settings.get("architectures")
    architectures = architectures if isinstance(architectures, list) else ()
    if num_labels is None and not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        num_labels = 1
    if num_labels is not None:
        config.num_labels = num_labels
    if classifier_dropout is not None:
        config.classifier_dropout = classifier_dropout
    return config


def _local_config(folder: Path, settings: dict[str, Any], config_args: dict[str, Any], task: Task) -> Any:
    from transformers import CONFIG_MAPPING

    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        own = "; the model brings its own code, which runs only with trust_remote_code=True"
        known = f"{folder}: transformers does not know the model type {model_type!r}"
        raise ModelLoadError(known + (own if settings.get("auto_map") else ""))
    made = CONFIG_MAPPING[model_type]
    if made not in classes_of(task):
        raise ModelLoadError(f"{folder}: transformers has no {KINDS[task][1]} for model type {model_type!r}")
    data = without_code(settings)
    try:
        config, unused = made.from_dict(data, return_unused_kwargs=True, **config_args)
    except Exception as error:  # config classes validate with errors of their own kinds
        reason = " ".join(str(error).split())
        raise ModelLoadError(f"{folder / 'config.json'} is no valid {model_type} config: {reason}") from error
    if unused:
        logger.warning("config_args %s are no settings of %s and have no effect", sorted(unused), made.__name__)
    return config


def _remote_config(folder: Path, config_args: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=True, **config_args)
    except Exception as error:  # foreign code may raise anything
        raise ModelLoadError(f"{folder}: the model's own config code failed ({type(error).__name__})") from error


def without_code(value: Any) -> Any:
    """Copy JSON data without `CODE_KEYS`, at every depth."""
    if isinstance(value, dict):
        return {key: without_code(item) for key, item in value.items() if key not in CODE_KEYS}
    if isinstance(value, list):
        return [without_code(item) for item in value]
    return value


# ---- The activation's name in a model folder, in the three ways sentence-transformers has stored it.
#
# Up to 3.x: config.json, `sbert_ce_default_activation_function`. 4.0 to 5.3: config.json, `sentence_transformers`.
# From 5.4: config_sentence_transformers.json, with modules.json and sentence_bert_config.json beside it. We read
# the newest that is there and write all three, so that every generation finds the same activation.
OLDEST_KEY = "sbert_ce_default_activation_function"
MIDDLE_KEY = "sentence_transformers"
NEWEST_FILE = "config_sentence_transformers.json"
# Beside it: the modules in order, and how the first of them is used.
LISTED, TRANSFORMER_FILE = "modules.json", "sentence_bert_config.json"
# What other readers of that file pass over.
OWN_KEY = "secondpass"

# Versions of the formats, not of this program: readers warn about anything newer than themselves.
MIDDLE_VERSION = "4.0.0"
NEWEST_VERSION = "5.4.0"


def read_activation(folder: Path) -> str | None:
    """Return the stored dotted name of the activation, newest way first; None if there is none.

    Raises:
        ModelLoadError: a file is no JSON object.
    """
    newest = read_if_present(folder / NEWEST_FILE)
    config = read_if_present(folder / "config.json")
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


def read_prompts(folder: Path) -> tuple[dict[str, str], str | None]:
    """Return the stored prompts by name, and the name of the one that every call gets that names none.

    Raises:
        ModelLoadError: the file is no JSON object, or the default names no prompt.
    """
    newest = read_if_present(folder / NEWEST_FILE)
    stored, default = newest.get("prompts"), newest.get("default_prompt_name")
    found = stored if isinstance(stored, dict) else {}
    prompts = {name: prompt for name, prompt in found.items() if isinstance(prompt, str)}
    if default is not None and default not in prompts:
        raise ModelLoadError(f"{folder / NEWEST_FILE}: default_prompt_name {default!r} is none of its prompts")
    return prompts, default


def stored_template(folder: Path) -> Any:
    """What `models.templates.stored` made of the template that the folder was saved with, None where it has none."""
    kept = read_if_present(folder / NEWEST_FILE).get(OWN_KEY)
    return kept.get("template") if isinstance(kept, dict) else None


def write_activation(
    folder: Path,
    activation: str | None,
    prompts: Mapping[str, str] | None = None,
    default_prompt: str | None = None,
    own: Mapping[str, Any] | None = None,
) -> None:
    """Write the name in all three ways into a folder that has a config.json; None removes what stood there.

    Prompts are stored too, the name of the one that is the default, and what is `own` to us.
    """
    import torch
    import transformers

    path = folder / "config.json"
    config = {key: value for key, value in read_json(path).items() if key not in (OLDEST_KEY, MIDDLE_KEY)}
    newest: dict[str, Any] = {
        "model_type": "CrossEncoder",
        "__version__": {
            "sentence_transformers": NEWEST_VERSION,
            "transformers": transformers.__version__,
            "pytorch": str(torch.__version__),
        },
        "prompts": dict(prompts or {}),
        "default_prompt_name": default_prompt,
    }
    if own:
        newest[OWN_KEY] = dict(own)
    if activation is not None:
        config |= {OLDEST_KEY: activation, MIDDLE_KEY: {"activation_fn": activation, "version": MIDDLE_VERSION}}
        newest["activation_fn"] = activation
    write_json(path, config)
    write_json(folder / NEWEST_FILE, newest)


# ---- Rotary positions by the names that they had before transformers 5.
#
# Since then they stand in `rope_parameters`. transformers 4, and what is built on it, knows no such key and takes the
# family's defaults without a word: other scores. Both are written; transformers 5 reads the newer one.
OLDER_BASES = {
    "modernbert": {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"},
    "gemma3_text": {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"},
}


def write_older_rotary(folder: Path) -> None:
    """Add the older names to the config.json of a folder, where they can say what the newer one does."""
    path = folder / "config.json"
    settings = read_json(path)
    given = settings.get("rope_parameters") or {}
    names = OLDER_BASES.get(settings.get("model_type", ""), {})
    kinds = {name: given[kind] for kind, name in names.items() if isinstance(given.get(kind), dict)}
    own = kinds or ({"rope_theta": given} if "rope_theta" in given else {})
    older: dict[str, Any] = {name: parameters["rope_theta"] for name, parameters in own.items()}
    # one kind alone could be scaled
    scaling = {key: value for key, value in own.get("rope_theta", {}).items() if key != "rope_theta"}
    if scaling.get("rope_type", "default") != "default":
        older["rope_scaling"] = scaling
    if settings | older != settings:
        write_json(path, settings | older)


def read_if_present(path: Path) -> dict[str, Any]:
    """What `read_json` returns, nothing where there is no file."""
    return read_json(path) if path.is_file() else {}


def read_processing(path: Path) -> dict[str, dict[str, Any]]:
    """What sentence-transformers gives the tokenizer, by its names: "text", "common", "chat_template".

    Raises:
        ModelLoadError: `path`, a `TRANSFORMER_FILE`, is no JSON object, or what stands there for the tokenizer is none.
    """
    given = read_if_present(path).get("processing_kwargs") or {}
    named = {f"processing_kwargs.{name}": own for name, own in given.items()} if isinstance(given, dict) else {}
    for key, value in {"processing_kwargs": given, **named}.items():
        if value and not isinstance(value, dict):
            raise ModelLoadError(f"{path}: {key} is {value!r}, no object")
    return {name: own or {} for name, own in given.items()}


def write_json(path: Path, content: object) -> None:
    """Write JSON as the files of a model have it."""
    path.write_text(json.dumps(content, indent=2, sort_keys=isinstance(content, dict)) + "\n", encoding="utf-8")
