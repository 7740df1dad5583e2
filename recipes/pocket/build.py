"""Training examples out of corpora and teachers, and the student's first weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

from recipes.pocket.corpora import TRAINING_CORPORA, Corpus, read_claims, read_corpus
from recipes.pocket.distill import Example
from recipes.pocket.groups import Group, corpus_groups
from recipes.pocket.queries import all_queries
from recipes.pocket.teachers import minilm_folder
from recipes.pocket.vocabulary import kept_tokens, trim_embeddings, trimmed_tokenizer
from secondpass.tokens import Template, cut_longest_first, probe_template

log = logging.getLogger(__name__)

# 6 layers in int8 and 11,500 word vectors in int8 stay under 16 MB.
VOCABULARY = 11_500
# Most documents are shorter; every eighth group sees whole windows so that long articles are learnt too.
MAX_TOKENS = 256
LONG_MAX_TOKENS = 512


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
    """Token ids of documents and queries, each encoded once."""

    def __init__(self, corpora: list[Corpus], tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._template: Template = probe_template(tokenizer, 2)
        self._titles = {corpus.name: corpus.titles for corpus in corpora}
        self._texts = {corpus.name: corpus.texts for corpus in corpora}
        self._whole = {
            corpus.name: [
                self._ids(e.ids)
                for e in tokenizer.encode_batch([t[:8000] for t in corpus.texts], add_special_tokens=False)
            ]
            for corpus in corpora
        }

    @staticmethod
    def _ids(values: list[int]) -> Any:
        import numpy as np

        return np.asarray(values, dtype=np.int32)

    def _document(self, corpus: str, row: int, body_only: bool) -> Any:
        if not body_only:
            return self._whole[corpus][row]
        body = self._texts[corpus][row][len(self._titles[corpus][row]) :].strip()[:8000]
        return self._ids(self._tokenizer.encode(body, add_special_tokens=False).ids)

    def example(self, group: Group, max_tokens: int) -> Example:
        query = self._ids(self._tokenizer.encode(group.query.text, add_special_tokens=False).ids)
        ids, types = [], []
        for row in group.rows:
            document = self._document(group.query.corpus, row, group.body_only)
            kept = cut_longest_first(len(query), len(document), max_tokens - self._template.added)
            filled = self._template.fill(query[: kept[0]], document[: kept[1]])
            ids.append(filled[0])
            types.append(filled[1])
        relevant = [number for number, row in enumerate(group.rows) if row in group.query.relevant]
        return Example(ids, types, group.targets.tolist(), relevant)


def examples(groups: list[Group], corpora: list[Corpus], tokenizer: Tokenizer) -> list[Example]:
    encoder = Encoder(corpora, tokenizer)
    return [
        encoder.example(group, LONG_MAX_TOKENS if number % 8 == 0 else MAX_TOKENS)
        for number, group in enumerate(groups)
    ]
