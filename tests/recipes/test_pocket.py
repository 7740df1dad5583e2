"""Rules of the recipe that makes the embedded model."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipes.pocket.distill import Example, Settings, epoch_batches, loss, scored, train
from recipes.pocket.evaluate import runs_folder
from recipes.pocket.finish import write_folder
from recipes.pocket.student import logits, pack
from recipes.pocket.vocabulary import SPECIAL, kept_tokens, trim_embeddings, trimmed_tokenizer
from secondpass import CrossEncoder

ROWS = [np.asarray([2, *range(10, 10 + n), 3], np.int32) for n in (4, 30, 1, 17)]
TYPES = [np.asarray([0] * 3 + [1] * (len(row) - 3), np.int32) for row in ROWS]


def _model(folder: str) -> torch.nn.Module:
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    return model.eval()


def _reference(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [
                model(input_ids=torch.tensor(row)[None].long(), token_type_ids=torch.tensor(types)[None].long()).logits[
                    0
                ]
                for row, types in zip(ROWS, TYPES, strict=True)
            ]
        )


def test_the_training_forward_equals_transformers(tiny_folder: str) -> None:
    """Packed tokens and a last layer for the first token only change no logit."""
    model = _model(tiny_folder)
    assert torch.allclose(logits(model, pack(ROWS, TYPES, torch.float32)), _reference(model), atol=1e-5)


def _examples(count: int) -> list[Example]:
    rng = random.Random(3)
    made = []
    for _ in range(count):
        ids = [
            np.asarray([2, *(rng.randrange(10, 80) for _ in range(rng.randint(3, 20))), 3], np.int32) for _ in range(4)
        ]
        targets = [float((row == row.max()).argmax()) for row in ids]
        made.append(Example(ids, [np.zeros(len(row), np.int32) for row in ids], targets, [int(np.argmax(targets))]))
    return made


SETTINGS = Settings(steps=12, tokens_per_step=200, save_every=6, learning_rate=1e-3)


def test_training_lowers_the_loss(tiny_folder: str, tmp_path: Path) -> None:
    """The loop learns what its targets say."""

    def total(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(loss(scored(model, made, torch.float32), made))

    made = _examples(40)
    model = _model(tiny_folder)
    before = total(model)
    train(model, made, replace(SETTINGS, steps=60), tmp_path)
    assert total(model) < 0.8 * before


def test_a_stopped_run_ends_where_an_uninterrupted_one_does(tiny_folder: str, tmp_path: Path) -> None:
    """Weights, moments and the place in the data travel in the checkpoint: bit-equal on a CPU."""
    made = _examples(40)
    whole, stopped = _model(tiny_folder), _model(tiny_folder)
    train(whole, made, SETTINGS, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(step: int) -> None:
        if step == 8:
            raise Killed

    with pytest.raises(Killed):
        train(stopped, made, SETTINGS, tmp_path / "stopped", watch=kill)
    resumed = _model(tiny_folder)
    train(resumed, made, SETTINGS, tmp_path / "stopped")
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_number() -> None:
    """Hardly an example is left out of an epoch (only what does not fill a batch), none comes twice."""
    made = _examples(100)
    first = epoch_batches(made, SETTINGS, 0)
    seen = [index for batch in first for index in batch]
    assert len(seen) == len(set(seen)) > 90
    assert first == epoch_batches(made, SETTINGS, 0)
    assert first != epoch_batches(made, SETTINGS, 1)


def test_the_smaller_vocabulary_reads_the_same_words(tiny_folder: str, tmp_path: Path) -> None:
    """Kept words keep their vectors, lost words fall apart into kept pieces, the template stays."""
    full = Tokenizer.from_str(AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer.to_str())
    tokens = kept_tokens(full, ["the cat sat on the mat"] * 3 + ["zebra"], len(full.get_vocab()) - 12, general=10)
    small = trimmed_tokenizer(full, tokens)
    assert set(SPECIAL) < set(tokens)
    text = "the cat sat on the mat"
    assert small.encode(text).tokens == full.encode(text).tokens
    assert len(small.get_vocab()) == len(tokens) < len(full.get_vocab())
    model = _model(tiny_folder)
    before = model.get_input_embeddings().weight[full.token_to_id("cat")].clone()
    trim_embeddings(model, full, tokens)
    assert torch.equal(model.get_input_embeddings().weight[small.token_to_id("cat")], before)


def test_the_finished_folder_recommends_the_fast_path(tiny_folder: str, tmp_path: Path) -> None:
    """config.json says so, and the folder loads."""
    model, source = _model(tiny_folder), Path(tiny_folder)
    write_folder(model, source / "tokenizer.json", tmp_path)
    encoder = CrossEncoder(str(tmp_path), device="cpu")
    assert encoder.precision == "auto"
    given = encoder.predict([("the cat", "the mat")], activation_fct=torch.nn.Identity())
    expected = CrossEncoder(tiny_folder, device="cpu").predict(
        [("the cat", "the mat")], activation_fct=torch.nn.Identity()
    )
    assert given == pytest.approx(expected, abs=0.1)


def test_runs_of_other_weights_or_another_precision_are_not_continued(tmp_path: Path) -> None:
    """The folder's name alone says nothing about what was measured."""
    model = tmp_path / "pocket"
    model.mkdir()
    weights = model / "model.safetensors"
    weights.write_bytes(b"one")
    first = runs_folder(tmp_path, model, fast=True)
    assert first == runs_folder(tmp_path, model, fast=True)
    assert first != runs_folder(tmp_path, model, fast=False)
    weights.write_bytes(b"two")
    assert first != runs_folder(tmp_path, model, fast=True)
