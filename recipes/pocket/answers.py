"""The second stage: what the bi-encoders could not teach.

Answers. A bi-encoder knows what a sentence is about, less whether it holds the answer. SQuAD's train questions
name a paragraph, not the sentence in it: at least one of its sentences must beat the most similar sentences of
other paragraphs (multiple-instance learning). TREC-QA's train judgements name the sentence.

Requests. Long requests and keywords are where BM25 was better than the student: there its own opinion is mixed
with BM25's, and half of the requests come in a frame ("I am looking for ...") that must change nothing.

What the first stage taught is kept by the student's own logits as targets (learning without forgetting,
Li & Hoiem 2016).
"""

from __future__ import annotations

import copy
import logging
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.pocket.build import MAX_TOKENS, Encoder, Sequences, token_limit
from recipes.pocket.corpora import Corpus, read_qrels, read_queries
from recipes.pocket.distill import Example, scored
from recipes.pocket.groups import DOCUMENTS_PER_QUERY, FirstPass, Floats
from recipes.pocket.queries import TrainingQuery, framed, labelled, sentences_of
from secondpass.training.cpu.memory import give_back_memory

log = logging.getLogger(__name__)

# Sentences of one question: at most GOLD of its own paragraph, four of the nearest others, the rest from DEPTH.
SENTENCES, GOLD, NEAREST, DEPTH = 12, 4, 4, 40
LABEL_WEIGHT = 1.0
NUMBER = re.compile(r"\d[\d.,]*")
TARGET_TOKENS = 8192


@dataclass(frozen=True)
class Mix:
    """What one round is trained on.

    `questions` of SQuAD; `draws`: how often each TREC-QA question comes, with other sentences each time; `kept`
    queries by kind; `votes`: BM25's vote in their targets, in units of the student's own spread; `soft_weight` of the
    student's own opinion of sentences; `masked` share of SQuAD's questions whose sentences show no numbers, as in
    TREC-QA.
    """

    seed: int
    minutes: float
    questions: int
    draws: int
    kept: Mapping[str, int]
    votes: Mapping[str, float]
    soft_weight: float
    masked: float = 0.0
    learning_rate: float = 5e-5


FIRST_VOTES = {"question": 0.1, "title": 0.3, "keywords": 0.5, "request": 0.5, "claim": 0.3}
VOTES = {"question": 0.15, "title": 0.4, "keywords": 0.6, "request": 0.8, "claim": 0.4}
MIXES = (
    Mix(
        43,
        24,
        6000,
        8,
        {"question": 1200, "title": 700, "keywords": 900, "request": 1600, "claim": 700},
        FIRST_VOTES,
        0.5,
    ),
    Mix(43, 22, 5000, 12, {"question": 600, "title": 300, "keywords": 700, "request": 1600, "claim": 400}, VOTES, 0.3),
    Mix(47, 9, 4000, 16, {"question": 150, "title": 80, "keywords": 120, "request": 200, "claim": 100}, VOTES, 0.2),
)


@dataclass(frozen=True)
class Draft:
    """An example without targets: `read` is what the student's opinion is asked of, `vote` is added to it."""

    example: Example
    read: Sequences
    vote: Floats

    @property
    def tokens(self) -> int:
        return sum(map(len, self.read[0]))


def round_drafts(
    data: Path, corpora: list[Corpus], queries: Sequence[TrainingQuery], encoder: Encoder, mix: Mix
) -> list[Draft]:
    """All examples of one round; the student so far is to give their targets."""
    squad, trecqa = (next(corpus for corpus in corpora if corpus.name == name) for name in ("squad", "trecqa"))
    questions = labelled(data, squad, random.Random(mix.seed))[: mix.questions]
    drafts = paragraph_drafts(squad, questions, encoder, mix)
    drafts += judged_drafts(data, trecqa, encoder, mix)
    drafts += kept_drafts(corpora, queries, encoder, mix)
    log.info("round of %g minutes: %d examples", mix.minutes, len(drafts))
    return drafts


def paragraph_drafts(squad: Corpus, questions: Sequence[TrainingQuery], encoder: Encoder, mix: Mix) -> list[Draft]:
    """Sentences of a question's paragraph (labelled, any may answer) among the nearest others by BM25."""
    rng = random.Random(mix.seed)
    owners: list[int] = []
    texts: list[str] = []
    places: dict[int, list[int]] = {}
    for row, text in enumerate(squad.texts):
        for sentence in sentences_of(text[len(squad.titles[row]) :].strip(), shortest=4, longest=60):
            places.setdefault(row, []).append(len(texts))
            owners.append(row)
            texts.append(sentence)
    nearest, _ = FirstPass(texts).search([question.text for question in questions], DEPTH)
    made = []
    for question, near in zip(questions, nearest.tolist(), strict=True):
        own = [place for row in question.relevant for place in places.get(row, ())]
        others = [place for place in near if owners[place] not in question.relevant]
        if not own or len(others) < SENTENCES:
            continue
        gold = rng.sample(own, min(GOLD, len(own)))
        rest = rng.sample(others[NEAREST:], SENTENCES - NEAREST - len(gold))
        chosen = [texts[place] for place in (*gold, *others[:NEAREST], *rest)]
        if mix.masked and rng.random() < mix.masked:
            chosen = [NUMBER.sub("<num>", sentence) for sentence in chosen]
        made.append(_labelled_draft(encoder.pairs(question.text, chosen, MAX_TOKENS), list(range(len(gold))), mix))
    return made


def judged_drafts(data: Path, corpus: Corpus, encoder: Encoder, mix: Mix) -> list[Draft]:
    """One sentence that answers among judged ones that do not, `mix.draws` times a question."""
    return [
        _labelled_draft(encoder.pairs(question, sentences, MAX_TOKENS), [0], mix)
        for question, sentences in judged_sentences(data, corpus, mix.draws, random.Random(mix.seed))
    ]


def judged_sentences(data: Path, corpus: Corpus, draws: int, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Each train question `draws` times, with a sentence that answers it, then judged ones that do not."""
    rows, texts = corpus.index(), read_queries(data, corpus.name)
    for query, judged in read_qrels(data, corpus.name, "train").items():
        right = [rows[name] for name, grade in judged.items() if grade > 0]
        wrong = [rows[name] for name, grade in judged.items() if grade <= 0]
        for _ in range(draws if right and wrong else 0):
            chosen = [rng.choice(right), *rng.sample(wrong, min(SENTENCES - 1, len(wrong)))]
            yield texts[query], [corpus.texts[row] for row in chosen]


def _labelled_draft(pairs: Sequences, relevant: list[int], mix: Mix) -> Draft:
    example = Example(*pairs, [], relevant, mix.soft_weight, LABEL_WEIGHT)
    return Draft(example, pairs, np.zeros(len(pairs[0]), np.float32))


def kept_drafts(corpora: Sequence[Corpus], queries: Sequence[TrainingQuery], encoder: Encoder, mix: Mix) -> list[Draft]:
    """Queries of every kind with documents from all over BM25's top 100."""
    rng = random.Random(mix.seed)
    chosen = [
        query for kind, size in mix.kept.items() for query in rng.sample([q for q in queries if q.kind == kind], size)
    ]
    made: list[Draft] = []
    for corpus in corpora:
        own = [query for query in chosen if query.corpus == corpus.name]
        if own:
            rows, scores = FirstPass(corpus.texts).search([query.text for query in own])
            for query, found, bm25 in zip(own, rows.tolist(), scores, strict=True):
                keep = [place for place, score in enumerate(bm25) if score > 0]
                if len(keep) >= DOCUMENTS_PER_QUERY:
                    candidates = dict(zip((found[place] for place in keep), _standardised(bm25[keep]), strict=True))
                    made.append(_kept_draft(query, candidates, encoder, token_limit(len(made)), mix.votes, rng))
    return made


def _kept_draft(
    query: TrainingQuery,
    candidates: dict[int, float],
    encoder: Encoder,
    limit: int,
    votes: Mapping[str, float],
    rng: random.Random,
) -> Draft:
    """`candidates` are rows with BM25's standardised score, best first."""
    rows = list(candidates)
    chosen = [row for row in query.relevant if row in candidates][:1]
    for pool, take in ((rows[:10], 4), (rows[:40], 2), (rows, DOCUMENTS_PER_QUERY)):
        free = [row for row in pool if row not in chosen]
        chosen += rng.sample(free, min(take, DOCUMENTS_PER_QUERY - len(chosen), len(free)))
    body_only = query.kind == "title"
    read = encoder.sequences(query, chosen, body_only, limit)
    shown = read
    if query.kind == "request" and rng.random() < 0.5:
        shown = encoder.sequences(replace(query, text=framed(query.text, rng)), chosen, body_only, limit)
    relevant = [place for place, row in enumerate(chosen) if row in query.relevant]
    vote = np.asarray([votes[query.kind] * candidates[row] for row in chosen], np.float32)
    return Draft(Example(*shown, [], relevant), read, vote)


def _standardised(scores: Floats) -> list[float]:
    spread = float(scores.std()) or 1.0
    return [float(score) for score in (scores - scores.mean()) / spread]


@torch.no_grad()
def with_targets(model: Any, drafts: Sequence[Draft], dtype: torch.dtype) -> list[Example]:
    """Each draft's example with `model`'s logits, plus the vote times their spread, as its targets."""
    model = copy.deepcopy(model).to(dtype).eval()
    made: dict[int, Example] = {}
    for number, places in enumerate(_chunks(drafts)):
        part = [drafts[place] for place in places]
        asked = [replace(draft.example, ids=draft.read[0], types=draft.read[1]) for draft in part]
        values = torch.split(scored(model, asked, dtype), [len(draft.vote) for draft in part])
        for place, draft, value in zip(places, part, values, strict=True):
            targets = value.numpy() + draft.vote * float(value.std())
            made[place] = replace(draft.example, targets=targets.tolist())
        if number % 100 == 0:
            give_back_memory()
            log.info("targets: %d of %d examples", len(made), len(drafts))
    return [made[place] for place in range(len(drafts))]


def _chunks(drafts: Sequence[Draft]) -> Iterator[list[int]]:
    """Places of drafts of like length, a bounded number of tokens at a time: attention pads."""
    chunk: list[int] = []
    tokens = 0
    for place in sorted(range(len(drafts)), key=lambda place: max(map(len, drafts[place].read[0]))):
        if chunk and tokens + drafts[place].tokens > TARGET_TOKENS:
            yield chunk
            chunk, tokens = [], 0
        chunk.append(place)
        tokens += drafts[place].tokens
    if chunk:
        yield chunk


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several rounds' weights: better than any of them (Wortsman et al. 2022, "Model soups")."""
    return {name: torch.stack([state[name].float() for state in states]).mean(0) for name in states[0]}
