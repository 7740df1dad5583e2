"""Tiny random cross-encoders with matching tokenizers, built in memory: what every test loads.

`make_folder(path, "roberta")` writes config.json, model.safetensors and a fast tokenizer of the kind the real
architecture has: WordPiece (BERT, DistilBERT, ELECTRA), byte-level BPE (RoBERTa, ModernBERT) or Unigram
(XLM-RoBERTa, DeBERTa-v2), each with its own pair template and special tokens. Weights are seeded.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

WORDS = tuple(
    "a about account after all and answer apple are bank big book capital cat change city cold cook day delete do dog "
    "down email france from garden hot house how in is it london long mat new of on open order paris password red "
    "reset river sat search second sleep small sun the time to train tree user water what where with work".split()
)
LETTERS = tuple(string.ascii_lowercase + string.digits)
MARKS = tuple(string.punctuation)

LENGTH = 128
# Equal weights in another place of memory, another number of threads or another shape of the batch: torch's libraries
# may add up in another order, and on some processors they do. Bits are compared where all of that is the same, or
# where our own kernel computes.
ROUNDING = 1e-5
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": LENGTH,
}


@dataclass(frozen=True, slots=True)
class Specials:
    """Special tokens of an architecture by role, listed in the order of their ids."""

    order: tuple[str, ...]
    pad: str
    unknown: str
    start: str
    end: str
    mask: str

    def id_of(self, token: str) -> int:
        """Give the id of one of these tokens."""
        return self.order.index(token)


BRACKETS = Specials(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DEBERTA = Specials(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"), "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ANGLES = Specials(("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "<pad>", "<unk>", "<s>", "</s>", "<mask>")


def wordpiece(specials: Specials) -> Tokenizer:
    """Lower-case WordPiece over the words, letters and letter continuations."""
    vocabulary = [*specials.order, *LETTERS, *MARKS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary += [word for word in WORDS if len(word) > 1]
    tokenizer = Tokenizer(
        models.WordPiece({token: index for index, token in enumerate(vocabulary)}, unk_token=specials.unknown)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_level(specials: Specials) -> Tokenizer:
    """Byte-level BPE whose merges spell a part of the words, letter by letter from the left."""
    vocabulary = [*specials.order, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS[::5]:
        spelled = "Ġ"
        for letter in word:
            merges[spelled, letter] = None
            spelled += letter
    vocabulary += [left + right for left, right in merges]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(vocabulary)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def unigram(specials: Specials) -> Tokenizer:
    """Unigram (SentencePiece-like) over the words with a leading mark, and single characters as fallback."""
    pieces = [(token, 0.0) for token in specials.order if token != specials.mask]
    pieces += [("▁", -3.0)]
    pieces += [(f"▁{word}", -4.0 - index / 100) for index, word in enumerate(WORDS)]
    pieces += [(letter, -8.0) for letter in (*LETTERS, *MARKS)]
    pieces += [(specials.mask, 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=specials.id_of(specials.unknown), byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one architecture is made: its tokenizer, its pair template and what its config calls things."""

    specials: Specials
    build: Callable[[Specials], Tokenizer]
    joint: str = "{end}"
    second_type: int = 1
    inputs: tuple[str, ...] = ("input_ids", "token_type_ids", "attention_mask")
    extra: tuple[tuple[str, Any], ...] = ()


TWO_INPUTS = ("input_ids", "attention_mask")
# RoBERTa counts positions from padding_idx + 1 = 2, so its table is two rows longer than its longest input.
ROBERTA_POSITIONS: tuple[tuple[str, Any], ...] = (("max_position_embeddings", LENGTH + 2), ("type_vocab_size", 1))
RECIPES: dict[str, Recipe] = {
    "bert": Recipe(BRACKETS, wordpiece),
    "electra": Recipe(BRACKETS, wordpiece, extra=(("embedding_size", 16),)),
    "distilbert": Recipe(
        BRACKETS,
        wordpiece,
        second_type=0,
        inputs=TWO_INPUTS,
        extra=(("dim", 32), ("hidden_dim", 64), ("n_layers", 2), ("n_heads", 2)),
    ),
    "roberta": Recipe(
        ANGLES, byte_level, joint="{end}{end}", second_type=0, inputs=TWO_INPUTS, extra=ROBERTA_POSITIONS
    ),
    "modernbert": Recipe(
        BRACKETS,
        byte_level,
        second_type=0,
        inputs=TWO_INPUTS,
        extra=(("global_attn_every_n_layers", 2), ("local_attention", 32)),
    ),
    "xlm-roberta": Recipe(
        ANGLES, unigram, joint="{end}{end}", second_type=0, inputs=TWO_INPUTS, extra=ROBERTA_POSITIONS
    ),
    "deberta-v2": Recipe(
        DEBERTA,
        unigram,
        extra=(
            ("relative_attention", True),
            ("pos_att_type", ["p2c", "c2p"]),
            ("position_buckets", 16),
            ("norm_rel_ebd", "layer_norm"),
            ("share_att_key", True),
            ("type_vocab_size", 0),
        ),
    ),
}
ARCHITECTURES = tuple(RECIPES)


def make_tokenizer(architecture: str, **options: Any) -> PreTrainedTokenizerFast:
    """Build a fast tokenizer as the architecture's own checkpoints have it, over the tiny vocabulary."""
    recipe = RECIPES[architecture]
    specials = recipe.specials
    backend = recipe.build(specials)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials.order])
    start, end = specials.start, specials.end
    joint = recipe.joint.replace("{end}", f" {end}:0").split()
    backend.post_processor = processors.TemplateProcessing(
        single=[f"{start}:0", "$A:0", f"{end}:0"],
        pair=[f"{start}:0", "$A:0", *joint, f"$B:{recipe.second_type}", f"{end}:{recipe.second_type}"],
        special_tokens=[(token, specials.id_of(token)) for token in (start, end)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=options.pop("model_max_length", LENGTH),
        model_input_names=list(recipe.inputs),
        pad_token=specials.pad,
        unk_token=specials.unknown,
        cls_token=start,
        sep_token=end,
        mask_token=specials.mask,
        **options,
    )


def make_model(
    architecture: str, vocab_size: int, num_labels: int = 1, seed: int = 0, **config: Any
) -> PreTrainedModel:
    """Make a seeded random model whose head is wide enough that documents score visibly differently."""
    recipe = RECIPES[architecture]
    specials = recipe.specials
    settings = SIZES | {
        "vocab_size": vocab_size,
        "num_labels": num_labels,
        "pad_token_id": specials.id_of(specials.pad),
    }
    if architecture == "modernbert":
        settings |= {
            "cls_token_id": specials.id_of(specials.start),
            "sep_token_id": specials.id_of(specials.end),
            "bos_token_id": specials.id_of(specials.start),
            "eos_token_id": specials.id_of(specials.end),
        }
    made = AutoConfig.for_model(architecture, **(settings | dict(recipe.extra) | config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(made)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 2:
                    # The usual 0.02 leaves a tiny model's outputs nearly equal for every input; much more than
                    # this saturates a sigmoid.
                    last = name.startswith("classifier") and weight.shape[0] == num_labels
                    weight.normal_(0.0, 0.5 if last else 0.2)
    model.train(False)
    return model


# A template of two roles, as rerankers have it; an instruction stands where a system message says one.
CHAT = """<|im_start|>system
Judge the document.<|im_end|>
<|im_start|>user
<Instruct>: {{ messages | selectattr("role", "eq", "system") | map(attribute="content") | first | default("find it") }}
<Query>: {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}
<Document>: {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }}<|im_end|>
<|im_start|>assistant


"""
TURN_TOKENS = ("<|pad|>", "<unk>", "<|im_start|>", "<|im_end|>", "<mask>")
TURNS = Specials(TURN_TOKENS, *TURN_TOKENS)
# What decoders have of their own, beside the sizes that all models share.
DECODERS: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": True, "head_dim": 8},
    "llama": {},
    "mistral": {"sliding_window": 16},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 16, "query_pre_attn_scalar": 8},
}


def make_decoder(
    path: str | os.PathLike[str],
    architecture: str,
    *,
    chat: str | None = CHAT,
    length: int = 2 * LENGTH,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a tiny random causal language model with its tokenizer, which has "yes" and "no", and return the path."""
    backend = byte_level(TURNS)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in TURNS.order])
    backend.add_tokens(["yes", "no"])
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=length,
        pad_token=TURNS.pad,
        eos_token=TURNS.end,
        chat_template=chat,
    )
    # a vocabulary has rows to spare, as published ones have
    settings = SIZES | {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(tokenizer) + 10}
    settings |= {
        "max_position_embeddings": length,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    made = AutoConfig.for_model(architecture, **(settings | DECODERS[architecture] | config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(made)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() == 2:
                    weight.normal_(0.0, 0.2)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Path(path)


def make_folder(
    path: str | os.PathLike[str],
    architecture: str,
    num_labels: int = 1,
    *,
    seed: int = 0,
    tokenizer_options: dict[str, Any] | None = None,
    added: Sequence[AddedToken] = (),
    **config: Any,
) -> Path:
    """Write a tiny random model and its tokenizer into `path`, and return the path.

    `config` goes to the architecture's config (a tiny default is overwritten), `tokenizer_options` to the
    tokenizer, e.g. {"model_max_length": 64, "truncation_side": "left"}; `added` tokens come behind its own.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(architecture, **(tokenizer_options or {}))
    tokenizer.add_tokens(list(added))
    model = make_model(architecture, len(tokenizer), num_labels, seed, **config)
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    return folder
