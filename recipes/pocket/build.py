"""The student's first weights, and what its training groups show of a document."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from secondpass.forwards.readout import LateInteraction, ModuleChain, ReadoutModel
from secondpass.inputs import cut_longest_first, probe_template
from secondpass.training import Group, Teaching
from secondpass.training.distillation.vocabulary import kept_ids, smaller_tokenizer, with_rows

# With 6 layers in 7 bits so many word vectors in 4 bits stay under 16 MB: nearly all that are words of English or parts
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
# Texts that words are counted in: every so many of the pool, and so many at a time.
COUNTED, BLOCK = 5, 4096
# What every text has counts so much, and a word that nearly none has about ten.
LEAST = 0.05
# What cosines of tokens are multiplied with before the softmax, and what the match counts beside the texts' cosine:
# chosen by the development mean before any training.
SHARPNESS, MATCH = 20.0, 1.0
# Logits of a cosine of 1, so that they differ as much as the teachers' do (spreads 2.5 and 3.0 in training groups):
# steps that are right for the body leave this as it is. And the cosine that is to give 0.
WORTH, MIDDLE = 10.0, 0.4


def student_tokenizer(
    base: Path, texts: Iterable[str], path: Path, size: int = VOCABULARY, general: int = GENERAL
) -> Tokenizer:
    """The tokenizer of `base` over general English, then what texts use most; kept in the file `path`."""
    if not path.exists():
        full = full_tokenizer(base)
        ids = kept_tokens(full, texts, size, general)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(_with_pairs_apart(json.loads(smaller_tokenizer(full, ids).to_str()))))
        partial.rename(path)
    return Tokenizer.from_file(str(path))


def _with_pairs_apart(rules: dict[str, Any]) -> dict[str, Any]:
    """A BERT's tokenizer.json by which the second text of a pair begins as the first does."""
    pair = rules["post_processor"]["pair"]
    first, *others = pair
    behind = 1 + next(place for place, part in enumerate(others) if "SpecialToken" in part)
    again = {"SpecialToken": {"id": first["SpecialToken"]["id"], "type_id": 1}}
    rules["post_processor"]["pair"] = [*pair[: behind + 1], again, *pair[behind + 1 :]]
    return rules


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


def new_model(base: Path, tokenizer: Tokenizer, texts: Sequence[str]) -> ReadoutModel:
    """The transformer of `base` with the trimmed vocabulary, which reads query and document apart; no dropout.

    Args:
        base: a bi-encoder of BERT's layers that pools by the mean.
        tokenizer: of the kept vocabulary.
        texts: in which words are counted.
    """
    body = AutoModel.from_pretrained(
        base, add_pooling_layer=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).eval()
    vocabulary = full_tokenizer(base).get_vocab()
    kept = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    late = LateInteraction(len(kept), SHARPNESS)
    with torch.no_grad():
        late.importance.copy_(importance(tokenizer, texts[::COUNTED]))
        late.scales.copy_(torch.tensor([WORTH, MATCH * WORTH, -MIDDLE * (1 + MATCH) * WORTH]))
    return ReadoutModel(with_rows(body, [vocabulary[token] for token, _ in kept]), ModuleChain([late])).eval()


def importance(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """What a word of a query counts where it is found: float32 [vocabulary], the logarithm of its idf.

    Of `texts`, by the tokens that they have (Spärck Jones 1972); a special token has the least there is.
    """
    found = torch.zeros(tokenizer.get_vocab_size())
    for first in range(0, len(texts), BLOCK):
        for read in tokenizer.encode_batch(list(texts[first : first + BLOCK]), add_special_tokens=False):
            found[list(set(read.ids))] += 1
    made = torch.log((len(texts) + 1) / (found + 1)).clamp(min=LEAST).log()
    made[list(tokenizer.get_added_tokens_decoder())] = math.log(LEAST)
    return made


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
