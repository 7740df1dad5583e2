"""The tokenizer of a folder, checked against the model it feeds before the first text arrives."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from secondpass.errors import ModelLoadError
from secondpass.models.config import LISTED, NEWEST_FILE, OWN_KEY, read_if_present, read_json

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
        _check_present(folder)
    try:
        tokenizer = _made(folder, model.config, tokenizer_args, trust_remote_code)
    except Exception as error:  # readers of half a dozen formats, with errors of their own kinds
        if "trust_remote_code" in str(error):
            reason = ": it brings its own code, which runs only with trust_remote_code=True"
        else:
            reason = f" from {_files(folder)}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise ModelLoadError(f"{folder}: the tokenizer cannot be read{reason}") from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelLoadError(
            f"{folder}: {type(tokenizer).__name__} is a slow tokenizer; one with a tokenizer.json is needed"
        )
    _check(folder, tokenizer, SETTINGS.isdisjoint(tokenizer_args))
    if "model_input_names" not in {*tokenizer_args, *tokenizer.init_kwargs}:
        reads, name = SEGMENTS in inspect.signature(model.forward).parameters, type(tokenizer).__name__
        if reads and _lacks_segments(folder, tokenizer, name, hasattr(model.config, "type_vocab_size")):
            tokenizer.model_input_names = [*tokenizer.model_input_names, SEGMENTS]
            tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    return tokenizer


def _check_present(folder: Path) -> None:
    if not any(next(folder.glob(pattern), None) for pattern in VOCABULARIES):
        raise ModelLoadError(f"{folder} holds no tokenizer (tokenizer.json or a vocabulary)")


def _check(folder: Path, tokenizer: Any, whole: bool = True) -> None:
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


def _files(folder: Path) -> str:
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

    stored, settings = folder / "tokenizer.json", _read_settings(folder)
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


def _kind(settings: Mapping[str, Any], config: Mapping[str, Any], made: str) -> str:
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


def _lacks_segments(folder: Path, tokenizer: Any, made: str, typed: bool) -> bool:
    """Whether segment ids must be handed to a model that was trained on them: transformers 5 took them from some.

    What was saved by transformers 4 was trained on what its classes gave, what was saved by 5 on what those give.
    `made` names the class that 5 takes; `typed` are models with a table of types.
    """
    if SEGMENTS in tokenizer.model_input_names:
        return False
    config, settings = read_json(folder / "config.json"), _read_settings(folder)
    writer, kind = str(config.get("transformers_version") or "4").partition(".")[0], _kind(settings, config, made)
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


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


# ---- The same without transformers, for the classes of our own families.
#
# The tokens that those of transformers 5 bring along where no file names others.
BRACKETS = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
ANGLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"}
ANGLES |= {"cls_token": "<s>", "mask_token": "<mask>"}
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = "extra_special_tokens"
# Settings by which a tokenizer is made in a way of its own.
PECULIAR = frozenset(
    "auto_map fast_tokenizer_files fix_mistral_regex gguf_file init_inputs merges model_specific_special_tokens "
    "post_processor split_special_tokens tokenizer_object tokenizer_padding tokenizer_truncation vocab".split()
)


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """A class of transformers: its vocabulary's kind, None for any; the inputs it makes; its tokens by role."""

    vocabulary: str | None
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    tokens: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()


_BERT = TokenizerClass("WordPiece", ("input_ids", SEGMENTS, "attention_mask"), BRACKETS)
CLASSES = {
    "PreTrained": TokenizerClass(None),
    "Bert": _BERT,
    "Electra": _BERT,
    "DistilBert": TokenizerClass("WordPiece", tokens=BRACKETS),
    "Roberta": TokenizerClass("BPE", tokens=ANGLES),
    "XLMRoberta": TokenizerClass("Unigram", tokens=ANGLES),
    "Camembert": TokenizerClass("Unigram", tokens=ANGLES, extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")),
    "DebertaV2": TokenizerClass(
        "Unigram", ("input_ids", "attention_mask", SEGMENTS), {"bos_token": "[CLS]", "eos_token": "[SEP]", **BRACKETS}
    ),
}
# The class of a model's type, and whether such models read segment ids.
OF_TYPE = {
    "bert": ("Bert", True),
    "electra": ("Bert", True),
    "distilbert": ("Bert", False),
    "roberta": ("Roberta", True),
    "xlm-roberta": ("XLMRoberta", True),
    "camembert": ("Camembert", True),
    "deberta-v2": ("DebertaV2", True),
    "modernbert": ("PreTrained", False),
}


class _Unsure(Exception):
    """Why transformers might make another tokenizer of a folder."""


class StoredTokenizer:
    """What the engine reads of a tokenizer, under the names of transformers; `read_tokenizer` makes it.

    `cls_token`, `cls_token_id` and so on are there for each of `ROLES`, None where the tokenizer has no such token.
    Those with one `identity` make the same ids of every text. The backend is nobody else's.
    """

    pad_token_type_id = 0

    def __init__(
        self, backend: Tokenizer, identity: bytes, tokens: Mapping[str, str], settings: Mapping[str, Any]
    ) -> None:
        limit = settings.get("model_max_length", settings.get("max_len"))
        self.backend_tokenizer = backend
        self.identity = identity
        self.special_tokens_map = dict(tokens)
        self.name_or_path: str = settings["name_or_path"]
        self.model_max_length: float = int(1e30) if limit is None else limit
        self.model_input_names: list[str] = settings["model_input_names"]
        self.padding_side: str = settings["padding_side"]
        self.truncation_side: str = settings["truncation_side"]
        self.chat_template: Any = settings.get("chat_template")

    def __getattr__(self, name: str) -> Any:
        role = name.removesuffix("_id")
        if role not in ROLES:
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        token = self.special_tokens_map.get(role)
        return token if token is None or role == name else self.backend_tokenizer.token_to_id(token)

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size(True)

    def get_vocab(self) -> dict[str, int]:
        """All tokens with their ids, added ones too."""
        return self.backend_tokenizer.get_vocab(True)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of one text, without padding."""
        made = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [number for number, real in zip(made.ids, made.attention_mask, strict=True) if real]


def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> StoredTokenizer | str:
    """What `load_tokenizer` makes of a folder, without transformers; a text says why it might be another.

    Args:
        folder: with tokenizer.json, tokenizer_config.json and what stands beside them.
        config: the content of its config.json.

    Raises:
        ModelLoadError: as of `load_tokenizer`.
    """
    _check_present(folder)
    stored = folder / "tokenizer.json"
    if not stored.is_file():
        return "only transformers reads a vocabulary that is no tokenizer.json"
    settings, content = _read_settings(folder), stored.read_bytes()
    try:
        name = _class_name(settings, config)
        backend = Tokenizer.from_str(content.decode("utf-8"))
    except _Unsure as reason:
        return f"only transformers reads {reason}"
    except Exception as error:  # of no type of its own
        return f"it cannot be read from {_files(folder)}: {type(error).__name__}: {error}"
    try:
        made, name = _stored(folder, settings, content, backend, name)
    except _Unsure as reason:
        return f"only transformers reads {reason}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # settings are what they like
        return f"it cannot be read from {_files(folder)}: {type(error).__name__}: {error}"
    _check(folder, made)
    reads = OF_TYPE[config["model_type"]][1] and "model_input_names" not in settings
    if reads and _lacks_segments(folder, made, f"{name}Tokenizer", True):
        made.model_input_names.append(SEGMENTS)
    return made


def _class_name(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Which of `CLASSES` transformers takes."""
    model_type, given = config.get("model_type"), settings.get("tokenizer_class") or config.get("tokenizer_class")
    if model_type not in OF_TYPE or "model_name" in config:
        raise _Unsure(f"the tokenizer of a {model_type} model")
    peculiar = sorted(key for key in PECULIAR & settings.keys() if settings[key])
    if peculiar:
        raise _Unsure(f"{peculiar[0]} in tokenizer_config.json")
    registered = OF_TYPE[model_type][0]
    name = registered if given is None else _kind({"tokenizer_class": given}, {}, "")
    if name not in CLASSES or given == "PreTrainedTokenizer":
        raise _Unsure(f"a {given} of a {model_type} model")
    return registered if registered == "PreTrained" else name


def _stored(
    folder: Path, settings: dict[str, Any], content: bytes, backend: Tokenizer, name: str
) -> tuple[StoredTokenizer, str]:
    """The tokenizer, and the one of `CLASSES` that it is of."""
    kind, known = CLASSES[name], {token.content for token in backend.get_added_tokens_decoder().values()}
    initial, decoder = _initial(folder, settings, content, backend)
    padding, truncation = backend.padding or {}, backend.truncation or {}
    inputs = [*initial.setdefault("model_input_names", kind.inputs)]
    tokens, added, rules = _tokens(kind, initial), list[AddedToken](), ""
    if kind.vocabulary is not None:
        if type(backend.model).__name__ != kind.vocabulary:
            raise _Unsure(f"a {type(backend.model).__name__} vocabulary of a {name}Tokenizer")
        added = _wanted(tokens, initial.get(EXTRA, kind.extra) or (), decoder, known)
        added = [token for token in added if token.content not in known]
        lacking = {token.content for token in added if backend.model.token_to_id(token.content) is None}
        if not lacking:
            rules = _put_settings(name, initial, decoder, backend)
        elif name == "DistilBert" or not lacking & {kind.tokens[role] for role in kind.tokens.keys() - settings.keys()}:
            raise _Unsure(f"the token {min(lacking)}, which is not in the vocabulary")
        else:
            name = "PreTrained"  # the class is another vocabulary's
    if name == "PreTrained":
        tokens = _tokens(CLASSES[name], {**({"pad_token": padding["pad_token"]} if padding else {}), **initial})
        added = _wanted(tokens, initial.get(EXTRA) or (), decoder, known)
        if backend.post_processor is None:
            backend.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])
    backend.add_tokens(added)
    ours = {role: str(token) for role, token in tokens.items()}
    sides = {"padding_side": padding, "truncation_side": truncation}
    final = {side: rule.get("direction", "right") for side, rule in sides.items()} | initial
    final |= {"model_input_names": inputs, "name_or_path": str(folder)}
    if not {final["padding_side"], final["truncation_side"]} <= {"left", "right"}:
        raise _Unsure("a side in tokenizer_config.json that is neither left nor right")
    unknown = ours.get("unk_token")
    settled = repr((name, rules, *map(repr, added), unknown and backend.token_to_id(unknown)))
    identity = hashlib.blake2b(content + settled.encode(), digest_size=16).digest()
    return StoredTokenizer(backend, identity, ours, final), name


def _initial(
    folder: Path, settings: dict[str, Any], content: bytes, backend: Tokenizer
) -> tuple[dict[str, Any], dict[int, AddedToken]]:
    """What all files say a tokenizer is made with, and the added tokens that they name by id."""
    if b'"added_tokens"' not in content:
        raise _Unsure("a tokenizer.json without added_tokens")
    initial, decoder = dict(settings), dict[int, AddedToken]()
    if "additional_special_tokens" in initial and not initial.get(EXTRA):
        initial[EXTRA] = initial.pop("additional_special_tokens")
    if "added_tokens_decoder" in initial:
        decoder = {int(number): AddedToken(**token) for number, token in initial["added_tokens_decoder"].items()}
    else:
        for key, value in read_if_present(folder / "special_tokens_map.json").items():
            single = isinstance(value, dict) and key != EXTRA
            initial[key] = AddedToken(**{**value, "special": True}) if single else value
        special = {str(initial[role]) for role in ROLES if initial.get(role)} | {*map(str, initial.get(EXTRA) or ())}
        for token, number in read_if_present(folder / "added_tokens.json").items():
            decoder[int(number)] = AddedToken(token, normalized=token not in special, special=token in special)
        decoder |= backend.get_added_tokens_decoder()
    if initial.get(EXTRA) == {}:
        del initial[EXTRA]
    if "additional_special_tokens" in initial:
        initial.setdefault(EXTRA, initial["additional_special_tokens"])
    own = [key for key in initial if key.endswith("_token") and key not in ROLES and not isinstance(initial[key], bool)]
    if own or isinstance(initial.get(EXTRA), dict):
        raise _Unsure(f"the token {own[0] if own else min(initial[EXTRA])} of the tokenizer's own")
    _check_chat(folder, initial)
    return initial, decoder


def _check_chat(folder: Path, initial: Mapping[str, Any]) -> None:
    """A chat template is rendered by transformers, where no template of ours is stored with the model."""
    files = any((folder / name).exists() for name in ("chat_template.jinja", "additional_chat_templates"))
    if files or initial.get("chat_template") is not None:
        own = read_if_present(folder / NEWEST_FILE).get(OWN_KEY) if (folder / LISTED).is_file() else None
        if not isinstance(own, dict) or "template" not in own:
            raise _Unsure("a chat template")


def _token(value: Any) -> str | AddedToken:
    if isinstance(value, dict) and value.get("__type") == "AddedToken":
        return AddedToken(**{name: own for name, own in value.items() if name != "__type"})
    if not isinstance(value, (str, AddedToken)):
        raise TypeError(f"{value!r} is no token")
    return value


def _tokens(kind: TokenizerClass, initial: Mapping[str, Any]) -> dict[str, str | AddedToken]:
    """Special tokens by role, in transformers' order."""
    made = {**kind.tokens, **{role: initial[role] for role in ROLES if role in initial}}
    if any(made[role] is None for role in kind.tokens):
        raise _Unsure("null for a token that the tokenizer's class needs")
    return {role: _token(made[role]) for role in ROLES if made.get(role) is not None}


def _wanted(
    tokens: Mapping[str, str | AddedToken], extra: Any, decoder: Mapping[int, AddedToken], known: Collection[str]
) -> list[AddedToken]:
    """The tokens that transformers adds, in its order; of two with one content the later one's flags count."""
    made: list[str | AddedToken] = [token for _, token in sorted(decoder.items())]
    named, seen = {str(token) for token in tokens.values()}, {*known, *map(str, made)}
    for token in [*tokens.values(), *map(_token, extra)]:
        if str(token) not in seen and token not in made:
            made.append(token)
    added = [AddedToken(token, special=True) if isinstance(token, str) else token for token in made]
    for token in added:
        token.special = token.special or token.content in named
    return added


def _put_settings(name: str, initial: Mapping[str, Any], decoder: Mapping[int, AddedToken], backend: Tokenizer) -> str:
    """Change the rules of a tokenizer.json where a class of transformers takes settings for them; says to what."""
    kind, ours = CLASSES[name], backend.get_added_tokens_decoder()
    if backend.post_processor is None:
        raise _Unsure(f"a {name}Tokenizer without a post-processor")
    differs = any(repr(decoder.get(number)) != repr(token) for number, token in ours.items())
    if differs or len({token.content for token in decoder.values()}) != len(decoder):
        raise _Unsure("added tokens of which tokenizer.json and the files beside it say different things")
    settings = ()
    if isinstance(backend.normalizer, BertNormalizer) and kind.vocabulary == "WordPiece":
        lower, chinese = (initial.get(key, True) for key in ("do_lower_case", "tokenize_chinese_chars"))
        settings = (True, chinese, initial.get("strip_accents"), lower)
        if not {*map(type, settings)} <= {bool, type(None)} or None in (lower, chinese):
            raise _Unsure("settings of BERT's normaliser that are neither true nor false")
        backend.normalizer = BertNormalizer(*settings)
    if isinstance(backend.pre_tokenizer, ByteLevel) and name == "Roberta":
        settings = (initial.get("add_prefix_space", False),)
        if not isinstance(settings[0], bool):
            raise _Unsure("an add_prefix_space that is neither true nor false")
        backend.pre_tokenizer.add_prefix_space = settings[0]
    return repr(settings)
