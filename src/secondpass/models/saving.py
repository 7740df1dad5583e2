"""A model to a folder that secondpass and sentence-transformers 3 to 6 read alike, or to one ONNX file.

Everything is written beside the old files first and put in place by renaming: a save that stops half-way, whatever the
reason, leaves the model that was there, or the new one.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError
from transformers.utils.hub import PushToHubMixin

from secondpass.activations import Activation, stored_name
from secondpass.calibration import Calibration, file_of
from secondpass.errors import CheckpointError, InvalidInput, ModelLoadError, SecondPassError
from secondpass.forwards.contract import padding_of
from secondpass.forwards.families import architecture_of, bert, body_of, deberta, family_of, modernbert
from secondpass.forwards.module import ModelForward
from secondpass.forwards.padded import pad
from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES
from secondpass.forwards.readout import reads_vocabulary
from secondpass.inputs import NAMES, Mark, ModelTemplate
from secondpass.lazy import optional
from secondpass.models.building import save_compact
from secondpass.models.card import README, write_card
from secondpass.models.chains import write_modules
from secondpass.models.config import (
    LISTED,
    TRANSFORMER_FILE,
    read_json,
    write_activation,
    write_json,
    write_older_rotary,
)
from secondpass.models.folders import put_in_place, unfinished_folder
from secondpass.models.identity import put_calibration
from secondpass.models.limits import token_limit
from secondpass.models.loading import quiet_transformers
from secondpass.models.templates import chat_template_of, stored
from secondpass.text import choice
from secondpass.tokens import Tokens

logger = logging.getLogger(__name__)

# ---- The folder itself.
# How this process came by the tokenizer is nobody else's business, and a token among it none at all.
# "localfiles_only" is of a mistake of ours, and in folders saved meanwhile.
PRIVATE_SETTINGS = (
    "cache_dir", "is_local", "local_files_only", "localfiles_only", "name_or_path", "revision", "token",
    "use_auth_token",
)  # fmt: skip


def save(
    path: str | os.PathLike[str] | None,
    model: Any,
    tokenizer: Any,
    activation: Activation,
    max_length: int | None = None,
    safe_serialization: bool = True,
    prompts: Mapping[str, str] | None = None,
    card: str | None = None,
    storage: Literal["int8"] | None = None,
    default_prompt: str | None = None,
    transformer_settings: Mapping[str, Any] | None = None,
    template: ModelTemplate | None = None,
    calibration: Calibration | None = None,
    input_limit: int | None = None,
    **options: Any,
) -> None:
    """Write model, tokenizer and activation; other files of the folder stay.

    Args:
        path: the folder, made if needed; None does nothing.
        model: a transformers sequence classifier, or a body and its readout; not changed.
        tokenizer: its fast tokenizer; not changed.
        activation: stored by class name, see `activations.stored_name`.
        max_length: stored as the tokenizer's `model_max_length`, where every reader finds it; None stores what
            tokenizer and model allow, and `input_limit` where that is less.
        safe_serialization: only True: pickles are not written.
        prompts: stored by name.
        default_prompt: the name of the one that a call gets that names none.
        transformer_settings: what was read beside the model, see `Loaded`.
        template: what the model reads around its texts, where the folder that it came from did not say it.
        card: text of README.md; a README.md of another origin is left alone, with a warning.
        storage: None writes weights in the model's own dtype. "int8" writes a quarter of float32's size, each row of a
            matrix rounded to 255 steps: scores change a little, and secondpass alone reads it, as float32.
        calibration: of these weights; without one a file of the model before is removed.
        input_limit: the longest input that was asked for by the folder that the model was loaded from.
        options: further arguments of the model's `save_pretrained`, e.g. max_shard_size.

    Raises:
        InvalidInput: an argument is refused.
        CheckpointError: the folder cannot be written; what was there before is still there, or the new model whole.
    """
    if path is None:
        return
    if not safe_serialization:
        raise InvalidInput("safe_serialization=False would write pickle files: only safetensors are written")
    _check_options(options)
    if storage is not None:
        check_storage(model, choice(storage, ("int8",), "storage"))
        if options:
            raise InvalidInput(f"storage={storage!r} takes no {sorted(options)[0]}: it is one file")
    if hasattr(body_of(model), "peft_config"):
        raise InvalidInput("the model has adapters of peft: merge them into it first (`merge_and_unload`)")
    folder = Path(path)
    logger.info("Save model to %s", path)
    try:
        with unfinished_folder(folder) as unfinished:
            with quiet_transformers():
                if storage is None:
                    body_of(model).save_pretrained(unfinished, **options)
                else:
                    model.config.save_pretrained(unfinished)
                    save_compact(unfinished, body_of(model).state_dict())
                tokenizer.save_pretrained(unfinished)
            tidy_tokenizer(unfinished, _limit(max_length, input_limit, tokenizer, model))
            write_older_rotary(unfinished)
            own = {} if template is None else {"template": stored(template)}
            write_activation(unfinished, stored_name(activation), prompts, default_prompt, own)
            chat = template is not None and _write_chat(unfinished, template, tokenizer)
            write_modules(unfinished, model, transformer_settings, chat)
            if calibration is not None:
                put_calibration(unfinished, calibration, rounded=storage is not None)
            write_card(unfinished, folder, card, calibration)
            put_in_place(unfinished, folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"the model cannot be saved to {folder}: {' '.join(str(error).split())}") from error


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuse those of 3.4's `save` that the model's `save_pretrained` would leave out in silence, or upload by."""
    if options.get("push_to_hub"):
        raise InvalidInput("push_to_hub=True is not an option of save: call push_to_hub()")
    for name in ("filename_prefix", "legacy_format"):
        if options.get(name):
            raise InvalidInput(f"{name}={options[name]!r}: the tokenizer's files have the names that readers look for")


def _write_chat(folder: Path, template: ModelTemplate, tokenizer: Any) -> bool:
    """Write a template for sentence-transformers, in place of one for chats; whether it reads such."""
    chat = chat_template_of(template, tokenizer)
    borders = Mark.BORDER in (span for name in NAMES for span in getattr(template.plain, name))
    if chat is None or borders:
        logger.warning(
            "the model's template is stored whole for secondpass; sentence-transformers %s",
            "has none like it" if chat is None else "reads its parts in one piece, as a few other tokens",
        )
    if chat is not None:
        (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    return chat is not None


def check_storage(model: Any, storage: str) -> None:
    """Refuse what cannot be stored compactly: that is built again by transformers' own classes, heads and all.

    Raises:
        InvalidInput: the model is a decoder, or not of a class of transformers.
    """
    if reads_vocabulary(model):
        raise InvalidInput(f"storage={storage!r} is for encoders, not for decoders")
    kind = type(body_of(model))
    if not kind.__module__.startswith("transformers."):
        raise InvalidInput(f"storage={storage!r} is for architectures of transformers, not for {kind.__name__}")


def tidy_tokenizer(folder: Path, limit: int | None) -> None:
    """Free a folder's tokenizer_config.json of what is private, name its class for all readers, and store a limit."""
    path = folder / "tokenizer_config.json"
    settings = {key: value for key, value in read_json(path).items() if key not in PRIVATE_SETTINGS}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        # The name of the same class before transformers 5, which transformers 5 still reads.
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if limit is not None:
        settings["model_max_length"] = limit
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _limit(max_length: int | None, input_limit: int | None, tokenizer: Any, model: Any) -> int | None:
    if max_length is not None:
        return max_length
    try:
        limit = token_limit(tokenizer, model)
    except ModelLoadError:
        return input_limit
    return min(limit, input_limit or limit)


# ---- One ONNX file, for runtimes that have no torch.
ONNX, ONNX_WEIGHTS = "model.onnx", "model.onnx.data"
OPSET = 17  # the first with layer normalisation
# Of logits, ours and those of onnxruntime.
MOST_DIFFERENCE = 1e-4
ENCODERS = (bert.FAMILY, deberta.FAMILY, modernbert.FAMILY)
# Written for sentence-transformers, which would look for weights beside them.
OF_OTHERS = (LISTED, TRANSFORMER_FILE)


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file, its inputs by name, and how far its logits are from ours at most, over `pairs` sample pairs."""

    path: Path
    inputs: tuple[str, ...]
    difference: float
    pairs: int


def export_onnx(encoder: Any, path: str | os.PathLike[str]) -> Exported:
    """Write a model as one ONNX file in float32 with free batch and length, and beside it what runs it.

    `model.onnx` takes int64 [batch, length] by the names of the tokenizer and gives `logits` float32 [batch, labels];
    tokenizer.json, its settings, config.json with the activation and the stored prompts stand beside it. Beyond 2 GB,
    the most that ONNX has in one file, the weights are in `model.onnx.data`. The file is put in place when onnxruntime
    has computed sample pairs from it, alone and in one batch, and agrees with our own forward to `MOST_DIFFERENCE`.

    Args:
        encoder: a `CrossEncoder` whose model is an encoder under a classification head or a module chain; not changed.
        path: a folder without a model of its own, made if needed.

    Raises:
        InvalidInput: the model is none of those, or the folder holds another one.
        MissingExtra: onnx or onnxruntime is absent.
        CheckpointError: the file cannot be written, or gives other logits; what was in the folder is still there.
    """
    folder = Path(path)
    encoder.engine()
    model, tokenizer = encoder.model, encoder.tokenizer
    _refuse_to_export(model, folder)
    if model.device.type != "cpu" or model.dtype != torch.float32:
        model = copy.deepcopy(model).to("cpu", torch.float32)
    # one pair is longer than local attention sees
    documents = [*SAMPLE_DOCUMENTS, " ".join(SAMPLE_DOCUMENTS * 3)]
    samples = encoder.tokens([*SAMPLE_QUERIES, SAMPLE_QUERIES[0]], documents)
    try:
        with unfinished_folder(folder) as unfinished:
            inputs = _write_onnx(unfinished, model, samples, tokenizer)
            difference = _difference(unfinished / ONNX, model, samples, tokenizer)
            if not difference <= MOST_DIFFERENCE:
                raise CheckpointError(
                    f"the ONNX file gives logits that differ from ours by up to {difference:.1e} on {len(samples)} "
                    f"sample pairs, more than {MOST_DIFFERENCE:.0e}: nothing was written to {folder}"
                )
            model.config.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            tidy_tokenizer(unfinished, encoder.window)
            # FlashRank and fastembed read it; transformers 5 writes none
            write_json(unfinished / "special_tokens_map.json", dict(tokenizer.special_tokens_map))
            activation = stored_name(encoder.default_activation_function)
            write_activation(unfinished, activation, encoder.prompts, encoder.default_prompt_name)
            for name in OF_OTHERS:
                (unfinished / name).unlink(missing_ok=True)
            put_in_place(unfinished, folder)
    except SecondPassError:
        raise
    except Exception as error:  # torch's exporter and onnxruntime have errors of their own kinds
        raise CheckpointError(f"the model cannot be exported to {folder}: {' '.join(str(error).split())}") from error
    return Exported(folder / ONNX, inputs, difference, len(samples))


def _refuse_to_export(model: Any, folder: Path) -> None:
    if family_of(model) not in ENCODERS:
        known = sorted({name.split("For")[0].removesuffix("Model") for one in ENCODERS for name in one.architectures})
        name = architecture_of(model) or type(model).__name__
        raise InvalidInput(f"{name} is not exported to ONNX; encoders are: {', '.join(known)}")
    if folder.suffix == ".onnx":
        raise InvalidInput(f"{folder} is to be a folder: {ONNX} is written into it, and what runs it beside that")
    if any(folder.glob("model*.safetensors*")):
        raise InvalidInput(f"{folder} holds a model of its own: give a folder for the ONNX file, say {folder / 'onnx'}")
    for library in ("onnx", "onnxruntime"):
        optional(library, library, "onnx")


class _Logits(torch.nn.Module):
    """A model with its inputs by position and logits alone as its output, which is what is traced."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names = model, tuple(names)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._model(**dict(zip(self._names, tensors, strict=True)), return_dict=True).logits
        return logits


def _write_onnx(folder: Path, model: Any, samples: Sequence[Tokens], tokenizer: Any) -> tuple[str, ...]:
    """Trace the model over a padded batch; -> the inputs that the file has."""
    import onnx

    given = pad(samples, padding_of(tokenizer)).named(tokenizer.model_input_names, torch.device("cpu"))
    names = list(given)
    axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
    path = folder / ONNX
    # torch's other exporter is five to twenty times slower, needs one more library and gives the same
    with torch.no_grad(), warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Logits(model, names).eval(), tuple(given.values()), str(path), input_names=names, output_names=["logits"],
            dynamic_axes=axes, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    parts = [file for file in folder.iterdir() if file != path]
    made = onnx.load(path)
    if parts:  # torch writes a file for each weight where they do not fit into one
        for file in (*parts, path):
            file.unlink()
        onnx.save_model(made, path, save_as_external_data=True, location=ONNX_WEIGHTS)
    return tuple(one.name for one in made.graph.input)


def _difference(path: Path, model: Any, samples: Sequence[Tokens], tokenizer: Any) -> float:
    """The largest difference of a logit, onnxruntime's from ours, of each sample alone and of all in one batch."""
    import onnxruntime

    names, padding = tokenizer.model_input_names, padding_of(tokenizer)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print is in its errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {one.name for one in session.get_inputs()}

    def theirs(inputs: Sequence[Tokens]) -> Any:
        tensors = pad(inputs, padding).named(names, torch.device("cpu"))
        return session.run(None, {name: rows.numpy() for name, rows in tensors.items() if name in taken})[0]

    ours = ModelForward(model, names, padding, "fp32").ready().logits(samples)
    alone = np.concatenate([theirs([item]) for item in samples])
    return float(np.abs(np.stack([theirs(samples), alone]) - ours).max())


# Where the form that transformers uploads without a card on the hub describes the model.
PLACE = "{description}"


class _Upload(PushToHubMixin):
    """Gives transformers' uploading what a model saves."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def save_pretrained(self, *where: Any, **options: Any) -> None:
        """As the model's own."""
        self._encoder.save_pretrained(*where, **options)

    def _upload_modified_files(self, working_dir: Any, *where: Any, **options: Any) -> Any:
        """Treat the card of the hub, which transformers has put over that of `save`, as `save` treats one on disk."""
        folder, readme = Path(working_dir), Path(working_dir) / README
        theirs = ModelCard.load(readme)
        front, back = ModelCard.from_template(ModelCardData(), model_description=PLACE).text.split(PLACE)
        if theirs.text.startswith(front) and theirs.text.endswith(back):
            readme.unlink()
        calibration = Calibration.load(folder) if file_of(folder).exists() else None
        write_card(folder, folder, self._encoder.model_card_data.text(), calibration)
        card = ModelCard.load(readme) if readme.exists() else theirs
        card.data.tags = list(dict.fromkeys(tag for one in (card, theirs) for tag in one.data.tags or ()))
        card.save(readme)
        return super()._upload_modified_files(working_dir, *where, **options)


def upload(encoder: Any, repo_id: str, commit_message: str | None, **options: Any) -> str:
    """Save a model and upload that to the hub; `options` are transformers' own. Returns the commit's address.

    `use_temp_dir` and `exist_ok`, of older ones and of sentence-transformers, may be true, which it is.

    Raises:
        InvalidInput: one of the two is False.
    """
    for name in ("use_temp_dir", "exist_ok"):
        if options.pop(name, None) is False:
            raise InvalidInput(f"{name}=False: a temporary folder is uploaded, to a repository that may be there")
    message = commit_message or f"Upload {type(encoder).__name__}"
    address: str = _Upload(encoder).push_to_hub(repo_id, commit_message=message, **options)
    return address
