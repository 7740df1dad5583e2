"""Training examples out of corpora and teachers, and the student's first weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

from recipes.pocket.corpora import TRAINING_CORPORA, Corpus, read_claims, read_corpus
from recipes.pocket.distill import Example
from recipes.pocket.groups import Group, corpus_groups
from recipes.pocket.queries import TrainingQuery, all_queries
from recipes.pocket.teachers import minilm_folder
from recipes.pocket.vocabulary import kept_tokens, trim_embeddings, trimmed_tokenizer
from secondpass.cuts import cut_longest_first
from secondpass.templates import Ids, Template, probe_template

Sequences = tuple[list[Ids], list[Ids]]
"""Token ids and segment ids of a query with each of its documents."""

log = logging.getLogger(__name__)

# 6 layers in int8 and 11,500 word vectors in int8 stay under 16 MB.
VOCABULARY = 11_500
# Most documents are shorter; every eighth group sees whole windows so that long articles are learnt too.
MAX_TOKENS = 256
LONG_MAX_TOKENS = 512
# Characters; more than any window reads.
LONGEST_TEXT = 8000


def read_all(data: Path) -> tuple[list[Corpus], list[str]]:
    claims_corpus, claims = read_claims(data)
    return [*(read_corpus(data, name) for name in TRAINING_CORPORA), claims_corpus], claims


def student_tokenizer(corpora: list[Corpus], work: Path) -> tuple[Tokenizer, list[str]]:
    """The trimmed tokenizer, kept in the work folder, and its tokens in order."""
    path = work / "tokenizer.json"
    if not path.exists():
        full = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        full.no_truncation()
        full.no_padding()
        tokens = kept_tokens(full, (text for corpus in corpora for text in corpus.texts), VOCABULARY)
        trimmed_tokenizer(full, tokens).save(str(path), pretty=False)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer, [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]


def new_student(tokens: list[str]) -> Any:
    """all-MiniLM-L6-v2 with the trimmed vocabulary and a new head of one label; dropout off (a CPU's bottleneck)."""
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_pretrained(
        minilm_folder(), num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    full = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    trim_embeddings(model, full, tokens)
    return model


def training_groups(corpora: list[Corpus], claims: list[str], data: Path, work: Path) -> list[Group]:
    queries = all_queries(data, corpora, claims)
    groups: list[Group] = []
    for corpus in corpora:
        own = [query for query in queries if query.corpus == corpus.name]
        if own:
            made = corpus_groups(corpus, own, work, seed=31)
            log.info("%s: %d of %d queries give a group", corpus.name, len(made), len(own))
            groups += made
    return groups


class Encoder:
    """Texts to model inputs; the documents of the corpora are encoded once."""

    def __init__(self, corpora: list[Corpus], tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._template: Template = probe_template(tokenizer, 2)
        self._corpora = {corpus.name: corpus for corpus in corpora}
        self._whole = {corpus.name: self._encoded(corpus.texts) for corpus in corpora}

    def sequences(self, query: TrainingQuery, rows: Sequence[int], body_only: bool, max_tokens: int) -> Sequences:
        """Inputs of a query and documents of its corpus; `body_only` leaves the titles out."""
        corpus = self._corpora[query.corpus]
        if body_only:
            bodies = [corpus.texts[row][len(corpus.titles[row]) :].strip() for row in rows]
            return self.pairs(query.text, bodies, max_tokens)
        return self._filled(query.text, [self._whole[corpus.name][row] for row in rows], max_tokens)

    def pairs(self, query: str, documents: Sequence[str], max_tokens: int) -> Sequences:
        """Inputs of a query and any texts."""
        return self._filled(query, self._encoded(documents), max_tokens)

    def _encoded(self, texts: Sequence[str]) -> list[Ids]:
        capped = [text[:LONGEST_TEXT] for text in texts]
        return [np.asarray(e.ids, np.int32) for e in self._tokenizer.encode_batch(capped, add_special_tokens=False)]

    def _filled(self, query: str, documents: Sequence[Ids], max_tokens: int) -> Sequences:
        (asked,) = self._encoded([query])
        room = max_tokens - self._template.added
        ids, types = [], []
        for document in documents:
            kept = cut_longest_first(len(asked), len(document), room)
            filled = self._template.fill(asked[: kept[0]], document[: kept[1]])
            ids.append(filled[0])
            types.append(filled[1])
        return ids, types


def token_limit(number: int) -> int:
    """The window of example `number`: every eighth sees whole documents."""
    return LONG_MAX_TOKENS if number % 8 == 0 else MAX_TOKENS


def examples(groups: list[Group], encoder: Encoder) -> list[Example]:
    made = []
    for number, group in enumerate(groups):
        sequences = encoder.sequences(group.query, group.rows, group.body_only, token_limit(number))
        relevant = [place for place, row in enumerate(group.rows) if row in group.query.relevant]
        made.append(Example(*sequences, group.targets.tolist(), relevant))
    return made
