"""Rules of the recipe's second stage: which sentences are labelled, and whose opinion is kept."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipes.pocket.answers import (
    MIXES,
    SENTENCES,
    Draft,
    Mix,
    averaged,
    judged_drafts,
    kept_drafts,
    paragraph_drafts,
    with_targets,
)
from recipes.pocket.build import Encoder
from recipes.pocket.corpora import Corpus
from recipes.pocket.distill import Example, scored
from recipes.pocket.queries import FRAMES, TrainingQuery, framed, sentences_of
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
def encoder(tiny_folder: str, corpus: Corpus) -> Encoder:
    """The tokenizer of the tiny model over that corpus."""
    tokenizer = Tokenizer.from_str(AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer.to_str())
    return Encoder([corpus], tokenizer)


def _text(encoder: Encoder, ids: np.ndarray, types: np.ndarray) -> str:
    return encoder._tokenizer.decode([int(i) for i, kind in zip(ids, types, strict=True) if kind == 1])


def test_the_sentences_of_the_labelled_paragraph_come_first(corpus: Corpus, encoder: Encoder) -> None:
    """They are the labelled ones; the others are of other paragraphs, and none comes twice."""
    question = TrainingQuery("squad", "question", "where is the garden and the water", relevant=(7,))
    (draft,) = paragraph_drafts(corpus, [question], encoder, MIXES[0])
    example = draft.example
    assert example.relevant == list(range(4))
    assert len(example.ids) == SENTENCES == len(draft.vote)
    body = corpus.texts[7].removeprefix(corpus.titles[7]).strip()
    texts = [
        _text(encoder, ids, types).replace(" .", ".") for ids, types in zip(example.ids, example.types, strict=True)
    ]
    assert {text for text in texts[:4]} == set(sentences_of(body, 4, 60))
    assert not any(text in corpus.texts[7] for text in texts[4:])
    assert len(set(texts)) == SENTENCES


def test_numbers_are_masked_in_the_share_asked_for(corpus: Corpus, encoder: Encoder) -> None:
    """In all sentences of a question or in none; nothing else changes."""
    numbered = replace(corpus, texts=[text.replace(".", " 1,850.5.") for text in corpus.texts])
    question = TrainingQuery("squad", "question", "where is the garden and the water", relevant=(7,))

    def shown(masked: float) -> list[str]:
        (draft,) = paragraph_drafts(numbered, [question], encoder, replace(MIXES[0], masked=masked))
        return [_text(encoder, *pair) for pair in zip(draft.example.ids, draft.example.types, strict=True)]

    assert all(any(sign.isdigit() for sign in text) for text in shown(0.0))
    assert not any(sign.isdigit() for text in shown(1.0) for sign in text)


def test_a_judged_question_comes_with_one_right_sentence(corpus: Corpus, encoder: Encoder, tmp_path: Path) -> None:
    """First, among judged wrong ones only; a question without both kinds is left out."""
    folder = tmp_path / "squad" / "qrels"
    folder.mkdir(parents=True)
    rows = ["query-id\tcorpus-id\tscore", "a\t0\t1", *(f"a\t{row}\t0" for row in range(1, 5)), "b\t9\t1", "c\t9\t0"]
    (folder / "train.tsv").write_text("\n".join(rows) + "\n")
    queries = [f'{{"_id": "{name}", "text": "where is the cat"}}' for name in "abc"]
    (tmp_path / "squad" / "queries.jsonl").write_text("\n".join(queries))
    drafts = judged_drafts(tmp_path, corpus, encoder, MIXES[0])
    assert len(drafts) == MIXES[0].draws
    assert all(draft.example.relevant == [0] and len(draft.example.ids) == 5 for draft in drafts)


def test_kept_queries_mix_in_the_first_pass(corpus: Corpus, encoder: Encoder) -> None:
    """Keywords get BM25's vote: the document that it likes best has the highest; questions less of it."""
    text = " ".join(PLAIN[:4])
    queries = [TrainingQuery("squad", "keywords", text), TrainingQuery("squad", "question", text)]
    votes = [draft.vote for draft in kept_drafts([corpus], queries, encoder, _kept(keywords=1, question=1))]
    assert [len(vote) for vote in votes] == [8, 8]
    assert np.ptp(votes[0]) > 2 * np.ptp(votes[1]) > 0


def test_a_frame_changes_what_is_shown_and_not_what_is_asked_for(corpus: Corpus, encoder: Encoder) -> None:
    """Targets come from the plain request."""
    queries = [TrainingQuery("squad", "request", " ".join(PLAIN[place : place + 4])) for place in range(20)]
    drafts = kept_drafts([corpus], queries, encoder, _kept(request=20))
    framed_ones = [draft for draft in drafts if len(draft.example.ids[0]) > len(draft.read[0][0])]
    assert 3 < len(framed_ones) < 17
    assert framed("the red apple.", random.Random(1)) in {frame.format("the red apple") for frame in FRAMES}


def test_targets_are_the_models_own_logits_and_the_vote(tiny_folder: str) -> None:
    """In the drafts' order, though like lengths are scored together; the model itself is left alone."""
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    rng = random.Random(4)

    def draft(length: int) -> Draft:
        ids = [np.asarray([2, *(rng.randrange(10, 80) for _ in range(length)), 3], np.int32) for _ in range(3)]
        types = [np.zeros(len(row), np.int32) for row in ids]
        return Draft(Example(ids, types, [], []), (ids, types), np.asarray([0.0, 1.0, 0.0], np.float32))

    drafts = [draft(length) for length in (30, 4, 17, 9)]
    made = with_targets(model, drafts, torch.float32)
    for one, example in zip(drafts, made, strict=True):
        with torch.no_grad():
            alone = scored(model, [one.example], torch.float32)
        expected = alone.numpy() + one.vote * float(alone.std())
        assert example.targets == pytest.approx(expected.tolist(), abs=1e-5)
        assert example.ids is one.example.ids


def test_rounds_are_averaged_weight_by_weight() -> None:
    """The mean in float32, whatever the rounds computed in."""
    states = [{"w": torch.tensor([1.0, 2.0]).bfloat16()}, {"w": torch.tensor([2.0, 4.0])}]
    assert averaged(states)["w"].tolist() == [1.5, 3.0]
