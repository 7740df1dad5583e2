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

import logging
import random
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from recipes.pocket.build import MAX_TOKENS, Window, token_limit
from recipes.pocket.corpora import Corpus, read_qrels, read_queries
from recipes.pocket.groups import DOCUMENTS_PER_QUERY, FirstPass, Floats
from recipes.pocket.groups import LABEL_WEIGHT as KEPT_LABEL_WEIGHT
from recipes.pocket.queries import TrainingQuery, framed, labelled, part, sentences_of
from secondpass import CrossEncoder
from secondpass.training import Group, Teaching, taught

log = logging.getLogger(__name__)

# Sentences of one question: at most GOLD of its own paragraph, four of the nearest others, the rest from DEPTH.
SENTENCES, GOLD, NEAREST, DEPTH = 12, 4, 4, 40
LABEL_WEIGHT = 1.0
NUMBER = re.compile(r"\d[\d.,]*")


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

    def of(self, share: float) -> Mix:
        """The same for a trial with a share of everything."""
        kept = {kind: part(count, share) for kind, count in self.kept.items()}
        questions, draws = part(self.questions, share), part(self.draws, share)
        return replace(self, minutes=self.minutes * share, questions=questions, draws=draws, kept=kept)


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
    """A group before the student was asked: its opinion with a vote added is to be the target.

    The group's `teaching` holds the vote, in units of the opinion's spread; `shown` is the query to train on, where it
    is not the one that is asked.
    """

    group: Group
    shown: str = ""


def round_drafts(
    data: Path, corpora: Sequence[Corpus], queries: Sequence[TrainingQuery], window: Window, mix: Mix
) -> list[Draft]:
    """All groups of one round; the student so far is to give their targets."""
    squad, trecqa = (next(corpus for corpus in corpora if corpus.name == name) for name in ("squad", "trecqa"))
    questions = labelled(data, squad, random.Random(mix.seed))[: mix.questions]
    drafts = list(paragraph_drafts(squad, questions, window, mix))
    drafts += judged_drafts(data, trecqa, window, mix)
    drafts += kept_drafts(corpora, queries, window, mix)
    log.info("round of %g minutes: %d groups", mix.minutes, len(drafts))
    return drafts


def paragraph_drafts(squad: Corpus, questions: Sequence[TrainingQuery], window: Window, mix: Mix) -> Iterator[Draft]:
    """Sentences of a question's paragraph (labelled, any may answer) among the nearest others by BM25."""
    rng = random.Random(mix.seed)
    owners: list[int] = []
    texts: list[str] = []
    places: dict[int, list[int]] = {}
    for row in range(len(squad.texts)):
        for sentence in sentences_of(squad.body(row), shortest=4, longest=60):
            places.setdefault(row, []).append(len(texts))
            owners.append(row)
            texts.append(sentence)
    nearest, _ = FirstPass(texts).search([question.text for question in questions], DEPTH)
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
        yield from _labelled_draft(question.text, chosen, range(len(gold)), window, mix)


def judged_drafts(data: Path, corpus: Corpus, window: Window, mix: Mix) -> Iterator[Draft]:
    """One sentence that answers among judged ones that do not, `mix.draws` times a question."""
    for question, sentences in judged_sentences(data, corpus, mix.draws, random.Random(mix.seed)):
        yield from _labelled_draft(question, sentences, [0], window, mix)


def judged_sentences(data: Path, corpus: Corpus, draws: int, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Each train question `draws` times, with a sentence that answers it, then judged ones that do not."""
    rows, texts = corpus.index(), read_queries(data, corpus.name)
    for query, judged in read_qrels(data, corpus.name, "train").items():
        right = [rows[name] for name, grade in judged.items() if grade > 0]
        wrong = [rows[name] for name, grade in judged.items() if grade <= 0]
        for _ in range(draws if right and wrong else 0):
            chosen = [rng.choice(right), *rng.sample(wrong, min(SENTENCES - 1, len(wrong)))]
            yield texts[query], [corpus.texts[row] for row in chosen]


def _labelled_draft(
    question: str, sentences: Sequence[str], relevant: Sequence[int], window: Window, mix: Mix
) -> Iterator[Draft]:
    no_vote = Teaching((0.0,) * len(sentences), mix.soft_weight, LABEL_WEIGHT)
    group = window.group(question, sentences, relevant, no_vote, MAX_TOKENS)
    if group is not None:
        yield Draft(group)


def kept_drafts(
    corpora: Sequence[Corpus], queries: Sequence[TrainingQuery], window: Window, mix: Mix
) -> Iterator[Draft]:
    """Queries of every kind with documents from all over BM25's top 100."""
    rng = random.Random(mix.seed)
    chosen = []
    for kind, size in mix.kept.items():
        known = [query for query in queries if query.kind == kind]
        chosen += rng.sample(known, min(size, len(known)))
    number = 0
    for corpus in corpora:
        own = [query for query in chosen if query.corpus == corpus.name]
        if not own:
            continue
        rows, scores = FirstPass(corpus.texts).search([query.text for query in own])
        for query, found, bm25 in zip(own, rows.tolist(), scores, strict=True):
            keep = [place for place, score in enumerate(bm25) if score > 0]
            if len(keep) < DOCUMENTS_PER_QUERY:
                continue
            candidates = dict(zip((found[place] for place in keep), _standardised(bm25[keep]), strict=True))
            draft = _kept_draft(corpus, query, candidates, window, token_limit(number), mix.votes, rng)
            if draft is not None:
                number += 1
                yield draft


def _kept_draft(
    corpus: Corpus,
    query: TrainingQuery,
    candidates: dict[int, float],
    window: Window,
    limit: int,
    votes: Mapping[str, float],
    rng: random.Random,
) -> Draft | None:
    """`candidates` are rows with BM25's standardised score, best first."""
    rows = list(candidates)
    chosen = [row for row in query.relevant if row in candidates][:1]
    for pool, take in ((rows[:10], 4), (rows[:40], 2), (rows, DOCUMENTS_PER_QUERY)):
        free = [row for row in pool if row not in chosen]
        chosen += rng.sample(free, min(take, DOCUMENTS_PER_QUERY - len(chosen), len(free)))
    shown = framed(query.text, rng) if query.kind == "request" and rng.random() < 0.5 else ""
    documents = [corpus.body(row) if query.kind == "title" else corpus.texts[row] for row in chosen]
    relevant = [place for place, row in enumerate(chosen) if row in query.relevant]
    vote = Teaching(tuple(votes[query.kind] * candidates[row] for row in chosen), label_weight=KEPT_LABEL_WEIGHT)
    # cut beside the longer of both queries, so that the same text is asked about and trained on
    group = window.group(max(query.text, shown, key=len), documents, relevant, vote, limit)
    return None if group is None else Draft(replace(group, query=query.text), shown)


def _standardised(scores: Floats) -> list[float]:
    spread = float(scores.std()) or 1.0
    return [float(score) for score in (scores - scores.mean()) / spread]


def with_targets(student: CrossEncoder, drafts: Sequence[Draft]) -> Iterator[Group]:
    """Each draft's group with `student`'s logits, plus the vote times their spread, as its teacher's scores."""
    asked = taught([draft.group for draft in drafts], student, beside=True)
    for draft, group in zip(drafts, asked, strict=True):
        vote, opinion = draft.group.teaching, group.teaching
        if vote is None or opinion is None:
            raise ValueError("a draft without a vote")
        spread = statistics.stdev(opinion.scores)
        scores = tuple(score + spread * more for score, more in zip(opinion.scores, vote.scores, strict=True))
        yield replace(group, query=draft.shown or group.query, teaching=replace(opinion, scores=scores))
