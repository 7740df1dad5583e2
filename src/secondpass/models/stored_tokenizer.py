"""The tokenizer of a folder without transformers: what its classes make of tokenizer.json and the files beside it.

Known are the classes of the families that we compute. Where it is not certain that transformers makes the same
tokenizer of a folder, it must be asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from secondpass.models.config import LISTED, NEWEST_FILE, OWN_KEY, read_if_present
from secondpass.models.tokenizer import (
    SEGMENTS,
    SETTINGS_FILES,
    check_present,
    check_tokenizer,
    files_of,
    kind_of,
    lacks_segments,
)

# The tokens that those of transformers 5 bring along where no file names others.
BRACKETS = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
ANGLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>"}
ANGLES |= {"cls_token": "<s>", "mask_token": "<mask>"}
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA = "extra_special_tokens"
# Settings by which a tokenizer is made in a way of its own.
PECULIAR = frozenset(
    "auto_map fast_tokenizer_files fix_mistral_regex gguf_file merges model_specific_special_tokens post_processor "
    "tokenizer_object tokenizer_padding tokenizer_truncation vocab".split()
)
OR_EMPTY = frozenset({"init_inputs", "split_special_tokens"})


@dataclass(frozen=True, slots=True)
class TokenizerClass:
    """A class of transformers: its vocabulary's kind, None for any; the inputs it makes; its tokens by role.

    `extra` are tokens beside them; `wide_mask` says that a blank before the mask token is part of it.
    """

    vocabulary: str | None
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    tokens: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    wide_mask: bool = False


_BERT = TokenizerClass("WordPiece", ("input_ids", SEGMENTS, "attention_mask"), BRACKETS)
CLASSES = {
    "PreTrained": TokenizerClass(None),
    "Bert": _BERT,
    "Electra": _BERT,
    "DistilBert": TokenizerClass("WordPiece", tokens=BRACKETS),
    "Roberta": TokenizerClass("BPE", tokens=ANGLES),
    "XLMRoberta": TokenizerClass("Unigram", tokens=ANGLES),
    "Camembert": TokenizerClass(
        "Unigram", tokens=ANGLES, extra=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"), wide_mask=True
    ),
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

    @property
    def pad_token(self) -> str | None:
        """What fills the unused places of a batch."""
        return self.special_tokens_map.get("pad_token")

    @pad_token.setter
    def pad_token(self, token: str) -> None:
        self.special_tokens_map["pad_token"] = token

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
    check_present(folder)
    stored = folder / "tokenizer.json"
    if not stored.is_file():
        return "only transformers reads a vocabulary that is no tokenizer.json"
    settings, content = read_if_present(folder / SETTINGS_FILES[0]), stored.read_bytes()
    try:
        name = _class_name(settings, config)
        backend = Tokenizer.from_str(content.decode("utf-8"))
    except _Unsure as reason:
        return f"only transformers reads {reason}"
    except Exception as error:  # of no type of its own
        return f"it cannot be read from {files_of(folder)}: {type(error).__name__}: {error}"
    try:
        made, name = _stored(folder, settings, content, backend, name)
    except _Unsure as reason:
        return f"only transformers reads {reason}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # settings are what they like
        return f"it cannot be read from {files_of(folder)}: {type(error).__name__}: {error}"
    check_tokenizer(folder, made)
    reads = OF_TYPE[config["model_type"]][1] and "model_input_names" not in settings
    if reads and lacks_segments(folder, made, f"{name}Tokenizer", True):
        made.model_input_names.append(SEGMENTS)
    return made


def _class_name(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Which of `CLASSES` transformers takes."""
    model_type, given = config.get("model_type"), settings.get("tokenizer_class") or config.get("tokenizer_class")
    if model_type not in OF_TYPE or "model_name" in config:
        raise _Unsure(f"the tokenizer of a {model_type} model")
    peculiar = settings.keys() & (PECULIAR | {key for key in OR_EMPTY if settings.get(key)})
    if peculiar:
        raise _Unsure(f"{min(peculiar)} in tokenizer_config.json")
    registered = OF_TYPE[model_type][0]
    name = registered if given is None else kind_of({"tokenizer_class": given}, {}, "")
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
        special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        if any(token.content in special and not token.special for token in added):
            # named again it stays special until the tokenizer is saved and loaded
            raise _Unsure("a special token that tokenizer_config.json calls plain")
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
    made: dict[str, Any] = {**kind.tokens, **{role: initial[role] for role in ROLES if role in initial}}
    if any(made[role] is None for role in kind.tokens):
        raise _Unsure("null for a token that the tokenizer's class needs")
    if kind.wide_mask and isinstance(made["mask_token"], str):
        made["mask_token"] = AddedToken(made["mask_token"], lstrip=True, special=True)
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
    settings: tuple[Any, ...] = ()
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
