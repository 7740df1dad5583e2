"""Rules of folding a bi-encoder into a cross-encoder: texts by themselves, their cosine as the score, what is held."""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from recipes.pocket.build import samples
from recipes.pocket.finish import WORD_BITS, bits_of, round_words
from recipes.pocket.folding import Marks, Sample, fold, hold_words, keep
from secondpass.models.building import compressed, expanded
from tests.tiny_models import WORDS, make_folder

WORTH = 20.0
WIDTH, HEADS, LAYERS = 64, 4, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bi-encoder whose words differ in few directions, as those of trained ones do, and have no common offset."""
    sizes = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 2 * WIDTH}
    folder = make_folder(tmp_path_factory.mktemp("folding"), "bert", num_hidden_layers=LAYERS, **sizes)
    model, draw = _model(folder), torch.Generator().manual_seed(2)
    with torch.no_grad():
        words, *others = (
            table.weight for table in model.bert.embeddings.children() if hasattr(table, "num_embeddings")
        )
        words.copy_(torch.randn(len(words), 12, generator=draw) @ torch.randn(12, WIDTH, generator=draw) * 0.3)
        for table in others:
            table.mul_(0.1)
        for table in (words, *others):
            table.sub_(table.mean(1, keepdim=True))
        for layer in model.bert.encoder.layer:
            for dense in (layer.attention.output.dense, layer.output.dense):
                dense.weight.sub_(dense.weight.mean(0, keepdim=True)).mul_(0.3)
                dense.bias.sub_(dense.bias.mean())
    model.save_pretrained(folder)
    return folder


def _texts(seed: int, count: int, words: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words + rng.randint(-1, 1))) for _ in range(count)]


def _model(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).eval()


def _samples(folder: Path, seed: int) -> list[Sample]:
    return samples(folder / "tokenizer.json", _texts(seed, 200, 6), _texts(seed + 1, 200, 30), seed, 64)


@pytest.fixture(scope="module")
def folded(folder: Path) -> tuple[Any, Marks]:
    """The model with one layer more, and its marks."""
    model = _model(folder)
    return model, fold(model, _samples(folder, 1), WORTH)


@torch.no_grad()
def _logit(model: Any, sample: Sample) -> float:
    return float(model(sample.ids, token_type_ids=sample.types).logits)


@torch.no_grad()
def _cosine(model: Any, sample: Sample) -> float:
    """Of the means of both texts, each read by itself where it stands in the pair."""
    kinds = sample.types[0]
    apart = (sample.types[:, :, None] == sample.types[:, None, :])[:, None]
    states = model.bert(sample.ids, token_type_ids=torch.zeros_like(sample.ids), attention_mask=apart)[0][0]
    return float(torch.nn.functional.cosine_similarity(states[kinds == 0].mean(0), states[kinds == 1].mean(0), 0))


def test_logits_are_the_bi_encoders_cosines(folder: Path, folded: tuple[Any, Marks]) -> None:
    """Of pairs that folding has not seen: in their order, and worth as much."""
    new, plain = _samples(folder, 11), _model(folder)
    logits = np.array([_logit(folded[0], sample) for sample in new])
    cosines = np.array([_cosine(plain, sample) for sample in new])
    assert np.corrcoef(logits, cosines)[0, 1] > 0.8
    slope = np.polyfit(cosines, logits, 1)[0]
    assert WORTH / 2 < slope < WORTH * 2


def test_a_text_is_read_by_itself(folder: Path, folded: tuple[Any, Marks]) -> None:
    """Another query changes little of a document's states before the last layer, and much without marks."""
    new, plain = _samples(folder, 21)[:40], _model(folder)
    moved = {"folded": 0.0, "plain": 0.0}
    for name, model in (("folded", folded[0]), ("plain", plain)):
        for sample in new:
            other = sample.ids.clone()
            inside = (sample.types == 0) & (torch.arange(sample.ids.shape[1]) > 0)
            other[inside] = other[inside].roll(1)
            states = []
            for ids in (sample.ids, other):
                with torch.no_grad():
                    made = model(ids, token_type_ids=sample.types, output_hidden_states=True).hidden_states[LAYERS]
                states.append(made[sample.types == 1])
            moved[name] += float((states[0] - states[1]).square().mean() / states[0].var())
    assert moved["folded"] < moved["plain"] / 3


def test_marks_say_whose_a_token_is(folder: Path, folded: tuple[Any, Marks]) -> None:
    """Through all layers before the last: one size for its own text, next to nothing for the other and the first."""
    model, marks = folded
    for sample in _samples(folder, 31)[:20]:
        with torch.no_grad():
            states = model(sample.ids, token_type_ids=sample.types, output_hidden_states=True).hidden_states[:-1]
        for made in states:
            query, document = made[0][:, marks.query], made[0][:, marks.document]
            own = torch.cat([query[1:][sample.types[0][1:] == 0], document[sample.types[0] == 1]])
            none = torch.cat([query[sample.types[0] == 1], document[sample.types[0] == 0], query[:1]])
            assert own.min() > 4 * none.abs().max()


def test_training_leaves_marks_gates_and_words(folder: Path, folded: tuple[Any, Marks]) -> None:
    """And moves everything else."""
    model, marks = deepcopy(folded[0]), folded[1]
    keep(model, marks)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.0)
    # the last layer's queries have no gradient before its keys have moved
    for sample in _samples(folder, 41)[:4]:
        model(sample.ids, token_type_ids=sample.types).logits.square().sum().backward()
        optimizer.step()
    after = model.state_dict()
    size = WIDTH // HEADS
    held = torch.tensor([end - back for end in range(size, WIDTH + 1, size) for back in (2, 1)])
    both = torch.tensor(marks.both)
    for name, weight in after.items():
        moved = weight != before[name]
        if name.endswith("word_embeddings.weight"):
            assert not moved.any()
            continue
        assert moved.any(), name
        if f".layer.{LAYERS}." not in name and (".query." in name or ".key." in name):
            assert not moved[held].any(), name
        if f".layer.{LAYERS}." not in name and ".output." in name:
            assert not moved[both].any(), name
        if "position_embeddings" in name or "token_type" in name:
            assert not moved[:, both].any(), name


def test_words_are_rounded_before_training(folder: Path) -> None:
    """To what is read back of the stored file; all else stays, and rounded once more nothing changes."""
    model = _model(folder)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    round_words(model)
    after = {name: weight.clone() for name, weight in model.state_dict().items()}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["bert.embeddings.word_embeddings.weight"]
    bits = bits_of(after)
    assert bits[changed[0]] == WORD_BITS
    assert torch.equal(expanded(compressed(after, bits))[changed[0]], after[changed[0]])
    hold_words(model)
    assert [name for name, weight in model.named_parameters() if not weight.requires_grad] == changed
