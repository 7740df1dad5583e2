"""Tokenizers of the three kinds, trained here on small texts, for the tests of trimming."""

from __future__ import annotations

import random

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tests.tiny_models import WORDS

KINDS = ("WordPiece", "BPE", "Unigram")
UNKNOWN = "[UNK]"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def sentences(seed: int, count: int) -> list[str]:
    """Texts of words that are glued and cut at random, so that pieces overlap in many ways."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        words = [
            "".join(rng.choices(WORDS, k=rng.randint(1, 2)))[: rng.randint(1, 9)] for _ in range(rng.randint(0, 12))
        ]
        made.append(" ".join(words))
    return made


def trained(kind: str, size: int = 400) -> Tokenizer:
    """A tokenizer as a library's own trainer makes it, with an added word that is not special."""
    texts = [*sentences(0, 600), "é ü 中文 naïve"]
    if kind == "WordPiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIALS, show_progress=False)
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=size + 256, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=SPECIALS, unk_token=UNKNOWN, show_progress=False
        )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken("secondpass", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return tokenizer
