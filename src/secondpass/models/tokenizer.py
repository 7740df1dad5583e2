"""The tokenizer of a folder, checked against the model it feeds before the first text arrives."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import ByteLevel

from secondpass.errors import ModelLoadError
from secondpass.models.config import read_if_present, read_json

logger = logging.getLogger(__name__)

# Without any of these transformers 5 makes a tokenizer of special tokens alone, which reads every text as unknown.
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm", "*.tiktoken", "tekken.json")
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")

# Settings of the caller by which special tokens are put around texts.
SETTINGS = frozenset({"add_bos_token", "add_eos_token"})
# Tokenizers of transformers 4 that handed segment ids to models; most do not in 5. "PreTrained" is the generic one.
WITH_SEGMENTS = frozenset(
    "Albert Bert BlenderbotSmall ConvBert Cpm DPRReader Electra Ernie ErnieM Funnel Herbert LayoutLM Lxmert MarkupLM "
    "MobileBert Nezha PreTrained Realm RemBert Retribert RoCBert RoFormer Splinter SqueezeBert XLNet".split()
)
SEGMENTS = "token_type_ids"
NO_WORDS = {"type": "WordLevel", "vocab": {}, "unk_token": ""}


def load_tokenizer(folder: Path, model: Any, tokenizer_args: Mapping[str, Any], trust_remote_code: bool = False) -> Any:
    """Return the folder's fast tokenizer, with the rules of tokenizer.json and the inputs that `model` was trained on.

    Raises:
        ModelLoadError: it is absent, cannot be read, needs foreign code, has no fast backend or no padding token, or
            puts no special tokens around texts though it has them.
    """
    if not trust_remote_code:
        check_present(folder)
    try:
        tokenizer = _made(folder, model.config, tokenizer_args, trust_remote_code)
    except Exception as error:  # readers of half a dozen formats, with errors of their own kinds
        if "trust_remote_code" in str(error):
            reason = ": it brings its own code, which runs only with trust_remote_code=True"
        else:
            reason = f" from {files_of(folder)}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise ModelLoadError(f"{folder}: the tokenizer cannot be read{reason}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelLoadError(
            f"{folder}: {type(tokenizer).__name__} is a slow tokenizer; one with a tokenizer.json is needed"
        )
    check_tokenizer(folder, tokenizer, SETTINGS.isdisjoint(tokenizer_args))
    if "model_input_names" not in {*tokenizer_args, *tokenizer.init_kwargs}:
        reads, name = SEGMENTS in inspect.signature(model.forward).parameters, type(tokenizer).__name__
        if reads and lacks_segments(folder, tokenizer, name, hasattr(model.config, "type_vocab_size")):
            tokenizer.model_input_names = [*tokenizer.model_input_names, SEGMENTS]
            tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    return tokenizer


def check_present(folder: Path) -> None:
    """Raise ModelLoadError where a folder has no vocabulary of any kind."""
    if not any(next(folder.glob(pattern), None) for pattern in VOCABULARIES):
        raise ModelLoadError(f"{folder} holds no tokenizer (tokenizer.json or a vocabulary)")


def check_tokenizer(folder: Path, tokenizer: Any, whole: bool = True) -> None:
    """Refuse a tokenizer that says no limit in numbers, does not pad, or (as a `whole`) lets texts run into each other.

    Raises:
        ModelLoadError: it does.
    """
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise ModelLoadError(
            f"{folder}: model_max_length of the tokenizer is {tokenizer.model_max_length!r}, no number"
        )
    if tokenizer.pad_token_id is None and tokenizer.cls_token_id is None and tokenizer.eos_token_id is not None:
        # of decoders, which do not read what is masked; who scores at the last token is told by `ends_with_padding`
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelLoadError(
            f"{folder}: the tokenizer has no padding token; name one it knows, e.g. "
            "tokenizer_args={'pad_token': '<pad>'}"
        )
    if whole:
        _check_special_tokens(folder, tokenizer)


def files_of(folder: Path) -> str:
    """The files that no tokenizer could be made of: readers say what they met, and not where.

    Raises:
        ModelLoadError: one of them alone is at fault.
    """
    found = sorted({path for pattern in (*VOCABULARIES, *SETTINGS_FILES) for path in folder.glob(pattern)})
    for path in found:
        if path.name in SETTINGS_FILES:
            read_json(path)
        elif path.name == "tokenizer.json":
            try:
                Tokenizer.from_file(str(path))
            except Exception as error:  # of no type of its own
                raise ModelLoadError(f"{path} is not a tokenizer: {error}") from error
    return ", ".join(path.name for path in found)


def _made(folder: Path, config: Any, tokenizer_args: Mapping[str, Any], trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    stored, settings = folder / "tokenizer.json", read_if_present(folder / SETTINGS_FILES[0])
    options = {"local_files_only": True, **tokenizer_args}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=trust_remote_code, **options)
    except Exception as error:
        if trust_remote_code or "auto_map" in settings or not stored.is_file():
            raise
        try:
            # the class that goes with the model's type cannot read another kind of vocabulary
            return PreTrainedTokenizerFast.from_pretrained(folder, **options)
        except Exception:
            raise error from None
    own_code = not type(tokenizer).__module__.startswith("transformers.")
    if stored.is_file() and not own_code and isinstance(tokenizer, PreTrainedTokenizerFast):
        if _put_stored_rules(stored, tokenizer, settings, tokenizer_args):
            return tokenizer
        generic = PreTrainedTokenizerFast.from_pretrained(folder, **options)
        generic.model_input_names = tokenizer.model_input_names
        return generic
    return tokenizer


def kind_of(settings: Mapping[str, Any], config: Mapping[str, Any], made: str) -> str:
    """The class by which transformers 4 read a folder, without "Tokenizer" and "Fast"; `made` is that of 5."""
    name = str(settings.get("tokenizer_class") or config.get("tokenizer_class") or made)
    return name.removesuffix("Fast").removesuffix("Tokenizer").replace("TokenizersBackend", "PreTrained")


def _put_stored_rules(
    stored: Path, tokenizer: Any, settings: Mapping[str, Any], tokenizer_args: Mapping[str, Any]
) -> bool:
    """Read tokenizer.json as it is, and not the rules that a class of transformers 5 makes anew by the model's type.

    transformers 4 read it so, but for the settings of BERT's normaliser and the blank before byte-level pieces. False
    where the class is another vocabulary's: it adds tokens that nobody named.
    """
    from transformers import PreTrainedTokenizerFast

    made, asked = type(tokenizer), {name for name in tokenizer_args if not name.endswith("_token")}
    parameters = inspect.signature(made.__init__).parameters
    if made is PreTrainedTokenizerFast or "__init__" not in vars(made) or asked & parameters.keys():
        return True
    backend, text = tokenizer.backend_tokenizer, stored.read_text(encoding="utf-8")
    rules, anew = _without_vocabulary(text), _without_vocabulary(backend.to_str())
    # only the rules around an equal model are read: a vocabulary takes a second
    light = rules is not None and anew is not None and rules["model"] == anew["model"]
    own = Tokenizer.from_str(json.dumps({**(rules or {}), "model": NO_WORDS, "added_tokens": []}) if light else text)
    if own.post_processor is None or not SETTINGS.isdisjoint(tokenizer_args):
        own.post_processor = backend.post_processor
    if isinstance(own.normalizer, BertNormalizer) and isinstance(backend.normalizer, BertNormalizer):
        own.normalizer = backend.normalizer
    if isinstance(own.pre_tokenizer, ByteLevel) and isinstance(backend.pre_tokenizer, ByteLevel):
        own.pre_tokenizer.add_prefix_space = backend.pre_tokenizer.add_prefix_space
    named = (rules or json.loads(text))["added_tokens"]
    known = {token["content"] for token in named}
    added = [token for _, token in sorted(backend.get_added_tokens_decoder().items()) if token.content not in known]
    defaults = [str(parameters[name].default) for name in parameters.keys() - settings.keys() - tokenizer_args.keys()]
    model = backend.model if light else own.model
    if any(model.token_to_id(token.content) is None and token.content in defaults for token in added):
        return False
    if light:
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            setattr(backend, part, getattr(own, part))
        return True
    for token in added:
        (own.add_special_tokens if token.special else own.add_tokens)([token])
    tokenizer._tokenizer = own
    return True


def _without_vocabulary(text: str) -> dict[str, Any] | None:
    """The rules of a tokenizer.json, its "model" without words and merges; None where they stand in another order."""
    model = re.search(r'"model"\s*:\s*\{', text)
    words = model and text.find('"vocab"', model.end())
    if model is None or not words or words < 0:
        return None
    try:
        rules: dict[str, Any] = json.loads(text[: model.start()].rstrip().rstrip(",") + "}")
        kind: dict[str, Any] = json.loads(text[model.end() - 1 : words].rstrip().rstrip(",") + "}")
    except ValueError:
        return None
    fallback = re.search(r'"byte_fallback"\s*:\s*(true|false)[\s}]*$', text[-200:])
    complete = {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"} <= rules.keys()
    return rules | {"model": {**kind, "behind": fallback and fallback[1]}} if complete else None


def _check_special_tokens(folder: Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that has a first token and a separator and puts neither: texts would run into each other."""
    first, separator = tokenizer.cls_token, tokenizer.sep_token
    if first is None or separator is None or tokenizer.backend_tokenizer.num_special_tokens_to_add(True):
        return
    raise ModelLoadError(
        f"{folder}: the tokenizer has no post-processor, so {first} and {separator} would not be put around the texts; "
        "save it again from its own class, or say tokenizer_args={'cls_token': None} for a model trained without them"
    )


def lacks_segments(folder: Path, tokenizer: Any, made: str, typed: bool) -> bool:
    """Whether segment ids must be handed to a model that was trained on them: transformers 5 took them from some.

    What was saved by transformers 4 was trained on what its classes gave, what was saved by 5 on what those give.
    `made` names the class that 5 takes; `typed` are models with a table of types.
    """
    if SEGMENTS in tokenizer.model_input_names:
        return False
    config, settings = read_json(folder / "config.json"), read_if_present(folder / SETTINGS_FILES[0])
    writer, kind = str(config.get("transformers_version") or "4").partition(".")[0], kind_of(settings, config, made)
    newer = "backend" in settings or (writer.isdecimal() and int(writer) >= 5)
    # where all are 0 a table of types adds the same to every token, ids or not
    equal = typed and not any(tokenizer.backend_tokenizer.encode("a", "b").type_ids)
    if newer or equal or kind not in WITH_SEGMENTS:
        return False
    logger.warning(
        "%s was saved by transformers 4, whose %sTokenizer gave segment ids to the model, so they are given; "
        "tokenizer_args={'model_input_names': ['input_ids', 'attention_mask']} leaves them out",
        folder,
        kind,
    )
    return True


def ends_with_padding(tokenizer: Any) -> bool:
    """Whether the padding token also stands behind every text: where the last real token is could not be told by it."""
    own = tokenizer.backend_tokenizer
    return any(tokenizer.pad_token_id in own.encode(*texts).ids[1:] for texts in (("a",), ("a", "b")))
