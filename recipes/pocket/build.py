"""The student's first weights, and what its training groups show of a document."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

from recipes.pocket.folding import Sample
from secondpass.inputs import cut_longest_first, probe_template
from secondpass.training import Group, Teaching
from secondpass.training.distillation.vocabulary import kept_ids, smaller_tokenizer, with_rows

# With 7 layers in 6 bits so many word vectors in 4 bits stay under 16 MB: nearly all that are words of English or parts
# of some. With 11,500 in 8 bits the bi-encoder that the student starts from loses .08 of .62 on stackexchange.
VOCABULARY = 26_000
# BERT's vocabulary is sorted by frequency: its first part is general English.
GENERAL = 6000
ASCII = "".join(map(chr, range(ord(" "), ord("~") + 1)))
PLAIN = re.compile(r"(##)?[ -~]+")
# Most documents are shorter; every eighth group sees whole windows so that long articles are learnt too.
MAX_TOKENS = 192
LONG_MAX_TOKENS = 512
# Characters; more than any window reads.
LONGEST_TEXT = 8000
# Pairs that folding looks at.
SAMPLES = 1200


def student_tokenizer(base: Path, texts: Iterable[str], path: Path, size: int = VOCABULARY) -> Tokenizer:
    """The tokenizer of `base` over general English, then what texts use most; kept in the file `path`."""
    if not path.exists():
        full = full_tokenizer(base)
        ids = kept_tokens(full, texts, size)
        partial = path.with_name(f"{path.name}.partial")
        smaller_tokenizer(full, ids).save(str(partial), pretty=False)
        partial.rename(path)
    return Tokenizer.from_file(str(path))


def full_tokenizer(base: Path) -> Tokenizer:
    full = Tokenizer.from_file(str(base / "tokenizer.json"))
    full.no_truncation()
    full.no_padding()
    return full


def kept_tokens(tokenizer: Tokenizer, texts: Iterable[str], size: int, general: int = GENERAL) -> list[int]:
    """The `size` ids to keep: specials, ASCII characters, the first `general` plain tokens, then the most used."""
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    order = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    plain = [
        number
        for token, number in order
        if PLAIN.fullmatch(token) and token not in special and "unused" not in token and "[" not in token[:-1]
    ]
    return kept_ids(tokenizer, texts, size, always=plain[:general], characters=ASCII)


def new_model(base: Path, tokenizer: Tokenizer) -> Any:
    """The transformer of `base` with the trimmed vocabulary and a head of one label, both to be folded; no dropout."""
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).eval()
    vocabulary = full_tokenizer(base).get_vocab()
    kept = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return with_rows(model, [vocabulary[token] for token, _ in kept])


def samples(path: Path, queries: Sequence[str], documents: Sequence[str], seed: int, positions: int) -> list[Sample]:
    """Queries, each with a document drawn at random, as the tokenizer of the file `path` has them.

    So much of them as there are `positions` for, `MAX_TOKENS` at most.
    """
    tokenizer, rng = Tokenizer.from_file(str(path)), random.Random(seed)
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(MAX_TOKENS, positions), strategy="only_second")
    pairs = [(query[:LONGEST_TEXT], rng.choice(documents)) for query in rng.sample(queries, min(SAMPLES, len(queries)))]
    return [
        Sample(torch.tensor(read.ids)[None], torch.tensor(read.type_ids)[None])
        for read in tokenizer.encode_batch(pairs)
    ]


class Window:
    """Documents as groups show them: cut to what a number of tokens leaves beside the query.

    The model's own window is that of the longest groups; shorter ones are cut here, between tokens, so that the model
    reads the tokens it would read in a smaller window. The query is never cut here.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True
        self._added = probe_template(tokenizer, 2).added

    def shown(self, query: str, documents: Sequence[str], tokens: int) -> list[str]:
        capped = [document[:LONGEST_TEXT] for document in documents]
        asked, *encoded = self.tokenizer.encode_batch([query, *capped], add_special_tokens=False)
        made = []
        for text, encoding in zip(capped, encoded, strict=True):
            _, kept = cut_longest_first(len(asked), len(encoding), tokens - self._added)
            made.append(text if kept >= len(encoding) else text[: encoding.offsets[kept - 1][1]] if kept else "")
        return made

    def group(
        self, query: str, documents: Sequence[str], relevant: Iterable[int], teaching: Teaching, tokens: int
    ) -> Group | None:
        """A training group of what is shown of the documents, each text once; None where fewer than two are left.

        Of equal texts a relevant one stays, else the first.
        """
        shown, wanted = self.shown(query, documents, tokens), set(relevant)
        kept: dict[str, int] = {}
        for place, text in enumerate(shown):
            if text.strip() and (text not in kept or (place in wanted and kept[text] not in wanted)):
                kept[text] = place
        places = sorted(kept.values())
        if len(places) < 2:
            return None
        labels = tuple(float(place in wanted) for place in places)
        return replace(Group(query, tuple(shown[p] for p in places), labels), teaching=teaching.only(places))


def token_limit(number: int) -> int:
    """The window of group `number`: every eighth sees whole documents."""
    return LONG_MAX_TOKENS if number % 8 == 0 else MAX_TOKENS
