"""The third stage: three more trainings, whose changes of the lower half of the network are added up.

Two of them raised trecqa or lisa and cost as much elsewhere (cacm, time); the third made all requests worse, so a
part of its change is subtracted. Taken in the embeddings and the first three layers alone, the changes raise trecqa
and lisa and cost little: what a layer far from the head reads in a text changes, and not how the head weighs it
(surgical fine-tuning, Lee et al. 2022, https://arxiv.org/abs/2210.11466; sums and differences of changes, Ilharco et
al. 2022, https://arxiv.org/abs/2212.04089).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from recipes.pocket.answers import VOTES, Mix, judged_sentences
from recipes.pocket.corpora import Corpus
from secondpass import CrossEncoder
from secondpass.training import Group, TrainingSettings, train

LOWER = ("bert.embeddings.", *(f"bert.encoder.layer.{number}." for number in range(3)))

# SQuAD's sentences, half of them without their numbers.
MASKED = Mix(
    53,
    26,
    10_000,
    16,
    {"question": 300, "title": 250, "keywords": 450, "request": 1000, "claim": 300},
    VOTES,
    0.2,
    masked=0.5,
    learning_rate=4e-5,
)
# Requests and keywords with so loud a vote of BM25 that the rankings get worse: what to stay away from.
VOTED = Mix(
    61,
    15,
    0,
    0,
    {"question": 150, "title": 150, "keywords": 500, "request": 900, "claim": 100},
    {**VOTES, "request": 1.1, "keywords": 0.9},
    0.2,
)
DRAWS = 6
JUDGED_SHARE, MASKED_SHARE, VOTED_SHARE = 1.0, 1.0, -0.25


@dataclass(frozen=True)
class Change:
    """Weights after a training, and how much of what it changed is taken."""

    trained: Mapping[str, Tensor]
    share: float


def judged_groups(data: Path, trecqa: Corpus, seed: int = 1) -> list[Group]:
    """TREC-QA's train questions, `DRAWS` times each: a sentence that answers, and judged ones that do not."""
    rng = random.Random(seed)
    made = [
        Group(query=question, documents=tuple(sentences), labels=(1.0, *(0.0 for _ in sentences[1:])))
        for question, sentences in judged_sentences(data, trecqa, DRAWS, rng)
    ]
    rng.shuffle(made)
    return made


def trained_on_judgements(start: Path, groups: list[Group]) -> dict[str, Tensor]:
    """The weights of `start` after one pass over `groups`; about a minute."""
    model = CrossEncoder(str(start), device="cpu")
    settings = TrainingSettings(loss="info_nce", epochs=1, learning_rate=2e-5)
    train(model, groups, settings, show_progress_bar=False)
    return {name: weight.float() for name, weight in model.model.state_dict().items()}


def with_lower_changes(start: Mapping[str, Tensor], *changes: Change) -> dict[str, Tensor]:
    """`start` plus each change's share, in the lower half alone."""
    made = {}
    for name, weight in start.items():
        changed = weight.clone()
        if name.startswith(LOWER) and weight.is_floating_point():
            for change in changes:
                changed += change.share * (change.trained[name] - weight)
        made[name] = changed
    return made
