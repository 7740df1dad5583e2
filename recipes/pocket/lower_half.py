"""The third stage: three more trainings, whose changes of the lower half of the network are added up.

Two of them raised trecqa or lisa and cost as much elsewhere (cacm, time); the third made all requests worse, so a
part of its change is subtracted. Taken in the embeddings and the first three layers alone, the changes raise trecqa
and lisa and cost little: what a layer far from the head reads in a text changes, and not how the head weighs it
(surgical fine-tuning, Lee et al. 2022, https://arxiv.org/abs/2210.11466; sums and differences of changes, Ilharco et
al. 2022, https://arxiv.org/abs/2212.04089).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from recipes.pocket.answers import VOTES, Mix, judged_sentences
from recipes.pocket.corpora import Corpus
from secondpass.training import Group, TrainingSettings
from secondpass.training.weights.layers import layers_of

# Of the six layers those whose changes are taken, with the embeddings.
LOWER_LAYERS = 3

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


# One pass over the judged sentences; about a minute.
JUDGED = TrainingSettings(loss="info_nce", epochs=1, learning_rate=2e-5)


def judged_groups(data: Path, trecqa: Corpus, seed: int = 1) -> list[Group]:
    """TREC-QA's train questions, `DRAWS` times each: a sentence that answers, and judged ones that do not."""
    rng = random.Random(seed)
    made = [
        Group(query=question, documents=tuple(sentences), labels=(1.0, *(0.0 for _ in sentences[1:])))
        for question, sentences in judged_sentences(data, trecqa, DRAWS, rng)
    ]
    rng.shuffle(made)
    return made


def lower_half(model: Any) -> set[str]:
    """Names of the weights of the embeddings and the first three layers."""
    layers = layers_of(model)
    return {name for name, layer in layers.numbers.items() if layer <= min(LOWER_LAYERS, layers.count)}
