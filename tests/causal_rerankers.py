"""Tiny causal rerankers: the pre-tokenisation and the special tokens of Qwen and Gemma over few merges."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

WORDS = ("yes", "no", "Yes", "cat", "Ġcat", "Ġthe", "Ġis", "query", "document", "Query", "Ġon", "assistant", "user")
GLUED = ("?Ċ", ".Ċ", "ĊĊ", ">:", ":Ċ", "ĠĊ", "!!", "?ĊĊ")
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LENGTH = 4096
SETTINGS: dict[str, Any] = {
    "model_max_length": LENGTH,
    "padding_side": "left",
    "model_input_names": ["input_ids", "attention_mask"],
}
UNKNOWN = "<unk>"


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word))))


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, NFC, nothing around texts, padded on the left; a mark with a line break is one token."""
    merges = _merges((*WORDS, *GLUED))
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(dict.fromkeys(vocabulary))}, merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        **{"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
        **SETTINGS,
    )


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """BPE over characters, blanks as a sign, bytes for what it lacks, <bos> in front of every text."""
    merges = _merges(("Yes", "▁cat", "▁the", "?\n", "▁is"))
    letters = [chr(number) for number in range(33, 127)] + ["\n", "▁"]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{number:02X}>" for number in range(256)), *letters]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:4]])
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        **{"pad_token": "<pad>", "unk_token": UNKNOWN, "bos_token": "<bos>", "eos_token": "<eos>"},
        **SETTINGS,
    )


def make_causal_folder(path: str | os.PathLike[str], family: str = "qwen", **config: Any) -> Path:
    """Write a tiny random causal language model ("qwen" or "gemma") and its tokenizer into `path`, and return it."""
    folder = Path(path)
    tokenizer = qwen_tokenizer() if family == "qwen" else gemma_tokenizer()
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": LENGTH,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,
        **config,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(Qwen3Config(**sizes)) if family == "qwen" else Gemma2ForCausalLM(Gemma2Config(**sizes))
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    return folder
