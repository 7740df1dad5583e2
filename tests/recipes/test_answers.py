"""Rules of the recipe's second stage: which sentences are labelled, and whose opinion is kept."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from recipes.pocket.answers import (
    MIXES,
    SENTENCES,
    Draft,
    Mix,
    judged_drafts,
    kept_drafts,
    paragraph_drafts,
    with_targets,
)
from recipes.pocket.build import Window
from recipes.pocket.corpora import Corpus
from recipes.pocket.queries import FRAMES, TrainingQuery, framed, sentences_of
from secondpass import CrossEncoder
from secondpass.training import Group, taught
from secondpass.training.data.groups import Teaching
from tests.tiny_models import WORDS

PLAIN = [word for word in WORDS if len(word) > 2]


def _kept(**sizes: int) -> Mix:
    return replace(MIXES[0], kept=sizes)


def _sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(PLAIN) for _ in range(8)) + "."


@pytest.fixture
def corpus() -> Corpus:
    """Forty paragraphs of four sentences, each with a title in front."""
    rng = random.Random(2)
    titles = [f"cat {rng.choice(PLAIN)}" for _ in range(40)]
    texts = [f"{title} {' '.join(_sentence(rng) for _ in range(4))}" for title in titles]
    return Corpus("squad", [str(row) for row in range(40)], texts, titles)


@pytest.fixture
def window(tiny_folder: str) -> Window:
    """The window over the tokenizer of the tiny model."""
    return Window(Tokenizer.from_str(AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer.to_str()))


def _vote(draft: Draft) -> tuple[float, ...]:
    assert draft.group.teaching is not None
    return draft.group.teaching.scores


def test_the_sentences_of_the_labelled_paragraph_come_first(corpus: Corpus, window: Window) -> None:
    """They are the labelled ones; the others are of other paragraphs, and none comes twice."""
    question = TrainingQuery("squad", "question", "where is the garden and the water", relevant=(7,))
    (draft,) = paragraph_drafts(corpus, [question], window, MIXES[0])
    group = draft.group
    assert group.labels == (1.0,) * 4 + (0.0,) * (SENTENCES - 4)
    assert group.teaching == Teaching((0.0,) * SENTENCES, MIXES[0].soft_weight, 1.0)
    body = corpus.texts[7].removeprefix(corpus.titles[7]).strip()
    assert set(group.documents[:4]) == set(sentences_of(body, 4, 60))
    assert not any(text in corpus.texts[7] for text in group.documents[4:])
    assert len(set(group.documents)) == SENTENCES


def test_numbers_are_masked_in_the_share_asked_for(corpus: Corpus, window: Window) -> None:
    """In all sentences of a question or in none; nothing else changes."""
    numbered = replace(corpus, texts=[text.replace(".", " 1,850.5.") for text in corpus.texts])
    question = TrainingQuery("squad", "question", "where is the garden and the water", relevant=(7,))

    def shown(masked: float) -> tuple[str, ...]:
        (draft,) = paragraph_drafts(numbered, [question], window, replace(MIXES[0], masked=masked))
        return draft.group.documents

    assert all(any(sign.isdigit() for sign in text) for text in shown(0.0))
    assert not any(sign.isdigit() for text in shown(1.0) for sign in text)


def test_a_judged_question_comes_with_one_right_sentence(corpus: Corpus, window: Window, tmp_path: Path) -> None:
    """First, among judged wrong ones only; a question without both kinds is left out."""
    folder = tmp_path / "squad" / "qrels"
    folder.mkdir(parents=True)
    rows = ["query-id\tcorpus-id\tscore", "a\t0\t1", *(f"a\t{row}\t0" for row in range(1, 5)), "b\t9\t1", "c\t9\t0"]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    queries = [f'{{"_id": "{name}", "text": "where is the cat"}}' for name in "abc"]
    (tmp_path / "squad" / "queries.jsonl").write_text("\n".join(queries))
    drafts = list(judged_drafts(tmp_path, corpus, window, MIXES[0]))
    assert len(drafts) == MIXES[0].draws
    assert all(draft.group.labels == (1.0, 0.0, 0.0, 0.0, 0.0) for draft in drafts)


def test_kept_queries_mix_in_the_first_pass(corpus: Corpus, window: Window) -> None:
    """Keywords get BM25's vote: the document that it likes best has the highest; questions less of it."""
    text = " ".join(PLAIN[:4])
    queries = [TrainingQuery("squad", "keywords", text), TrainingQuery("squad", "question", text)]
    votes = [_vote(draft) for draft in kept_drafts([corpus], queries, window, _kept(keywords=1, question=1))]
    assert [len(vote) for vote in votes] == [8, 8]
    assert np.ptp(votes[0]) > 2 * np.ptp(votes[1]) > 0


def test_a_frame_changes_what_is_shown_and_not_what_is_asked_for(corpus: Corpus, window: Window) -> None:
    """Targets come from the plain request."""
    queries = [TrainingQuery("squad", "request", " ".join(PLAIN[place : place + 4])) for place in range(20)]
    drafts = list(kept_drafts([corpus], queries, window, _kept(request=20)))
    assert {draft.group.query for draft in drafts} <= {query.text for query in queries}
    assert 3 < sum(bool(draft.shown) for draft in drafts) < 17
    assert all(len(draft.shown) > len(draft.group.query) for draft in drafts if draft.shown)
    assert framed("the red apple.", random.Random(1)) in {frame.format("the red apple") for frame in FRAMES}


def test_targets_are_the_models_own_logits_and_the_vote(tiny: CrossEncoder) -> None:
    """In the drafts' order; a framed query is shown and the plain one asked; weights stay."""
    rng = random.Random(4)

    def draft(length: int, shown: str) -> Draft:
        texts = tuple(" ".join(rng.choice(PLAIN) for _ in range(length)) + f" {place}" for place in range(3))
        teaching = Teaching((0.0, 1.0, 0.0), 0.5, 2.0)
        return Draft(Group("the cat", texts, (1.0, 0.0, 0.0), teaching=teaching), shown)

    drafts = [draft(length, shown) for length, shown in ((30, ""), (4, "I want the cat"), (17, ""), (9, ""))]
    made = list(with_targets(tiny, drafts))
    for one, group in zip(drafts, made, strict=True):
        (alone,) = taught([one.group], tiny)
        spread = statistics.stdev(alone.labels)
        expected = [logit + vote * spread for logit, vote in zip(alone.labels, _vote(one), strict=True)]
        assert group.teaching is not None
        assert group.teaching.scores == pytest.approx(expected, abs=1e-5)
        assert (group.teaching.weight, group.teaching.label_weight) == (0.5, 2.0)
        assert (group.documents, group.labels) == (one.group.documents, one.group.labels)
        assert group.query == (one.shown or "the cat")
